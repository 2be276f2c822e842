"""Photos in tables: pictures in parquet, and paths in csv, tsv and parquet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_shards import picture, picture_table, shard

from attnvis.data import parquet
from attnvis.data.paths import find, source_of
from attnvis.data.sources import read_source
from attnvis.types import PhotoError

PICTURES = [picture(seed) for seed in range(8)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def error_of(word):
    with pytest.raises(PhotoError) as caught:
        find(word)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def contents(photos):
    return [read_source(photo) for photo in photos]


def write(name, text, encoding="utf-8"):
    Path(name).write_text(text, encoding)
    return name


# ------------------------------------------------------------------------------------------------- pictures


def test_rows_of_a_parquet_are_photos_by_their_number():
    picture_table(Path("t.parquet"), PICTURES)
    photos = find("t.parquet")
    assert list(map(str, photos)) == [f"t.parquet::{number}" for number in range(8)]
    assert contents(photos) == PICTURES
    assert photos[3].stem == "t-3" and source_of("t.parquet::3") == photos[3]


@pytest.mark.parametrize("order", [range(7, -1, -1), (0, 7, 1, 6, 1, 0), (5, 5, 2)])
def test_rows_are_right_in_any_order_across_row_groups(monkeypatch, order):
    monkeypatch.setattr(parquet, "MOST_BYTES_AT_ONCE", 1)  # one row at a time: nothing but the order helps
    picture_table(Path("t.parquet"), PICTURES, rows=3)
    photos = find("t.parquet")
    assert contents(photos[number] for number in order) == [PICTURES[number] for number in order]


def test_of_a_table_read_in_order_every_batch_is_decoded_once(monkeypatch):
    monkeypatch.setattr(parquet, "MOST_BYTES_AT_ONCE", 2 * len(PICTURES[0]))
    picture_table(Path("t.parquet"), PICTURES, rows=4)
    opened = []
    open_group = parquet.Reader.open_group
    monkeypatch.setattr(
        parquet.Reader, "open_group", lambda reader, group: opened.append(group) or open_group(reader, group)
    )
    contents(find("t.parquet"))
    assert opened == [0, 1]


def test_a_column_of_plain_bytes_holds_pictures_too():
    pq.write_table(pa.table({"jpg": PICTURES, "n": range(8)}), "t.parquet")
    assert contents(find("t.parquet")) == PICTURES


def test_of_several_columns_the_one_called_image_is_meant_or_none():
    pq.write_table(pa.table({"left": [PICTURES[0]], "image": [PICTURES[1]]}), "t.parquet")
    assert contents(find("t.parquet")) == [PICTURES[1]]
    pq.write_table(pa.table({"left": [PICTURES[0]], "right": [PICTURES[1]]}), "u.parquet")
    assert error_of("u.parquet").startswith("u.parquet has several columns of pictures (left, right)")


def test_a_row_without_a_picture_fails_alone():
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    Path("beside.png").write_bytes(PICTURES[2])
    cells = [
        {"bytes": PICTURES[0], "path": "x.png"}, None, {"bytes": None, "path": None},
        {"bytes": None, "path": "beside.png"}, {"bytes": b"", "path": None},
    ]  # fmt: skip
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), "t.parquet")
    first, null, empty, named, nothing = find("t.parquet")
    assert read_source(first) == PICTURES[0] and read_source(named) == PICTURES[2]
    for photo, number in ((null, 1), (empty, 2)):
        with pytest.raises(PhotoError, match=f"t.parquet::{number} has no picture: it is null"):
            read_source(photo)
    assert read_source(nothing) == b""


def test_a_table_without_pictures_and_paths_says_which_columns_it_has():
    kind = pa.struct([("data", pa.binary())])
    table = pa.table({"photo": pa.array([{"data": b"x"}], kind), "label": [3]})
    pq.write_table(table, "t.parquet")
    assert error_of("t.parquet") == (
        "t.parquet has no column of pictures and none called image, path, file, url; "
        "its columns: photo (struct<data: binary>), label (int64)"
    )


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"words", lambda data: b""]
)
def test_what_is_no_parquet_is_one_line(damage):
    content = picture_table(Path("t.parquet"), PICTURES).read_bytes()
    Path("t.parquet").write_bytes(damage(content))
    assert error_of("t.parquet").startswith("t.parquet is no parquet, or cut off (")


def test_a_row_that_is_damaged_inside_fails_and_the_others_do_not():
    path = picture_table(Path("t.parquet"), PICTURES, rows=1)
    content = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(4).column(0).data_page_offset
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    photos = find("t.parquet")
    with pytest.raises(PhotoError, match=r"t\.parquet::4 "):
        read_source(photos[4])
    assert contents(photos[:4] + photos[5:]) == PICTURES[:4] + PICTURES[5:]


@pytest.mark.parametrize("id", ["t.parquet::8", "t.parquet::x", "t.parquet::-1", "gone.parquet::0"])
def test_an_id_that_is_no_row_fails(id):
    picture_table(Path("t.parquet"), PICTURES)
    with pytest.raises(PhotoError):
        contents(find(id))


# --------------------------------------------------------------------------------------------------- paths


@pytest.fixture
def album():
    Path("album").mkdir()
    for number in range(3):
        Path(f"album/{number}.png").write_bytes(PICTURES[number])


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("album/t.csv", "id,path\na,0.png\nb,1.png\n", "utf-8"),
        ("album/t.csv", "label;File;ID\n3;0.png;a\n\n4;1.png;b\n", "utf-8-sig"),
        ("album/t.tsv", "image\tid\n0.png\ta\n1.png\tb\n", "utf-16"),
        ("t.csv", 'id,"url"\r\na,"album/0.png"\r\nb, album/1.png \r\n', "utf-8"),
    ],
)
def test_a_table_of_paths_gives_photos_relative_to_it_with_their_ids(album, name, text, encoding):
    photos = find(write(name, text, encoding))
    assert [photo.name for photo in photos] == ["a", "b"] == [photo.stem for photo in photos]
    assert list(map(str, photos)) == ["album/0.png", "album/1.png"]
    assert contents(photos) == PICTURES[:2]


def test_a_parquet_of_paths_is_read_as_a_csv_is(album):
    pq.write_table(pa.table({"id": [7, 8], "file_name": ["0.png", "1.png"]}), "album/t.parquet")
    photos = find("album/t.parquet")
    assert [photo.name for photo in photos] == ["7", "8"] and contents(photos) == PICTURES[:2]


def test_a_table_without_ids_names_plain_files(album):
    assert find(write("t.csv", "path\nalbum/0.png\nalbum/1.png\n")) == [
        Path("album/0.png"), Path("album/1.png"),
    ]  # fmt: skip


def test_rows_may_name_what_lies_in_shards_and_at_addresses(album):
    shard(Path("album/s.tar"), {"a.png": PICTURES[5]})
    photos = find(write("album/t.csv", "path\ns.tar::a.png\ns3://bucket/b.png\nhttps://host/c.png?x=1\n"))
    assert list(map(str, photos)) == ["album/s.tar::a.png", "s3://bucket/b.png", "https://host/c.png?x=1"]
    assert read_source(photos[0]) == PICTURES[5] and photos[2].stem == "c"


def test_rows_that_name_nothing_fail_alone(album):
    text = "id,path\na,album/0.png\nb,\nc\nd,s3:/bucket/x.png\ne,ftp://host/x.png\n"
    photos = find(write("t.csv", text))
    assert read_source(photos[0]) == PICTURES[0]
    assert [photo.reason for photo in photos[1:]] == [
        "t.csv::1 names no photo: the cell is empty",
        "t.csv::2 names no photo: the cell is empty",
        "t.csv::3: s3:/bucket/x.png lost a slash; write s3://bucket/x.png",
        "t.csv::4: ftp://... is an address that is not read here; "
        "give s3://, gs://, hf://, https://, or download the photo and name the file",
    ]


def test_a_csv_without_the_column_says_which_it_has():
    assert error_of(write("t.csv", "picture,label\na.png,1\n")) == (
        "t.csv has no column of pictures and none called image, path, file, url; its columns: picture, label"
    )
    assert error_of(write("u.csv", "path,id\n")) == "u.csv has no rows"
    assert error_of(write("v.csv", "")).endswith("its columns: none")


def test_a_csv_that_is_no_text_behind_a_row_keeps_what_came_before(album):
    Path("t.csv").write_bytes(b"path\n" + b"album/0.png\n" * 2000 + b"\xff\xfe.png\n")
    photos = find("t.csv")
    assert read_source(photos[0]) == PICTURES[0]
    assert photos[-1].reason.startswith("t.csv cannot be read behind row ") and len(photos) == 2


def test_a_list_may_name_shards_and_addresses(album):
    shard(Path("s.tar"), {"a.png": PICTURES[5]})
    photos = find(write("list.txt", "album/0.png\ns.tar\ns3://bucket/b.png\n"))
    assert list(map(str, photos)) == ["album/0.png", "s.tar::a.png", "s3://bucket/b.png"]


@pytest.mark.parametrize("name", ["/etc/hostname", "../beside.png", "a/../../beside.png"])
def test_a_table_of_pictures_names_nothing_that_is_not_beside_it(name):
    Path("../beside.png").write_bytes(PICTURES[0])
    Path("a").mkdir()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": name}], kind)}), "t.parquet")
    with pytest.raises(PhotoError, match="is not beside the table"):
        read_source(find("t.parquet")[0])
