"""`attnvis evaluate`: a folder of photos and boxes in, the table and its page out."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Page, make_photo

from attnvis.attention.query.language import parse
from attnvis.cli.commands.evaluate import LATER, begin
from attnvis.cli.studies import Work

BOX = (
    "<annotation><filename>{name}</filename><size><width>90</width><height>70</height><depth>3</depth></size>"
    "<object><name>thing</name><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>"
    "</object></annotation>"
)
SMALL = ("preprocess.size=96", "hydra.run.dir=out", "workers=1")


@pytest.fixture
def data(here):
    for number in range(3):
        make_photo(here / "data" / "images" / f"{number}.png", seed=number)
        file = here / "data" / "annotations" / f"{number}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(BOX.format(name=f"{number}.png"))
    (here / "data" / "images" / "1.png").write_bytes(b"no photo")
    return here / "data"


def test_a_data_set_becomes_a_table_in_the_terminal_in_files_and_on_a_page(attnvis, data):
    words = (
        "data",
        "metric=energy,mask_auc",
        "method=attention,gradcam,centre",
        "query=mean",
        "scaling=none,zscore",
    )
    ended = attnvis("evaluate", *words, "temperatures=[0.5,2]", *SMALL)
    assert ended.code == 1 and "1.png" in ended.err and "Traceback" not in ended.err
    assert "| row " in ended.out and "2 photos measured: out/index.html" in ended.out
    with Path("out/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["row"] for row in rows}
    assert names == {
        "mean none", "mean zscore", "mean at 0.5", "mean at 2", "gradcam", "centre", "mean (chosen)"
    }  # fmt: skip
    of_photos = pq.read_table("out/photos.parquet").to_pylist()
    energies = [row["value"] for row in of_photos if (row["row"], row["metric"]) == ("gradcam", "energy")]
    (told,) = [row for row in rows if (row["row"], row["metric"]) == ("gradcam", "energy")]
    assert len(energies) == 2 and float(told["value"]) == pytest.approx(sum(energies) / 2)
    page = Page(Path("out/index.html"))
    assert "energy: the best method is" in page.words and "1 photo failed" in page.words
    assert "mask_auc: no method has a better number than centre" in page.words
    assert "most disagreeing" in page.words and "mask_auc along the temperature" in page.source
    assert Path("out/table.tex").is_file() and Path("out/table.md").is_file()
    make_photo(data / "images" / "1.png", seed=1)
    Path("out/photos/000000.npz").unlink()
    again = attnvis("evaluate", "--resume", "out")
    assert again.code == 0 and "3 photos measured" in again.out
    after = {key_of(row): row["value"] for row in pq.read_table("out/photos.parquet").to_pylist()}
    assert len(after) == len(of_photos) * 3 // 2
    for row in of_photos:  # in a batch of other photos the network rounds otherwise
        kept = row["photo"] == "2.png"
        assert after[key_of(row)] == pytest.approx(row["value"], rel=0 if kept else 1e-3)


def test_an_evaluation_goes_on_only_with_the_files_of_its_queries(here):
    def left(values, resume):
        np.save("q.npy", values)
        maker = SimpleNamespace(queries={"q": parse("vector:q.npy")}, backbone=SimpleNamespace(digest="d"))
        settings = {"queries": ["vector:q.npy"], "backbone": {"categories": "names.txt"}, "levels": {}}
        work = Work(None, {}, None, maker, None, settings | LATER, None, 1)
        return begin(work, Names(("a.png",)), here, resume=resume)

    Path("names.txt").write_text("cat\ndog\n")
    assert left([1.0, 2.0], resume=False) == left([1.0, 2.0], resume=True) == [0]
    with pytest.raises(ValueError, match=r"was begun with other content of q\.npy"):
        left([1.0, 3.0], resume=True)
    Path("names.txt").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match=r"was begun with other content of names\.txt"):
        left([1.0, 2.0], resume=True)


class Names(tuple):
    """A data set of which only the names are asked."""

    @property
    def names(self):
        return tuple(self)


def key_of(row):
    return row["photo"], row["row"], row["metric"]


def test_mistakes_are_told_before_the_network_runs(attnvis, data):
    assert "metric nss needs fixations" in attnvis("evaluate", "data", "metric=nss", *SMALL).complaint
    assert "there is no data set nowhere" in attnvis("evaluate", "nowhere", *SMALL).complaint
    assert "unknown method 'gradcan'" in attnvis("evaluate", "data", "method=gradcan", *SMALL).complaint
    assert "attnvis evaluate was given no DATA" in attnvis("evaluate", *SMALL).complaint
    told = attnvis("evaluate", "data", "metric=deletion:substitute=blck", *SMALL).complaint
    assert "metric deletion:32,blck cannot be measured: substitute 'blck'; give mean, black, blur" in told
    assert not Path("out/photos").exists()


FEW = ("metric=energy", "scaling=none", "temperatures=[]", "examples=false")


def test_queries_look_at_photos_and_read_files_before_the_first_photo(attnvis, data):
    (data / "annotations" / "1.xml").unlink()
    np.save("v.npy", np.ones((1, 1280), np.float32))
    make_photo(Path("m.png"), (70, 90))
    queries = "query=exemplar:data/images/0.png,exemplar:run,vector:v.npy,mask:m.png"
    ended = attnvis(
        "evaluate", "data", queries, "method=attention", "against=exemplar:run none", *FEW, *SMALL
    )
    assert ended.code == 0 and "left out" not in ended.err, ended.err
    with Path("out/table.csv").open(newline="") as file:
        names = {row["row"] for row in csv.DictReader(file)}
    assert names == {
        f"{each} none"
        for each in ("exemplar:data/images/0.png", "exemplar:run", "vector:v.npy", "mask:m.png")
    }


def test_without_a_row_there_is_one_line(attnvis, data):
    ended = attnvis("evaluate", "data", "query=exemplar:nowhere.png", "method=attention", *FEW, *SMALL)
    assert ended.code == 1 and "nowhere.png" in ended.complaint and "Traceback" not in ended.err
    np.save("v.npy", np.ones((1, 7), np.float32))
    ended = attnvis("evaluate", "data", "query=vector:v.npy", "method=attention", *FEW, *SMALL)
    assert ended.code == 1 and "Traceback" not in ended.err
    expected = "no row of the table can be made; vector:v.npy: the vector of v.npy has 7 numbers"
    assert expected in ended.complaint


def test_the_row_to_compare_with_may_change_on_resume(attnvis, data):
    (data / "annotations" / "1.xml").unlink()
    words = ("evaluate", "data", "method=attention,centre,uniform", "query=mean", *FEW, *SMALL)
    ended = attnvis(*words, "against=unifrom")
    assert (
        ended.code == 1 and "there are mean none, centre, uniform; did you mean uniform?" in ended.complaint
    )
    assert not list(Path("out/photos").glob("*"))
    ended = attnvis("evaluate", "--resume", "out", "against=uniform")
    assert ended.code == 0 and "2 photos measured" in ended.out, ended.err
    kept = {path: path.read_bytes() for path in Path("out/photos").iterdir()}
    ended = attnvis("evaluate", "--resume", "out", "against=mean none")
    assert ended.code == 0 and "2 photos measured" in ended.out, ended.err
    assert kept == {path: path.read_bytes() for path in Path("out/photos").iterdir()}
    told = attnvis("evaluate", "--resume", "out", "method=centre")
    assert told.code == 2 and "and nothing but against=" in told.complaint


@pytest.mark.slow
def test_placements_are_rows_and_those_of_a_backbone_placed_so(attnvis, data):
    (data / "annotations" / "1.xml").unlink()
    words = ("evaluate", "data", "method=attention", "query=norm", *FEW, "preprocess.size=96", "workers=1")
    ended = attnvis(*words, "placements=[rf,stretch,rf:nearest]", "hydra.run.dir=together")
    assert ended.code == 0, ended.err
    together = {key_of(row): row["value"] for row in pq.read_table("together/photos.parquet").to_pylist()}
    for name, more in {
        "stretch": ("backbone.placement=stretch",),
        "rf:nearest": ("backbone.placement=rf", "between=nearest"),
    }.items():
        out = name.replace(":", "_")
        assert attnvis(*words, f"hydra.run.dir={out}", *more).code == 0
        for row in pq.read_table(f"{out}/photos.parquet").to_pylist():
            assert together[row["photo"], f"norm none, {name}", "energy"] == row["value"]
    assert len(set(together.values())) == 6
    told = attnvis(*words, "placements=[rf]", "preprocess.fit=letterbox", "hydra.run.dir=none").complaint
    assert "a letterbox's are cut" in told


@pytest.mark.slow
def test_a_pop_out_study_runs_and_resumes(attnvis, here):
    left_out = [f"levels.{kind}=[]" for kind in ("colour", "size", "feature", "conjunction", "tilted")]
    words = ("evaluate", "experiment=popout", *left_out, "levels.orientation=[5,20,60]", "levels.upright=[3]")
    few = ("repeats=2", "method=spectral_residual", "metric=found_first", *SMALL)
    ended = attnvis(*words, *few)
    assert ended.code == 0, ended.err
    assert "| threshold" in ended.out and "8 arrays measured: out/index.html" in ended.out
    with Path("out/points.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert {row["kind"] for row in points} == {"orientation", "upright"}
    kept = Path("out/thresholds.csv").read_bytes()
    Path("out/photos/000000.npz").unlink()
    again = attnvis("evaluate", "--resume", "out")
    assert again.code == 0 and Path("out/thresholds.csv").read_bytes() == kept


def test_a_pop_out_study_tells_its_mistakes(attnvis, here):
    for words, reason in {
        ("data", "experiment=popout"): "study=pop_out draws its own arrays; leave data out",
        ("data", "study=popout"): "no study 'popout'; there are table, sanity, advice, pop_out",
        ("generated", "study=pop_out"): "study=pop_out has no levels",
        ("experiment=popout", "levels.size=[2,1.5]"): "levels.size=[2, 1.5]: give at least 3",
    }.items():
        assert reason in attnvis("evaluate", *words, "hydra.run.dir=none").complaint
