"""The same photos by the plain run and in shards, as files, in tars and in parquet: core-ms and memory.

    python scripts/measure_shards.py FOLDER --photos 2000 --size 250

The photos of FOLDER come again and again until there are so many.  Core-ms a photo: user and system time of
a command and of its processes, less that of the same command on one photo, which is start, in core-s.
MB: of all of its processes together (their proportional set size), looked at twice a second: the highest,
and the means over the second and over the last quarter.
"""

import argparse
import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
FORWARD = """
import sys, torch
from attnvis.backbone import efficientnet_lite
from attnvis.data.paths import find
from attnvis.pipeline.streaming import stream
torch.set_num_threads(1)
backbone = efficientnet_lite(precision="fp32", engine="eager")
def forward(batch):
    backbone(batch)
    return [[] for _ in batch.photos]
for outcome in stream(find(sys.argv[1]), forward, backbone.preprocessing, workers=2):
    pass
"""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--size", type=int, default=250, help="photos of a shard")
    parser.add_argument("--only", nargs="*", help="of the names in the table")
    parser.add_argument("--settings", nargs="*", default=[], help="of every run: preprocess.size=64 ...")
    arguments = parser.parse_args()
    shards = ("launcher=local", f"shards.size={arguments.size}", "workers=2")
    usual = ("logger.mode=disabled", "backbone.precision=fp32", "backbone.engine=eager", *arguments.settings)
    run = [sys.executable, str(ROOT / "scripts" / "run.py")]
    with tempfile.TemporaryDirectory(prefix="attnvis-measure-") as place:
        files, tars, table = inputs(arguments.folder, Path(place), arguments.photos, arguments.size)
        commands = {
            "decode and forward alone": [sys.executable, "-c", FORWARD, files],
            "plain run": [*run, files, "workers=2", *usual],
            "plain run, no panels": [*run, files, "workers=2", "render.panel=false", *usual],
            "in shards, files": [*run, files, *shards, *usual],
            "in shards, tars": [*run, tars, *shards, *usual],
            "in shards, parquet": [*run, table, *shards, *usual],
            "in shards, files, all overlays in tars": [*run, files, *shards, "shards.overlays=tar", *usual],
        }
        print("| | core-ms a photo | start | s | photos a second | peak MB | 2nd quarter | last quarter |")
        print("|---|---|---|---|---|---|---|---|")
        for name, command in commands.items():
            if not arguments.only or name in arguments.only:
                measure(name, command, arguments.photos, Path(place))


def inputs(folder: Path, place: Path, count: int, size: int) -> tuple[str, str, str]:
    """The photos as files, as tars and as one parquet table of the Hugging Face form; what names each."""
    contents = [path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")]
    (place / "files").mkdir()
    (place / "tars").mkdir()
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([pa.field("image", struct)])
    with pq.ParquetWriter(place / "photos.parquet", schema) as writer:
        for start in range(0, count, size):
            many = list(islice(cycle(contents), start, min(start + size, count)))
            names = [f"{number:08d}.jpg" for number in range(start, start + len(many))]
            with tarfile.open(place / f"tars/{start // size:05d}.tar", "w") as tar:
                for name, content in zip(names, many, strict=True):
                    (place / "files" / name).write_bytes(content)
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            rows = [{"bytes": content, "path": name} for name, content in zip(names, many, strict=True)]
            writer.write_table(pa.table({"image": pa.array(rows, struct)}, schema))
    return str(place / "files"), str(place / "tars/*.tar"), str(place / "photos.parquet")


def measure(name: str, command: list[str], photos: int, place: Path) -> None:
    """One line of the table."""
    one = str(next((place / "files").iterdir()))
    alone = [one if word.startswith(str(place)) else word for word in command]
    start, _, _ = run_once(alone, place)
    cpu, seconds, sizes = run_once(command, place)
    quarter = max(1, len(sizes) // 4)
    second, last = sizes[quarter : 2 * quarter] or sizes, sizes[-quarter:]
    means = f"{sum(second) / len(second):,.0f} | {sum(last) / len(last):,.0f}"
    each = 1000 * (cpu - start) / photos
    figures = f"{each:.1f} | {start:.1f} | {seconds:.0f} | {photos / seconds:.0f} | {max(sizes):,.0f}"
    print(f"| {name} | {figures} | {means} |", flush=True)


def run_once(command: list[str], place: Path) -> tuple[float, float, list[float]]:
    """Core-seconds, seconds, and MB twice a second."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    environment["ATTNVIS_CACHE"] = str(place / "cache")
    words = [] if "-c" in command else [f"hydra.run.dir={place / 'out'}"]
    process = subprocess.Popen([*command, *words], env=environment, stdout=subprocess.DEVNULL)
    sizes: list[float] = []
    watcher = threading.Thread(target=watch, args=(process, sizes))
    watcher.start()
    process.wait()
    seconds = time.perf_counter() - begun
    watcher.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(place / "out", ignore_errors=True)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, seconds, sizes


def watch(process: subprocess.Popen, sizes: list[float]) -> None:
    while process.poll() is None:
        sizes.append(sum(map(megabytes, family(process.pid))))
        time.sleep(0.5)


def family(parent: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    members = [parent]
    for member in members:
        members += children.get(member, [])
    return members


def megabytes(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    main()
