"""Queries of classes: against autograd, against one another, and by the names of ImageNet's classes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_features import CATEGORIES, B, close, complaint, normal, two_photos
from torch import nn

from attnvis.attention.query import several
from attnvis.attention.query.classes import class_groups
from attnvis.attention.query.language import build_queries, parse
from attnvis.backbone.class_files import class_names
from attnvis.backbone.heads import Gated, Gradient, Linear
from attnvis.types import Features, Head

BEE = CATEGORIES.index("bee")
exact = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)


def vectors(text: str, features: Features) -> torch.Tensor:
    (result,) = build_queries(parse(text), features)
    return result.vectors


def by_gradient(features: Features) -> Features:
    """The same classifier, of which nothing is known but what it says."""
    linear = features.head

    class Rest(nn.Module):
        def forward(self, maps):
            return linear.logits(maps)

    return replace(features, head=Gradient(Rest(), CATEGORIES), logits=None)


# what each query is the gradient of, by the logits u [B, C] of one photo
SCALARS = {
    "class:bee": lambda u: u[BEE],
    "contrast:bee": lambda u: u.log_softmax(0)[BEE],
    "rest:bee": lambda u: u[BEE] + u.log_softmax(0)[BEE],
    "log_odds:bee": lambda u: u.log_softmax(0)[BEE] - (-u.softmax(0)[BEE]).log1p(),
    "finer:bee,1,10": lambda u: u[BEE] - others(u).logsumexp(0),  # all the rivals
    "finer:bee,0.6,2": lambda u: u[BEE] - 0.6 * others(u).topk(2).values.logsumexp(0),
    "finer:bee,2,1": lambda u: u[BEE] - 2 * others(u).max(),
    "class:[bee,ant,3]": lambda u: u[[BEE, CATEGORIES.index("ant"), 3]].mean(),
    "mean(bee, ant)": lambda u: u[[BEE, CATEGORIES.index("ant")]].mean(),
    "class:predicted#2": lambda u: u.sort(descending=True).values[1],
    "contrast": lambda u: u.log_softmax(0).max(),
    "contrast:predicted#2": lambda u: u.log_softmax(0).sort(descending=True).values[1],
    "class:bee - class:predicted#1": lambda u: u[BEE] - u.max(),
}


def others(u: torch.Tensor) -> torch.Tensor:
    return torch.cat([u[:BEE], u[BEE + 1 :]])


@pytest.mark.parametrize("seen", [lambda features: features, by_gradient], ids=["linear", "gradient"])
def test_classes_asked_together_are_to_the_last_bit_what_each_is_alone(seen):
    features = seen(two_photos())
    texts = ["bee", "class:predicted:3", "class:[bee,ant]", "mean", "ant", "bee", "class:3", "predicted#2"]
    together = build_queries(partial(several, of=texts), features)
    alone = [query for text in texts for query in build_queries(parse(text), features)]
    assert len(together) == len(alone) == len(texts)
    for query, other in zip(together, alone):
        assert torch.equal(query.vectors, other.vectors)
        assert replace(query, vectors=other.vectors) == other
    logits = features.head.logits(features.maps).double()
    for photo, u in enumerate(logits):
        for score in together[1].classes[photo] + together[0].classes[photo]:
            logit, probability = u[score.index], u.softmax(0)[score.index]
            assert score.logit == pytest.approx(float(logit), rel=1e-6)
            assert score.probability == pytest.approx(float(probability), rel=1e-6)
            assert score.rank == 1 + int((u > logit).sum()) and score.name == CATEGORIES[score.index]
    assert [score.rank for score in together[1].classes[0]] == [1, 2, 3]
    with pytest.raises(ValueError, match="beee"):
        build_queries(partial(several, of=["bee", "beee"]), features)


def test_many_classes_are_asked_of_the_network_once():
    features = by_gradient(two_photos())
    passes = []
    features.head.rest.register_forward_hook(lambda *_: passes.append(1))
    build_queries(partial(several, of=["bee", "ant", "class:3"]), features)
    assert len(passes) == 1


@pytest.mark.parametrize("text", SCALARS)
@pytest.mark.parametrize("seen", [lambda features: features, by_gradient], ids=["linear", "gradient"])
def test_a_query_is_the_gradient_that_autograd_gives(text, seen):
    features = two_photos()
    mean = features.mean.clone().requires_grad_()
    scalar = sum(SCALARS[text](row) for row in features.head(mean))
    (expected,) = torch.autograd.grad(scalar, mean)
    exact(vectors(text, seen(features))[:, 0], expected)


def test_log_odds_is_finer_with_all_its_rivals():
    exact(vectors("log_odds:ant", two_photos()), vectors("finer:ant,1,99", two_photos()))


def test_the_mean_score_of_a_contrast_is_the_difference_of_the_logits_without_the_biases():
    features = two_photos()
    scores = (vectors("class:bee - class:ant", features) @ features.tokens.mT).mean(-1)[:, 0]
    logits = features.logits - features.head.bias
    close(scores, logits[:, BEE] - logits[:, CATEGORIES.index("ant")])


def test_a_head_of_gates_gives_the_rows_before_them():
    features = two_photos()
    gated = replace(features, head=Gated(features.head.weight, features.head.bias, CATEGORIES))
    close(vectors("class:[bee,ant]", gated), vectors("class:[bee,ant]", features))


def test_the_likeliest_classes_are_queries_in_their_order():
    features = two_photos()
    (result,) = build_queries(parse("class:predicted:3"), features)
    order = features.logits.argsort(1, descending=True)[:, :3]
    close(result.vectors, features.head.weight[order])
    assert [[score.rank for score in photo] for photo in result.classes] == [[1, 2, 3]] * B
    assert result.labels == tuple(tuple(CATEGORIES[index] for index in photo) for photo in order.tolist())


@pytest.mark.parametrize(
    "text, said",
    [
        ("class:predicted:12", "this backbone has the classes 1 ... 11, by their rank"),
        ("class:predicted#0", "this backbone has the classes 1 ... 11"),
        ("class:[]", "a list of classes is written class:[tabby,lynx]"),
        ("class:[bee,bea]", "unknown class 'bea'"),
        ("contrast:[bee,ant]", "contrast takes one class"),
        ("finer:predicted:2", "finer takes one class"),
        ("finer:bee,1,0", "finer needs at least 1 rival, not 0"),
        ("class:cat", "unknown class 'cat'"),  # these are not ImageNet's classes
    ],
)
def test_classes_that_mean_nothing_are_refused(text, said):
    assert said in complaint(ValueError, build_queries, parse(text), two_photos())


@pytest.mark.parametrize("text", ["contrast", "random_class:1", "class:[1,2]"])
def test_without_a_classifier_no_class_is_asked(text):
    assert "needs a classifier" in complaint(
        ValueError, build_queries, parse(text), replace(two_photos(), head=None)
    )


def imagenet(categories: tuple[str, ...] | None = None) -> tuple[Features, Head]:
    names = class_names("imagenet") if categories is None else categories
    features = two_photos()
    head = Linear(normal(1000, features.tokens.shape[2], seed=3), normal(1000, seed=4), names)
    return replace(features, head=head, logits=head(features.mean)), head


def test_a_group_is_the_mean_of_its_classes():
    features, head = imagenet()
    cats = [head.categories.index(name) for name in head.categories if name in CATS]
    close(vectors("class:cat", features)[0, 0], head.weight[cats].mean(0))
    close(vectors("cat", features), vectors(f"class:[{','.join(CATS)}]", features))
    (result,) = build_queries(parse("class:cat"), features)
    assert result.labels == (("cat (5 classes)",),) * B and result.classes == ()


CATS = ("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")


def test_every_group_is_of_imagenets_classes_and_none_is_called_as_a_class():
    names = [name.casefold() for name in class_names("imagenet")]
    for group, members in class_groups().items():
        assert len(members) == len(set(members)) and all(0 <= index < 1000 for index in members), group
        assert group == group.casefold() and group not in names
    members = {group: [names[index] for index in indices] for group, indices in class_groups().items()}
    assert members["big cat"][:2] == ["cougar", "lynx"] and len(members["dog"]) == 118
    assert "school bus" in members["bus"] and "daisy" in members["flower"]
    assert all(
        set(class_groups()[part]) <= set(class_groups()["animal"]) for part in ("dog", "bird", "insect")
    )


def test_a_class_goes_before_a_group_and_a_name_that_is_none_is_told_what_is_near():
    features, head = imagenet()
    close(vectors("class:tiger", features)[0, 0], head.weight[head.categories.index("tiger")])
    assert "Or the group dog?" in complaint(ValueError, build_queries, parse("dogg"), features)
    others_names = tuple(f"mine {number}" for number in range(1000))
    assert "unknown class 'cat'" in complaint(
        ValueError, build_queries, parse("cat"), imagenet(others_names)[0]
    )


def test_random_classes_have_the_mean_and_the_covariance_of_the_classes():
    features, head = imagenet()
    (result,) = build_queries(parse("random_class:0,4000"), features)
    draws = result.vectors[0]
    covariance = torch.cov(head.weight.T)
    assert (draws.mean(0) - head.weight.mean(0)).abs().max() < 4 * (covariance.diag().max() / 4000) ** 0.5
    assert (torch.cov(draws.T) - covariance).abs().max() < 0.12 * covariance.diag().max()
    close(result.vectors[0], result.vectors[1])


def test_random_patches_have_the_mean_and_the_covariance_of_the_photos_patches():
    features = two_photos()
    draws = vectors("random_patch:0,4000", features)
    for photo in range(B):
        covariance = torch.cov(features.tokens[photo].T)
        assert (draws[photo].mean(0) - features.tokens[photo].mean(0)).abs().max() < 0.1
        assert (torch.cov(draws[photo].T) - covariance).abs().max() < 0.12 * covariance.diag().max()
