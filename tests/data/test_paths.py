"""Which files are meant, by folders, links and lists that the test made."""

import os
import sys
from pathlib import Path

import pytest
from fake_pictures import load_error
from PIL import Image

from attnvis.data.decoding import load
from attnvis.data.paths import find, survey
from attnvis.types import PhotoError


@pytest.fixture
def album(tmp_path, monkeypatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "deep/er/c.webp",
        "deep/d.tif",
        ".hidden.jpg",
        ".cache/e.jpg",
        "notes.md",
        "odd[1].gif",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path], album: Path) -> list[str]:
    return [str((album / path).relative_to(album)) for path in paths]


def find_error(images) -> str:
    with pytest.raises(PhotoError) as caught:
        find(images)
    return str(caught.value)


def test_a_folder_gives_its_visible_photos_to_the_bottom_in_order(album):
    expected = ["a.PNG", "b.jpg", "deep/d.tif", "deep/er/c.webp", "odd[1].gif"]
    assert names(find(str(album)), album) == names(find(album), album) == names(find("."), album) == expected


def test_a_file_is_itself_even_where_it_is_no_photo(album):
    assert find("notes.md") == [Path("notes.md")]
    assert find("odd[1].gif") == [Path("odd[1].gif")]  # though it looks like a glob
    assert find(album / ".hidden.jpg") == [album / ".hidden.jpg"]


def test_globs_reach_one_level_or_all(album):
    assert names(find("*"), album) == ["a.PNG", "b.jpg", "odd[1].gif"]
    assert names(find("**/*.[tw]*"), album) == ["deep/d.tif", "deep/er/c.webp"]
    assert names(find(str(album / "deep" / "**")), album) == ["deep/d.tif", "deep/er/c.webp"]


def test_a_list_file_is_relative_to_itself(album):
    (album / "deep" / "list.txt").write_text(
        f"# my photos\n\nd.tif\r\n  ../b.jpg  \ngone.jpg\n{album}/a.PNG\nd.tif\n", "utf-8-sig"
    )
    assert names([Path(os.path.abspath(p)) for p in find("deep/list.txt")], album) == [
        "deep/d.tif",
        "b.jpg",
        "deep/gone.jpg",
        "a.PNG",
    ]


def test_a_list_keeps_its_order_and_each_file_once(album):
    paths = find(["deep", "b.jpg", album / "b.jpg", "./deep/../b.jpg", "*.PNG"])
    assert names(paths, album) == ["deep/d.tif", "deep/er/c.webp", "b.jpg", "a.PNG"]


def test_a_missing_file_among_others_fails_only_when_loaded(album):
    assert find(["b.jpg", "b.jpeg"]) == [Path("b.jpg"), Path("b.jpeg")]
    assert "did you mean b.jpg?" in load_error("b.jpeg")


def test_a_missing_file_alone_is_an_error_with_its_neighbours(album):
    assert (
        "no such photo: B.jpeg; did you mean b.jpg?"
        in find_error("B.jpeg")
        == find_error(["B.jpeg"])
        == find_error(Path("B.jpeg"))
    )
    assert str(album) in find_error("zzzzzzzzzzzzzz.qq")
    assert "there is no folder nowhere" in find_error("nowhere/b.jpg")


def test_nothing_found_says_what_was_looked_for(album):
    (album / "bare").mkdir()
    (album / "none.txt").write_text("# nothing\n")
    assert "no photos in the folder bare; looked for .jpg .jpeg .png" in find_error("bare")
    assert "no photos match *.bmp; looked for" in find_error("*.bmp")
    assert "none.txt names no photos" in find_error("none.txt")
    assert "no photos" in find_error([]) and "empty name" in find_error("")


def test_samples_are_photos_that_load():
    paths = find("samples")
    assert len(paths) >= 5 and all(min(load(path).size) >= 300 for path in paths)


def test_a_sample_has_its_own_name_and_one_for_what_it_shows(album):
    assert find("samples/cat") == find("samples/chelsea") and find("samples/cat")[0].name == "chelsea.png"
    assert "did you mean astronaut" in find_error(
        "samples/astronaut.png"
    ) and "the samples are cat, " in find_error("samples/cow")
    (album / "samples").mkdir()
    (album / "samples" / "mine.jpg").write_bytes(b"x")
    assert (
        find("samples/mine.jpg") == find("./samples") == find("samples/*.jpg") == [Path("samples/mine.jpg")]
    )


def test_finding_samples_does_not_import_skimage(monkeypatch):
    monkeypatch.delitem(sys.modules, "skimage", raising=False)
    assert find("samples") and "skimage" not in sys.modules


def test_a_dangling_link_in_a_folder_is_found_and_fails_alone(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "here.png")
    assert find(tmp_path) == [tmp_path / "gone.jpg", tmp_path / "here.png"]
    with pytest.raises(PhotoError, match="no such photo"):
        load(tmp_path / "gone.jpg")


# What folders hold beside photos


def test_what_a_folder_passes_over_is_counted_by_kind(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "deep").mkdir()
    for name in ("a.mov", "b.MOV", "deep/c.txt", ".DS_Store", "README", "deep/clip.mov"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "deep", target_is_directory=True)
    listing = survey(tmp_path)
    assert listing.paths == [tmp_path / "photo.jpg"]
    assert listing.passed_over == {
        ".mov": 3, ".txt": 1, "hidden": 1, "hidden folder": 1, "link to a folder": 1, "without a suffix": 1,
    }  # fmt: skip
    kinds = "3 .mov, 1 .txt, 1 hidden, 1 hidden folder, 1 link to a folder, 1 without a suffix"
    assert str(listing) == f"8 files passed over: {kinds}"
    assert str(survey(tmp_path / "photo.jpg")) == str(survey([tmp_path / "photo.jpg"])) == ""


def test_many_kinds_are_named_in_one_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    for number in range(20):
        (tmp_path / f"x.s{number:02}").touch()
    text = str(survey(tmp_path))
    assert text.startswith("20 files passed over: 1 .s00, 1 .s01, ") and text.endswith(", 12 more kinds")


@pytest.mark.parametrize(
    "name",
    ["x.jfif", "x.JPE", "x.heic", "x.HEIF", "x.avif", "x.ppm", "x.pgm", "x.pbm", "x.pfm", "x.dib", "x.apng"],
)
def test_photos_of_rarer_suffixes_are_found_in_folders(name, tmp_path):
    (tmp_path / name).touch()
    assert find(tmp_path) == [tmp_path / name]


def test_a_file_without_a_suffix_is_a_photo_by_its_first_bytes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo", "PNG")
    (tmp_path / "notes").write_text("hello")
    os.mkfifo(tmp_path / "pipe")  # is not waited for
    listing = survey(tmp_path)
    assert listing.paths == [tmp_path / "photo"] and listing.passed_over == {"without a suffix": 2}


def test_a_glob_counts_what_it_passes_over_too(album):
    (album / "clip.mov").touch()
    one_level, all_levels = survey("*").passed_over, survey("**/*").passed_over
    assert one_level[".mov"] == all_levels[".mov"] == 1
    assert one_level["folder"] == sum(path.is_dir() and path.name[0] != "." for path in album.iterdir())
    assert all_levels["folder"] == 0  # they are searched


def test_a_folder_without_photos_says_what_it_holds(tmp_path):
    (tmp_path / "clip.mov").touch()
    assert "(1 file passed over: 1 .mov); looked for .jpg" in find_error(tmp_path)
