"""The folder of a run in shards: what may lie in it, and the folders of its parts."""

from pathlib import Path

from attnvis.files import refuse_link, remove_parts

__all__ = ["FILES", "FOLDERS", "forget_parts", "part_folders", "remove_leftovers"]

FILES = ("run.json", "shards.parquet", "session.json", "slurm.json", "totals.json", "index.html")
GROUPED = ("parts", "records", "maps", "overlays", "panels")  # whose folders are of a thousand shards each
FOLDERS = (*GROUPED, "wandb", ".submitit")


def part_folders(folder: Path) -> list[Path]:
    """What there is of parts/000, records/000 and the like.  Raises ValueError where one is a link."""
    folders = [group for name in GROUPED for group in (folder / name).glob("*")]
    for group in folders:
        refuse_link(group)
    return folders


def forget_parts(folder: Path) -> None:
    """What lies in a folder that has no plan of ours is nobody's: it is done again.

    Raises OSError, and ValueError as `part_folders` does.
    """
    for group in part_folders(folder):
        for receipt in group.glob("*") if group.parent.name == "parts" else ():
            receipt.unlink()


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """The half-written files of processes that were killed, `age` seconds after they last wrote.

    Raises ValueError as `part_folders` does.
    """
    for group in part_folders(folder):
        remove_parts(group, age=age)
