"""What OpenCV's versions and wheels do differently: how they fall silent, and whose folder cv2/ is."""

import os
from collections.abc import Iterable, Mapping
from importlib import metadata

__all__ = ["WHEELS", "clash", "installed_wheels", "silence"]

WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def silence() -> None:
    """OpenCV's own lines on stderr cease, unless OPENCV_LOG_LEVEL in the environment asks for them."""
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    import cv2

    if hasattr(cv2, "setLogLevel"):  # until 4.12
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def installed_wheels(names: Iterable[str] = WHEELS) -> dict[str, str]:
    """Those of the wheels that are installed, and their versions."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def clash(wheels: Mapping[str, str] | None = None) -> str:
    """What is wrong with the wheels that are installed, and what to do; empty where they get along.

    All of them own the folder cv2/: what was installed last overwrites part of what was there, and to remove
    one takes files of the other.
    """
    wheels = installed_wheels() if wheels is None else wheels
    if len(wheels) < 2:
        return ""
    listed = " and ".join(f"{name} {version}" for name, version in wheels.items())
    return (
        f"{listed} are installed in one folder, cv2/, and overwrite one another; keep one: "
        f"pip uninstall -y {' '.join(wheels)} && pip install {next(iter(wheels))}"
    )
