"""What OpenCV's versions and wheels do differently: how they fall silent, and whose the folder cv2/ is."""

import os
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution

__all__ = ["clash", "installed", "silence"]

WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def silence() -> None:
    """OpenCV's own lines on stderr cease, unless OPENCV_LOG_LEVEL in the environment asks for them."""
    import cv2

    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    if hasattr(cv2, "setLogLevel"):  # until 4.12
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def installed() -> dict[str, str]:
    """The wheel that brought cv2 and its version, or `opencv` and its version where none did."""
    import cv2

    return {name: wheel.version for name, wheel in distributions().items()} or {"opencv": cv2.__version__}


def clash() -> str:
    """What is wrong with the wheels that are installed, and what to do; empty where they get along.

    All of them own the folder cv2/: what is installed last overwrites a part of what was there, and to remove
    one takes files of the other.  Conda names one OpenCV twice, but neither name owns files.
    """
    owners = {name: wheel.version for name, wheel in distributions().items() if owns_cv2(wheel)}
    if len(owners) < 2:
        return ""
    names_and_versions = " and ".join(f"{name} {version}" for name, version in owners.items())
    return (
        f"{names_and_versions} are installed in one folder, cv2/, and overwrite one another; keep one: "
        f"pip uninstall -y {' '.join(owners)} && pip install {next(iter(owners))}"
    )


def distributions() -> dict[str, Distribution]:
    """Those of the wheels that are installed."""
    wheels = {}
    for name in WHEELS:
        with suppress(PackageNotFoundError):
            wheels[name] = distribution(name)
    return wheels


def owns_cv2(wheel: Distribution) -> bool:
    """Whether the wheel's list of files has the module."""
    return "cv2/__init__.py," in (wheel.read_text("RECORD") or "")
