"""Every layout of a data set on a small folder made as the real one lies on disk, and what goes wrong."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo
from PIL import Image
from scipy.io import savemat

from attnvis.data.datasets import LAYOUTS, open_dataset
from attnvis.data.samples import photo_size, read_grey
from attnvis.data.truth import other_fixations, resize_truth
from attnvis.types import Box, PhotoError, Truth

MATERIAL = Path(os.environ.get("ATTNVIS_MATERIAL") or Path(__file__).parents[3] / "shared" / "material")
real = [
    pytest.mark.material,
    pytest.mark.skipif(not MATERIAL.is_dir(), reason="no folder ATTNVIS_MATERIAL of real photos"),
]
FIRST, SECOND = (70, 90), (50, 60)  # (height, width)
SIZE = {"height": 70, "width": 90}


def write_grey(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), values)


def points(size, *places):
    values = np.zeros(size, np.uint8)
    for row, column in places:
        values[row, column] = 255
    return values


def make_osie(folder):
    make_photo(folder / "images" / "1001.jpg", FIRST)
    make_photo(folder / "images" / "1002.jpg", SECOND)
    np.savez(
        folder / "fixations.npz",
        names=np.array(["1001.jpg", "1002.jpg"]),
        image=[0, 1, 0],
        subject=[3, 3, 4],
        x=[10.5, 30.0, 80.0],
        y=[20.5, 25.0, 60.0],
    )


def make_osie_as_it_comes(folder):
    make_photo(folder / "stimuli" / "1001.jpg", FIRST)
    make_photo(folder / "stimuli" / "1002.jpg", SECOND)

    def cells(items):
        array = np.empty((1, len(items)), object)
        for number, item in enumerate(items):
            array[0, number] = item
        return array

    def gaze(xs, ys):
        return {"fix_x": np.array([xs]), "fix_y": np.array([ys])}

    first = {"img": "1001.jpg", "subjects": cells([gaze([10.5], [20.5]), gaze([80.0], [60.0])])}
    second = {"img": "1002.jpg", "subjects": cells([gaze([30.0], [25.0])])}
    (folder / "eye").mkdir()
    savemat(folder / "eye" / "fixations.mat", {"fixations": cells([first, second])})


def make_mit1003(folder):
    for name, size, places in (("i1", FIRST, [(20, 10), (60, 80)]), ("i2", SECOND, [(25, 30)])):
        make_photo(folder / "ALLSTIMULI" / f"{name}.jpeg", size)
        write_grey(folder / "ALLFIXATIONMAPS" / f"{name}_fixPts.png", points(size, *places))
        write_grey(folder / "ALLFIXATIONMAPS" / f"{name}_fixMap.png", points(size, *places))


def make_cat2000(folder):
    for name, size, places in (("Action", FIRST, [(20, 10), (60, 80)]), ("Art", SECOND, [(25, 30)])):
        make_photo(folder / "trainSet" / "Stimuli" / name / "001.jpg", size)
        (folder / "trainSet" / "FIXATIONLOCS" / name).mkdir(parents=True)
        locations = {"fixLocs": points(size, *places) // 255}
        savemat(folder / "trainSet" / "FIXATIONLOCS" / name / "001.mat", locations)
        write_grey(folder / "trainSet" / "FIXATIONMAPS" / name / "001.jpg", points(size, *places))


def make_salicon(folder):
    for name, size, places in (("COCO_1", FIRST, [[11, 21], [81, 61]]), ("COCO_2", SECOND, [[31, 26]])):
        make_photo(folder / "images" / "train" / f"{name}.jpg", size)
        write_grey(folder / "maps" / "train" / f"{name}.png", points(size, (3, 4)))
        (folder / "fixations" / "train").mkdir(parents=True, exist_ok=True)
        gaze = np.zeros((len(places), 1), [("location", object), ("fixations", object)])
        for number, place in enumerate(places):
            gaze[number, 0] = (np.empty((0, 2)), np.array([place]))
        savemat(folder / "fixations" / "train" / f"{name}.mat", {"gaze": gaze})


@pytest.mark.parametrize(
    "make, layout, centred",
    [
        (make_osie, "osie", False),
        (make_osie_as_it_comes, "osie", False),
        (make_mit1003, "mit1003", True),
        (make_cat2000, "cat2000", True),
        (make_salicon, "salicon", False),
    ],
)
def test_fixations_are_read_where_they_lie(tmp_path, make, layout, centred):
    make(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == layout and len(dataset) == 2 and dataset.known >= {"fixations", "others"}
    first, second = dataset
    assert first.truth.size == FIRST and second.truth.size == SECOND
    assert first.path.is_file() and first.name in dataset.names
    assert np.floor(first.truth.fixations).tolist() == [[20, 10], [60, 80]]
    assert np.floor(second.truth.fixations).tolist() == [[25, 30]]
    assert (first.truth.fixations % 1 == 0.5).all() or not centred
    # what the other photo's fixation is on this one
    expected = second.truth.fixations * np.divide(FIRST, SECOND)
    np.testing.assert_allclose(first.truth.others, expected)
    assert first.truth.known >= {"fixations", "others"}
    assert ("looks" in dataset.known) == (first.truth.looks is not None)


def test_masks_lie_beside_photos_of_the_same_name(tmp_path):
    make_photo(tmp_path / "DUTS-TE-Image" / "a.jpg", FIRST)
    make_photo(tmp_path / "DUTS-TE-Image" / "b.jpg", SECOND)
    mask = np.zeros(FIRST, np.uint8)
    mask[5:9, 7:20], mask[30, 30] = 255, 128  # 128 is not yet inside, as in PySODMetrics
    write_grey(tmp_path / "DUTS-TE-Mask" / "a.png", mask)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "masks" and dataset.known == {"mask"}
    assert np.array_equal(dataset[0].truth.mask, mask > 128) and dataset[0].truth.size == FIRST
    with pytest.raises(PhotoError, match="no mask of this name"):
        dataset[1]


VOC = """<annotation><filename>a.png</filename><size><width>90</width><height>70</height></size>
<object><name>raccoon</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>22</ymax></bndbox></object>
</annotation>"""


def test_voc_counts_pixels_from_one_and_both_corners_belong_to_the_box(tmp_path):
    make_photo(tmp_path / "images" / "a.jpg", FIRST)  # the ending is another than the annotation says
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text(VOC)
    (tmp_path / "annotations" / "b.xml").write_text("<annotation><size>")
    (tmp_path / "annotations" / "c.xml").write_text(VOC.replace("<ymax>22</ymax>", ""))
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, len(dataset)) == ("voc", 3)
    truth = dataset[0].truth
    assert truth.boxes == (Box(20.0, 10.0, height=2.0, width=20.0),) and truth.names == ("raccoon",)
    assert truth.region.sum() == 40 and truth.size == FIRST
    for index, complaint in ((1, "is no VOC annotation"), (2, "it has no bndbox/ymax")):
        with pytest.raises(PhotoError, match=complaint):
            dataset[index]


def test_coco_has_boxes_of_all_photos_in_one_file(tmp_path):
    make_photo(tmp_path / "val2017" / "1.jpg", FIRST)
    make_photo(tmp_path / "val2017" / "2.jpg", SECOND)
    content = {
        "images": [
            {"id": 7, "file_name": "1.jpg", "height": 70, "width": 90},
            {"id": 8, "file_name": "2.jpg", "height": 50, "width": 60},
        ],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [10, 20.5, 30, 5], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(content))
    for given in (tmp_path, file):
        first, second = open_dataset(given)
        assert first.truth.boxes == (Box(20.5, 10.0, height=5.0, width=30.0),) and first.truth.names == (
            "cat",
        )
        assert second.truth.boxes == () and second.path.name == "2.jpg"
    file.write_text("[]")
    with pytest.raises(ValueError, match="is no annotation file of COCO's"):
        open_dataset(tmp_path)


def test_a_class_is_told_by_the_folder_or_by_the_name(tmp_path):
    make_photo(tmp_path / "tabby" / "1.jpg", FIRST)
    make_photo(tmp_path / "281" / "2.jpg", SECOND)
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("281/2.jpg", "tabby/1.jpg") and dataset.layout == "classes"
    assert [sample.truth.category for sample in dataset] == ["281", "tabby"]


def test_a_table_of_ones_own_says_whatever_is_known(tmp_path):
    make_photo(tmp_path / "a.jpg", FIRST)
    make_photo(tmp_path / "b.jpg", SECOND)
    write_grey(tmp_path / "b.png", points(SECOND, (4, 5)))
    (tmp_path / "truth.csv").write_text(
        "photo,x,y,observer,left,top,width,height,name,mask,class\n"
        "a.jpg,10.5,20.5,2,,,,,,,tabby\n"
        "a.jpg,,,,1,2,3,4,nose,,\n"
        "b.jpg,30,25,,,,,,,b.png,\n"
    )
    dataset = open_dataset(tmp_path)
    assert dataset.known == {"fixations", "others", "boxes", "mask", "category"}
    first, second = (sample.truth for sample in dataset)
    assert first.fixations.tolist() == [[20.5, 10.5]] and first.observers.tolist() == [2]
    assert first.boxes == (Box(2.0, 1.0, height=4.0, width=3.0),) and first.names == ("nose",)
    assert first.category == "tabby" and first.mask is None and second.boxes is None
    assert np.argwhere(second.mask).tolist() == [[4, 5]]


@pytest.mark.parametrize(
    "table, complaint",
    [
        ("photo,colour\na.jpg,red\n", "column 'colour'"),
        ("x,y\n1,2\n", "no column photo"),
        ("photo,x,y\na.jpg,3,\n", "line 2: y is empty"),
        ("photo,x,y\na.jpg,3,four\n", "line 2: could not convert"),
        ("photo,x,y\n", "holds no photos"),
    ],
)
def test_a_table_that_does_not_read_says_where(tmp_path, table, complaint):
    (tmp_path / "truth.csv").write_text(table)
    with pytest.raises(ValueError, match=complaint):
        open_dataset(tmp_path)


@pytest.mark.parametrize("layout", [*LAYOUTS, "auto"])
def test_an_empty_folder_is_no_data_set_of_any_layout(tmp_path, layout):
    with pytest.raises(ValueError, match=str(tmp_path.name)):
        open_dataset(tmp_path, layout)


def test_what_is_no_data_set_is_told_in_one_line(tmp_path):
    for folder, layout, complaint in (
        (tmp_path / "absent", "auto", "there is no data set"),
        (tmp_path, "imagenet", "unknown layout 'imagenet'"),
    ):
        with pytest.raises(ValueError, match=complaint):
            open_dataset(folder, layout)


def test_a_part_of_a_data_set_keeps_what_is_known_of_all(tmp_path):
    make_osie(tmp_path)
    dataset = open_dataset(tmp_path)
    part = dataset.chosen([1])
    assert part.names == ("1002.jpg",) and len(part[0].truth.others) == 2
    with pytest.raises(IndexError):
        part[1]


def test_a_damaged_photo_fails_alone(tmp_path):
    """The other photo has its truth still, without the fixation that the damaged one had; which is told."""
    make_osie(tmp_path)
    (tmp_path / "images" / "1002.jpg").write_bytes(b"nothing")
    dataset = open_dataset(tmp_path).chosen([0, 1])
    assert dataset.remark() == ""
    first = dataset[0].truth
    assert first.fixations.tolist() == [[20.5, 10.5], [60, 80]] and first.others.shape == (0, 2)
    expected = "1 of 3 fixations do not count among the other photos': the size of 1 photo cannot be read"
    assert dataset.remark() == expected
    with pytest.raises(PhotoError, match=r"1002\.jpg is no photo"):
        dataset[1]


@pytest.mark.parametrize("make", [make_osie, make_osie_as_it_comes, make_salicon])
def test_a_missing_photo_fails_alone_and_all_of_them_at_once(tmp_path, make):
    make(tmp_path)
    photos = sorted(tmp_path.rglob("*.jpg"))
    photos[1].unlink()
    dataset = open_dataset(tmp_path)
    first = dataset[0].truth
    assert len(first.fixations) == 2 and first.others.shape == (0, 2)
    assert "the size of 1 photo cannot be read" in dataset.remark()
    with pytest.raises(PhotoError, match=f"there is no photo .*{photos[1].name}"):
        dataset[1]
    photos[0].unlink()
    with pytest.raises(PhotoError, match="has none of the 2 photos"):
        open_dataset(tmp_path)


def test_a_table_drops_the_fixations_of_photos_that_are_not_there(tmp_path):
    make_photo(tmp_path / "a.jpg", FIRST)
    make_photo(tmp_path / "b.jpg", FIRST)
    lines = ["photo,x,y", "a.jpg,1,2", "b.jpg,3,4", "c.jpg,5,6", "c.jpg,7,8"]
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    dataset = open_dataset(tmp_path)
    assert dataset[0].truth.others.tolist() == [[4, 3]]
    assert dataset.remark().startswith("2 of 4 fixations") and "the size of 1 photo" in dataset.remark()


@pytest.mark.parametrize("read", [photo_size, read_grey])
def test_a_bomb_is_one_photos_mistake(tmp_path, monkeypatch, read):
    path = make_photo(tmp_path / "huge.png", FIRST)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PhotoError, match=r"huge\.png cannot be read: Image size") as told:
        read(path)
    assert "\n" not in str(told.value)


def test_a_coco_photo_without_its_size_fails_alone_and_in_one_line(tmp_path):
    make_photo(tmp_path / "images" / "1.jpg", FIRST)
    images = [{"id": 1, "file_name": "1.jpg", "width": 90}, {"id": 2, "file_name": "1.jpg"} | SIZE]
    content = {"images": images, "categories": [], "annotations": []}
    file = tmp_path / "all.json"
    file.write_text(json.dumps(content))
    dataset = open_dataset(file)
    with pytest.raises(
        PhotoError, match=r"all\.json says no height and width of 1\.jpg: KeyError\('height'\)"
    ):
        dataset[0]
    assert dataset[1].truth.size == FIRST
    file.write_text(json.dumps(content | {"images": [{"id": 1}]}))
    with pytest.raises(ValueError, match="is no annotation file of COCO's: KeyError"):
        open_dataset(file)


@pytest.mark.parametrize("ending", [".jfif", ".avif", ".ppm"])
def test_photos_of_every_ending_that_a_run_reads_are_listed(tmp_path, ending):
    photo = make_photo(tmp_path / "tabby" / "a.png", FIRST)
    other = photo.with_name(f"b{ending}")
    with Image.open(photo) as picture:
        picture.save(other, {".jfif": "JPEG", ".avif": "AVIF", ".ppm": "PPM"}[ending])
    dataset = open_dataset(tmp_path, "classes")
    assert dataset.names == ("tabby/a.png", f"tabby/b{ending}")
    assert dataset[1].truth.size == FIRST


def test_the_size_of_what_pil_does_not_know_is_that_of_the_photo(tmp_path):
    """A PFM as its format has it: Pf, width and height, the sign of the scale says little end first."""
    file = tmp_path / "a.pfm"
    file.write_bytes(b"PF\n5 3\n-1.0\n" + np.zeros((3, 5, 3), "<f4").tobytes())
    assert photo_size(file) == (3, 5)


def test_other_fixations_are_stretched_from_photo_to_photo():
    places = np.array([[10.0, 20.0], [30.0, 40.0], [1.0, 2.0]])
    others = other_fixations(
        places, np.array([0, 1, 1]), index=0, size_of=[(100, 100), (50, 200)].__getitem__
    )
    assert others.tolist() == [[60, 20], [2, 1]]


def test_truth_on_half_the_grid_is_the_same_truth():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    truth = Truth(
        (40, 60),
        fixations=np.array([[10.0, 30.0]]),
        mask=mask,
        boxes=(Box(10.0, 30.0, height=10.0, width=20.0),),
        degree=24.0,
    )
    half = resize_truth(truth, (20, 30))
    assert half.fixations.tolist() == [[5, 15]] and half.degree == 12 and half.zoom == 0.5
    assert half.boxes == (Box(5.0, 15.0, height=5.0, width=10.0),)
    assert np.array_equal(half.mask, mask[::2, ::2]) and resize_truth(truth, (40, 60)) is truth


@pytest.mark.parametrize("folder, layout, count", [pytest.param("osie", "osie", 200, marks=real)])
def test_the_real_osie_is_read(folder, layout, count):
    dataset = open_dataset(MATERIAL / folder)
    truth = dataset[0].truth
    assert (dataset.layout, len(dataset), truth.size) == (layout, count, (600, 800))
    assert len(truth.fixations) + len(truth.others) == 28220
