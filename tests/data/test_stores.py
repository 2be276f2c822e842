"""Photos in stores: S3 on this machine, with and without faults; the web; fsspec's memory as the Hub."""

import fsspec
import pytest
from fake_shards import picture, picture_table, shard
from fake_store import Store, serve
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from attnvis.data import parquet, sources, stores
from attnvis.data.decoding import load
from attnvis.data.paths import find, source_of, survey
from attnvis.data.sources import read_source
from attnvis.types import PhotoError

A, B, C = (picture(seed) for seed in range(3))


@pytest.fixture
def s3(monkeypatch, tmp_path):
    """A store that the environment names, as a person would; pauses are short."""
    monkeypatch.chdir(tmp_path)
    store = Store({"bucket/a.png": A, "bucket/deep/b.png": B, "bucket/deep/c.txt": b"words"})
    server = serve(store)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(stores, "PAUSES", (0.01, 0.01))
    forget()
    yield store
    server.shutdown()
    server.server_close()
    forget()


def forget():
    """What a process keeps of stores, archives and tables."""
    stores.open_store.cache_clear()
    stores.HELD.__init__()
    parquet.TABLES.__init__()
    sources.OPEN.files.clear()


def ids(word):
    return [str(photo) for photo in find(word)]


# -------------------------------------------------------------------------------------------- what is there


def test_a_folder_of_a_bucket_is_searched_to_the_bottom(s3):
    listing = survey("s3://bucket/")
    assert list(map(str, listing.paths)) == ["s3://bucket/a.png", "s3://bucket/deep/b.png"]
    assert [read_source(photo) for photo in listing.paths] == [A, B]
    assert str(listing) == "1 file passed over: 1 .txt"
    assert load(listing.paths[1]).name == "b.png"


def test_a_listing_of_several_pages_is_whole_and_asked_once(s3):
    s3.objects |= {f"bucket/many/{number:05}.png": A for number in range(2345)}
    assert ids("s3://bucket/many") == [f"s3://bucket/many/{number:05}.png" for number in range(2345)]
    assert sum(request.path == "bucket" and request.method == "GET" for request in s3.requests) <= 4


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("s3://bucket/*.png", ["a.png"]),
        ("s3://bucket/*/*.png", ["deep/b.png"]),
        ("s3://bucket/**/*.png", ["a.png", "deep/b.png"]),
        ("s3://bucket/d*/[a-b].png", ["deep/b.png"]),
        ("s3://bucket/deep/b.png", ["deep/b.png"]),
        ("s3://anonymous@bucket/a.png", ["a.png"]),
    ],
)
def test_globs_and_names_in_a_bucket(s3, word, keys):
    photos = find(word)
    assert [str(photo).split("bucket/")[1] for photo in photos] == keys
    assert [read_source(photo) for photo in photos] == [s3.objects[f"bucket/{key}"] for key in keys]


def test_an_object_whose_name_has_brackets_is_itself(s3):
    s3.objects["bucket/x[1].png"] = C
    assert [read_source(photo) for photo in find("s3://bucket/x[1].png")] == [C]


def test_shards_and_tables_in_a_bucket_are_read_as_files_are(s3, tmp_path):
    s3.objects["bucket/s-1.tar"] = shard(tmp_path / "s.tar", {"0.png": A, "1.png": B}).read_bytes()
    s3.objects["bucket/t.parquet"] = picture_table(tmp_path / "t.parquet", [A, B, C]).read_bytes()
    s3.objects["bucket/deep/t.csv"] = b"id,path\nx,b.png\n"
    assert ids("s3://bucket/s-{0..1}.tar")[1:] == ["s3://bucket/s-1.tar::0.png", "s3://bucket/s-1.tar::1.png"]
    assert [read_source(photo) for photo in find("s3://bucket/*.tar")] == [A, B]
    assert [read_source(photo) for photo in find("s3://bucket/t.parquet")] == [A, B, C]
    assert read_source(source_of("s3://bucket/s-1.tar::1.png")) == B
    (named,) = find("s3://bucket/deep/t.csv")
    assert (named.name, str(named), read_source(named)) == ("x", "s3://bucket/deep/b.png", B)


def test_of_a_shard_in_a_bucket_every_block_is_fetched_once(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "BLOCK", 4096)
    s3.objects["bucket/s.tar"] = shard(tmp_path / "s.tar", {"0.png": A, "1.png": B}).read_bytes()
    assert [read_source(photo) for photo in find("s3://bucket/s.tar")] == [A, B]
    blocks = -(-len(s3.objects["bucket/s.tar"]) // 4096)
    assert s3.sent("GET", "bucket/s.tar") == blocks <= stores.MOST_BLOCKS


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("s3:/bucket/a.png", "s3:/bucket/a.png lost a slash; write s3://bucket/a.png"),
        ("s3://bucket/none", "there is nothing at s3://bucket/none; see what lies beside it"),
        ("s3://bucket/*.gif", "no photos match s3://bucket/*.gif; looked for"),
        ("s3://bucket/none.tar", "no such photo: s3://bucket/none.tar; see what lies beside it"),
        ("s3://*/a.png", "s3://*/a.png leaves the bucket open; name the bucket, and use * behind it"),
        ("ftp://host/a.png", "ftp://... is an address that is not read here; give s3://, gs://, hf://, h"),
    ],
)
def test_what_cannot_be_meant_is_one_line(s3, word, message):
    s3.objects = {key: content for key, content in s3.objects.items() if key.endswith(".png")}
    with pytest.raises(PhotoError) as caught:
        find(word)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("code", ["500", "503"])
def test_a_store_that_fails_at_every_tenth_request_loses_no_photo(s3, code):
    s3.objects = {f"bucket/{number:02}.png": picture(number) for number in range(20)}
    s3.fault = lambda request: code if request.number % 10 == 0 else ""
    photos = find("s3://bucket")
    assert [read_source(photo) for photo in photos] == list(s3.objects.values())
    assert len(s3.requests) > 2 * len(photos)  # each asks for its size and its bytes, and some again


def test_a_slow_store_is_waited_for(s3):
    s3.fault = lambda request: "slow"
    assert read_source(source_of("s3://bucket/a.png")) == A


def test_an_answer_that_is_cut_off_once_is_asked_for_again(s3):
    s3.fault = lambda request: "half" if request.method == "GET" and request.tries == 0 else ""
    assert read_source(source_of("s3://bucket/a.png")) == A
    assert s3.sent("GET", "bucket/a.png") == 2


def test_an_answer_that_is_always_cut_off_is_one_record_after_few_attempts(s3, monkeypatch):
    monkeypatch.setattr(stores, "OF_A_REQUEST", 1)
    s3.fault = lambda request: "half" if request.path == "bucket/a.png" else ""
    bad, good = find("s3://bucket")
    with pytest.raises(PhotoError) as caught:
        load(bad)
    message = str(caught.value)
    assert message.startswith("s3://bucket/a.png could not be read in 3 attempts (") and "\n" not in message
    assert s3.sent("GET", "bucket/a.png") == 3
    assert read_source(good) == B


def test_a_shard_cut_off_in_the_middle_of_an_answer_is_read_again(s3, tmp_path):
    s3.objects["bucket/s.tar"] = shard(tmp_path / "s.tar", {"0.png": A, "1.png": B}).read_bytes()
    s3.fault = lambda request: "half" if request.method == "GET" and request.tries == 0 else ""
    assert [read_source(photo) for photo in find("s3://bucket/s.tar")] == [A, B]


def test_a_store_that_is_down_ends_after_few_attempts_in_one_line(s3, monkeypatch):
    monkeypatch.setattr(stores, "OF_A_REQUEST", 1)
    s3.fault = lambda request: "500"
    for word in ("s3://bucket", "s3://bucket/s.tar", "s3://bucket/*.png"):
        s3.requests.clear()
        with pytest.raises(PhotoError, match=r"could not be read in 3 attempts \(") as caught:
            find(word)
        assert "\n" not in str(caught.value) and len(s3.requests) <= 6


def test_a_refusal_is_not_asked_again(monkeypatch):
    attempts = []

    def refuse():
        attempts.append(1)
        raise OSError("AWS Error ACCESS_DENIED during HeadObject operation")

    with pytest.raises(PhotoError, match=r"may not be read \(AWS Error ACCESS_DENIED"):
        stores.retried(refuse, "s3://bucket/a.png")
    assert len(attempts) == 1


def test_a_length_with_the_digits_of_a_refusal_is_asked_again(monkeypatch):
    monkeypatch.setattr(stores, "PAUSES", (0, 0))
    attempts = []

    def cut():
        attempts.append(1)
        stores.require_whole(403, 404)

    with pytest.raises(PhotoError, match="3 attempts"):
        stores.retried(cut, "s3://bucket/a.png")
    assert len(attempts) == 3


def test_an_object_larger_than_any_photo_is_not_fetched(s3):
    with pytest.raises(PhotoError, match=r"has [\d,]+ bytes, which is more than any photo's 100"):
        read_source(source_of("s3://bucket/a.png"), most=100)
    assert s3.sent("GET", "bucket/a.png") == 0


# ----------------------------------------------------------------------------------------- the web, the Hub


def test_a_photo_on_the_web_is_fetched_whole_or_not_at_all(s3):
    address = f"{s3.url}/bucket/a.png?size=full"
    (photo,) = find(address)
    assert (str(photo), photo.name, photo.stem, read_source(photo)) == (address, "a.png", "a", A)
    s3.requests.clear()
    s3.fault = lambda request: "half" if request.tries == 0 else ""
    assert read_source(photo) == A
    s3.fault = lambda request: "half"
    with pytest.raises(PhotoError, match=r"could not be read in 3 attempts \(cut off after [\d,]+ of"):
        read_source(photo)
    with pytest.raises(PhotoError, match="which is more than any photo's"):
        read_source(photo, most=100)
    s3.requests.clear()
    with pytest.raises(PhotoError, match=r"may not be read \(HTTP 404"):
        read_source(source_of(f"{s3.url}/bucket/none.png"))
    assert len(s3.requests) == 1


def test_a_folder_of_google_cloud_storage_is_searched_to_the_bottom(tmp_path, monkeypatch):
    for name, content in (("z/a.png", A), ("z-b.png", B), (".hidden/c.png", C)):
        (tmp_path / "bucket" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bucket" / name).write_bytes(content)
    disk = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(stores, "open_store", lambda scheme, bucket: {"gs": disk}[scheme])
    photos = find("gs://anonymous@bucket")
    assert list(map(str, photos)) == [
        "gs://anonymous@bucket/z/a.png", "gs://anonymous@bucket/z-b.png",
    ]  # fmt: skip
    assert [read_source(photo) for photo in photos] == [A, B]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """fsspec's memory in the place of the Hub."""
    monkeypatch.setattr(stores, "PAUSES", (0, 0))
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme: {"hf": MemoryFileSystem()}[scheme])
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    forget()
    hub = MemoryFileSystem()
    table = picture_table(tmp_path / "t.parquet", [A, B])
    hub.pipe({"/datasets/me/cats/data/0.parquet": table.read_bytes(), "/datasets/me/cats/c.png": C})
    yield hub
    forget()


def test_a_data_set_on_the_hub_is_a_folder_and_its_parquet_a_table(hub):
    assert [read_source(photo) for photo in find("hf://datasets/me/cats/data/*.parquet")] == [A, B]
    listing = survey("hf://datasets/me/cats")
    assert [read_source(photo) for photo in listing.paths] == [C]
    assert listing.passed_over == {".parquet": 1}


def test_what_is_not_on_the_hub_is_one_line(hub):
    with pytest.raises(PhotoError, match="there is nothing at hf://datasets/you"):
        find("hf://datasets/you")
    with pytest.raises(PhotoError, match=r"no such photo: hf://datasets/me/cats/d\.png"):
        read_source(source_of("hf://datasets/me/cats/d.png"))


def test_without_its_package_the_hub_says_what_to_install(monkeypatch):
    def lacks(scheme):
        raise ImportError("Install huggingface_hub to access HfFileSystem")

    monkeypatch.setattr(fsspec, "filesystem", lacks)
    forget()
    with pytest.raises(PhotoError, match="pip install huggingface_hub"):
        find("hf://datasets/me/cats")
