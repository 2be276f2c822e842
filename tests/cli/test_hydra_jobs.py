"""Several jobs of one command."""

from conftest import records


def test_a_sweep_has_a_folder_for_each_choice_and_outlives_one_that_fails(attnvis, cat):
    ended = attnvis(
        "run",
        "-m",
        "cat.png",
        "query=class",
        "query.name=tabby,nosuchclass",
        "scaling=none,cosine",
        "render.panel=false",
    )
    assert ended.code == 1 and ended.err.count("unknown class 'nosuchclass'") == 2
    done = {(row["label"], row["scaling"]) for number in (0, 1) for row in records(f"out/{number}")}
    assert done == {("tabby", "none"), ("tabby", "cosine(tau=0.07)")}
