"""Which OpenCV is here: one wheel or two, loud or silent."""

import subprocess
import sys

import cv2
import pytest

from attnvis import opencv
from attnvis.pipeline.plan import RunPlan
from attnvis.render import Style
from attnvis.types import Provenance


def leave_a_wheel(folder, name, version, files=("cv2/__init__.py", "cv2/cv2.abi3.so")):
    """What pip leaves of an installed wheel: its name, and the list of its files."""
    left = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    left.mkdir(parents=True)
    (left / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if files:
        (left / "RECORD").write_text("".join(f"{file},,\n" for file in files))


@pytest.fixture
def only(tmp_path, monkeypatch):
    """A folder of wheels that hides those that are installed."""
    real = opencv.distribution

    def within(name):
        found = list(opencv.Distribution.discover(name=name, path=[str(tmp_path)]))
        return found[0] if found else real("no such wheel")

    monkeypatch.setattr(opencv, "distribution", within)
    return tmp_path


def test_one_wheel_of_opencv_is_no_clash(only):
    assert opencv.clash() == ""
    leave_a_wheel(only, "opencv-python-headless", "4.12.0.88")
    assert opencv.clash() == ""


def test_two_wheels_of_opencv_are_named_and_what_to_do(only):
    leave_a_wheel(only, "opencv-python-headless", "4.10.0.84")
    leave_a_wheel(only, "opencv-python", "5.0.0.93")
    sentence = opencv.clash()
    assert "opencv-python 5.0.0.93 and opencv-python-headless 4.10.0.84" in sentence and "\n" not in sentence
    remedy = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python"
    assert sentence.endswith(remedy)


def test_one_opencv_under_two_names_is_no_clash(only):
    """As conda leaves it: both names, no list of files."""
    leave_a_wheel(only, "opencv-python", "4.12.0", files=())
    leave_a_wheel(only, "opencv-python-headless", "4.12.0", files=())
    assert opencv.clash() == ""


def test_a_run_records_the_opencv_that_is_here(only):
    plan = RunPlan((), Style(), Provenance())
    assert plan.versions()["opencv"] == cv2.__version__  # of no wheel
    leave_a_wheel(only, "opencv-python-headless", "4.12.0.88")
    assert plan.versions()["opencv-python-headless"] == "4.12.0.88" and "opencv" not in plan.versions()


@pytest.fixture
def second(tmp_path, monkeypatch):
    """The name of a second wheel, and the folder in front of site-packages where it is."""
    (name,) = opencv.installed()
    other = next(wheel for wheel in opencv.WHEELS if wheel != name)
    leave_a_wheel(tmp_path / "site", other, "4.10.0.84")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return other, tmp_path / "site"


def test_a_command_says_once_that_two_wheels_clash(attnvis, cat, second):
    answer = attnvis("run", "cat.png", "preprocess.size=96")
    assert answer.code == 0
    assert answer.err.count("attnvis: opencv-") == 1 and f"{second[0]} 4.10.0.84" in answer.err


def test_python_warns_once_that_two_wheels_clash(second):
    site = f"import sys; sys.path.insert(0, {str(second[1])!r})"
    lines = f"{site}; import attnvis.data.decoding, attnvis.data.video"
    child = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert child.stderr.count("are installed in one folder, cv2/") == 1


def test_opencv_keeps_silent_about_a_file_that_it_cannot_read():
    lines = "import attnvis.data.decoding, cv2; assert cv2.imread('no such photo.png') is None"
    child = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert child.stderr == ""


def test_a_version_is_silenced_by_the_name_it_knows(monkeypatch):
    levels = []
    monkeypatch.delenv("OPENCV_LOG_LEVEL", raising=False)
    monkeypatch.setattr(cv2, "setLogLevel", levels.append, raising=False)  # 4.10 ... 4.12
    opencv.silence()
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "info")
    opencv.silence()
    assert levels == [0]
