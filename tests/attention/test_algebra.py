"""Queries added up: the texts by hand, the numbers by NumPy, round trips and linearity by properties."""

import numpy as np
import pytest
import torch
from fake_features import B, close, complaint, few, quick, two_photos
from hypothesis import given
from hypothesis import strategies as st

from attnvis.attention.dot_product import attend
from attnvis.attention.grammar import split_texts
from attnvis.attention.query import tree
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import format_function
from attnvis.types import Scores


def scores(text, features):
    (result,) = build_queries(parse(text), features)
    keys = features.tokens if result.keys is None else result.keys
    return Scores(result.vectors, keys).products


# Texts


@pytest.mark.parametrize(
    "typed, written",
    [
        ("class:tabby - 0.5*point:120,80", "class:tabby - 0.5*point:120,80"),
        ("tabby - lynx", "class:tabby - class:lynx"),
        ("tabby-class:lynx", "class:tabby - class:lynx"),
        ("tabby+lynx", "class:tabby + class:lynx"),
        ("tabby-2*lynx", "class:tabby - 2*class:lynx"),
        ("2*3*mean", "6*mean"),
        ("mean*2", "2*mean"),
        ("2*(mean*0.5)", "mean"),
        ("-(a + b)*2", "-2*(class:a + class:b)"),
        ("a - (b - c)", "class:a - (class:b - class:c)"),
        ("(a + b) + c", "class:a + class:b + class:c"),
        ("- - mean", "mean"),
        ("(tabby)", "class:tabby"),
        ("281 - 1*class:282", None),
        ("class:281-class:282", "class:281 - class:282"),
        ("mean(tabby,lynx)", "mean(class:tabby, class:lynx)"),
        ("mean( point:120,80 , class:tabby )", "mean(point:120,80, class:tabby)"),
        ("mean(point:120,80,0.5*random:3)", "mean(point:120,80, 0.5*random:3)"),
        ("mean(box:1,2,3,4, pca(centred=false))", "mean(box:1,2,3,4, pca:1,False)"),
        ("mean() + mean", "mean + mean"),
        ("orthogonal(class:tabby, mean)", "orthogonal(class:tabby, mean)"),
        ("normalize( tabby )", "normalise(class:tabby)"),
        ("context(context(mean))", "context(context(mean))"),
        ("wire-haired fox terrier - Siamese cat", "class:wire-haired fox terrier - class:Siamese cat"),
        ("jack-o'-lantern + mean", "class:jack-o'-lantern + mean"),
        ('class:"crane, bird" - mean', 'class:"crane, bird" - mean'),
        ("'a + b' - mean", 'class:"a + b" - mean'),
        ("class:teddy, teddy bear", "class:teddy, teddy bear"),
        ("point:-5,-3 - mean", "point:-5,-3 - mean"),
        ("1e-3*mean+2.5e2*norm", "0.001*mean + 250*norm"),
        ("class:[tabby,lynx] - mean", "class:[tabby,lynx] - mean"),
        ("class:predicted#1 - class:predicted#2", "class:predicted#1 - class:predicted#2"),
        ("exemplar:a/b.jpg,1,2,3,4 - mean", "exemplar:a/b.jpg,1,2,3,4 - mean"),
        ('exemplar:"a + b.jpg" - mean', 'exemplar:"a + b.jpg" - mean'),
        ("кот - собака", "class:кот - class:собака"),
    ],
)
def test_a_formula_is_written_in_full_and_read_again(typed, written):
    if written is None:  # a number is no class
        assert "column 1: a number stands before a *" in complaint(ValueError, parse, typed)
        return
    assert format_function(parse(typed)) == written
    assert format_function(parse(written)) == written


WRONG = [  # text, column, what is said of it
    ("tabby -", 8, "it ends too early; there could stand a number, a query such as class:tabby"),
    ("tabby +", 8, "it ends too early"),
    ("2*", 3, "it ends too early"),
    ("(tabby", 7, "it ends too early; there could stand ), -, +"),
    ("mean(", 6, "it ends too early"),
    ("mean(tabby", 11, "it ends too early"),
    ("mean(tabby,", 12, "it ends too early"),
    ("orthogonal(a,", 14, "it ends too early"),
    ("tabby)", 6, "')' cannot stand here; there could stand -, +, the end"),
    ("(tabby))", 8, "')' cannot stand here"),
    ("tabby - * 2", 9, "'*' cannot stand here; there could stand a number"),
    ("tabby ++ lynx", 8, "'+' cannot stand here"),
    ("* tabby", 1, "'*' cannot stand here"),
    ("+ tabby", 1, "'+' cannot stand here"),
    ("a - , b", 5, "',' cannot stand here"),
    ("class:teddy, bear - a", 12, 'a name with a comma goes in quotes, class:"crane, bird"'),
    ("(a, b)", 3, "',' cannot stand here"),
    ("() + mean", 2, "')' cannot stand here"),
    ("mean(,a)", 6, "',' cannot stand here"),
    ("mean(a b, ) + c", 11, "')' cannot stand here"),
    ("mean - 'half", 8, "cannot stand here"),
    ("mean - =", 8, "'=' cannot stand here"),
    ("mean - [a]", 8, "'[' cannot stand here"),
    ("2 + mean", 1, "a number stands before a * and a query, as in 2*mean; a class by its index is class:2"),
    ("mean + 2", 8, "a class by its index is class:2"),
    ("mean - 1.5", 8, "a number stands before a *"),
    ("(2)", 2, "a number stands before a *"),
    ("2*3 - mean", 1, "a number stands before a *"),
    ("mean(1, tabby)", 6, "a number stands before a *"),
    ("1e999*mean", 1, "1e999 is too large a number"),
    ("tabby*lynx", 7, "two queries are not multiplied"),
    ("2*(a*b)", 6, "two queries are not multiplied"),
    ("orthogonal(a)", 1, "orthogonal(a, b) takes two, not 1"),
    ("orthogonal(a,b,c)", 1, "orthogonal(a, b) takes two, not 3"),
    ("mean - normalise(a,b)", 8, "normalise(a) takes one, not 2"),
    ("context(a, b)", 1, "context(a) takes one, not 2"),
    ("point:1 - mean", 1, "it is written point:x,y"),
    ("mean - pont:1,2", 8, "did you mean point?"),
    ("mean - 2*pca:x", 10, "component must be a whole number, not 'x'"),
    ("mean + norm:3", 8, "norm takes no settings"),
    ("mean - several:a", 8, "several are written with commas"),
    ("(" * 60 + "mean", 41, "more than 40 parentheses"),
]


@pytest.mark.parametrize("text, column, said", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_with_its_column(text, column, said):
    message = complaint(ValueError, parse, text)
    assert repr(text) in message and f"column {column}: " in message and said in message, message


def test_there_are_forty_wrong_texts():
    assert len(WRONG) >= 40


NAMES = st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1).map(str.strip)
TERMS = st.one_of(
    st.sampled_from(["mean", "class", "rarity", "pca:1,False", "class:[a,b]", "random:3,2", "norm"]),
    NAMES.filter(lambda name: name and name[0] not in "\"'").map("class:{}".format),
    st.tuples(st.integers(-99, 999), st.floats(-9, 9)).map(lambda pair: f"point:{pair[0]},{pair[1]:.3f}"),
).map(tree.Term)


FACTORS = st.floats(-1e6, 1e6).filter(lambda number: number not in (0, 1))


def trees(inner):
    return st.one_of(
        st.tuples(FACTORS, inner.filter(lambda node: not isinstance(node, tree.Sum))).map(
            lambda part: tree.Sum((part,))
        ),
        st.lists(
            st.tuples(FACTORS | st.just(1.0), inner.filter(lambda node: not isinstance(node, tree.Sum))),
            min_size=2,
            max_size=3,
        ).map(lambda parts: tree.Sum(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda nodes: tree.Call("mean", tuple(nodes))),
        st.tuples(inner, inner).map(lambda nodes: tree.Call("orthogonal", nodes)),
        inner.map(lambda node: tree.Call("normalise", (node,))),
    )


@given(st.recursive(TERMS, trees, max_leaves=6).filter(lambda node: not isinstance(node, tree.Term)))
@quick
def test_every_tree_is_written_so_that_it_is_read_as_itself(node):
    text = tree.write(node)
    assert tree.is_formula(text)
    again = tree.renamed(tree.read(text), tree.without_quotes)
    assert again == node, text
    assert split_texts(f"{text},mean", ("mean",)) == [text, "mean"] or '"' in text


@given(st.text("abmen()+-*.,:'\"[]12 =", max_size=30))
@quick
def test_any_text_is_read_or_refused_in_one_line(text):
    written = spelled(text)
    if written is not None and tree.is_formula(text):
        assert spelled(written) == written


def spelled(text):
    """A text as it is written; None for one that is refused, in one line."""
    try:
        return format_function(parse(text))
    except ValueError as error:
        message = str(error)
    assert "\n" not in message
    return None


def test_without_blanks_a_hyphen_is_part_of_a_name_and_that_is_said():
    message = complaint(ValueError, build_queries, parse("tabby-bee"), two_photos())
    assert "unknown class 'tabby-bee'" in message and "a minus has a blank on each side: a - b" in message


# Numbers


@given(
    factors=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).map(lambda pair: [round(k, 3) for k in pair]),
    terms=st.tuples(
        *[st.sampled_from(["mean", "class:bee", "point:40,30", "rarity", "norm", "pca", "gem"])] * 2
    ),
)
@few
def test_scores_are_linear_in_the_queries_even_where_keys_differ(factors, terms):
    features = two_photos()
    (k, m), (a, b) = factors, terms
    expected = k * scores(a, features) + m * scores(b, features)
    close(scores(f"{k:f}*{a} + {m:f}*{b}", features), expected)
    close(scores(f"{k:f}*({a} - {b})", features), k * scores(a, features) - k * scores(b, features))


def test_orthogonal_and_normalise_are_what_numpy_says():
    features = two_photos()
    q, against = (build_queries(parse(text), features)[0].vectors.numpy() for text in ("class:bee", "mean"))
    unit = against / np.linalg.norm(against, axis=-1, keepdims=True)
    expected = q - (q * unit).sum(-1, keepdims=True) * unit
    (result,) = build_queries(parse("orthogonal(class:bee, mean)"), features)
    close(result.vectors, torch.from_numpy(expected))
    assert result.labels == (("orthogonal(bee, mean)",),) * B
    (result,) = build_queries(parse("normalise(class:bee)"), features)
    close(result.vectors, torch.from_numpy(q / np.linalg.norm(q, axis=-1, keepdims=True)))


def test_context_is_the_context_of_the_attention_under_the_square_root_of_d():
    features = two_photos()
    (start,) = build_queries(parse("point:40,30"), features)
    (result,) = build_queries(parse("context(point:40,30)"), features)
    close(result.vectors, attend(start.vectors, features.tokens).context)
    assert result.marks == start.marks


def test_a_vector_of_nothing_has_no_direction_and_takes_nothing_away():
    features = two_photos()
    close(scores("normalise(mean - mean)", features), torch.zeros(B, 1, features.tokens.shape[1]).double())
    close(scores("orthogonal(class:bee, mean - mean)", features), scores("class:bee", features))
    (nothing,) = build_queries(parse("orthogonal(3*mean, mean)"), features)
    assert (nothing.vectors == 0).all(), "what is left is rounding, and no question"


def test_terms_of_several_queries_go_side_by_side_and_mean_makes_one():
    features = two_photos()
    several, other = (build_queries(parse(text), features)[0].vectors for text in ("random:1,3", "mean"))
    results = build_queries(parse("mean - 2*random:1,3"), features)
    close(torch.cat([result.vectors for result in results], 1), other - 2 * several)
    assert [result.labels[0][0] for result in results] == [f"mean - 2*random 1 #{n}" for n in (1, 2, 3)]
    (result,) = build_queries(parse("mean(random:1,3, mean)"), features)
    close(result.vectors, torch.cat([several, other], 1).mean(1, keepdim=True))
    message = complaint(ValueError, build_queries, parse("random:1,3 - random:2,2"), features)
    assert "2 and 3 queries do not go together; mean(...) makes one" in message


@pytest.mark.parametrize(
    "text", ["normalise(rarity)", "orthogonal(mean, norm - mean)", "context(2*distance)"]
)
def test_what_has_keys_of_its_own_has_no_direction(text):
    assert "has keys of its own and is no vector of features" in complaint(
        ValueError, build_queries, parse(text), two_photos()
    )


def test_a_formula_keeps_the_mark_and_the_sign_margin_of_its_terms():
    features = two_photos()
    (result,) = build_queries(parse("mean - 0.5*point:40,31.5 + pca:2"), features)
    (alone,) = build_queries(parse("pca:2"), features)
    assert result.marks == ((31.5, 40.0),) and torch.equal(result.sign_margin, alone.sign_margin)
    assert result.text == "mean - 0.5*point:40,31.5 + pca:2"
    (of_two,) = build_queries(parse("mean(point:40,31.5, point:10,20)"), features)
    assert of_two.marks == (None,)  # a cross at one of them would mislead
