"""Which OpenCV is here: one wheel or two, loud or silent."""

import subprocess
import sys

import cv2
import pytest

from attnvis import opencv


def test_one_wheel_of_opencv_is_no_clash():
    assert opencv.clash({"opencv-python-headless": "4.12.0.88"}) == ""
    assert opencv.clash({}) == ""  # built by hand, or by the system


def test_two_wheels_of_opencv_are_named_and_what_to_do():
    sentence = opencv.clash({"opencv-python": "5.0.0.93", "opencv-python-headless": "4.10.0.84"})
    assert "opencv-python 5.0.0.93 and opencv-python-headless 4.10.0.84" in sentence
    assert sentence.endswith(
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python"
    )
    assert "\n" not in sentence


@pytest.fixture
def two_wheels(tmp_path, monkeypatch):
    """A folder in front of site-packages where a second wheel left its name, on the path of child processes too."""
    (name,) = opencv.installed_wheels()
    other = next(wheel for wheel in opencv.WHEELS if wheel != name)
    left = tmp_path / "site" / f"{other.replace('-', '_')}-4.10.0.84.dist-info"
    left.mkdir(parents=True)
    (left / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other}\nVersion: 4.10.0.84\n")
    monkeypatch.syspath_prepend(str(left.parent))
    return other, left.parent


def test_wheels_are_found_by_what_is_installed(two_wheels):
    other, _ = two_wheels
    assert opencv.installed_wheels()[other] == "4.10.0.84" and len(opencv.installed_wheels()) == 2


def test_a_command_says_once_that_two_wheels_clash(attnvis, cat, two_wheels):
    answer = attnvis("run", "cat.png", "preprocess.size=96")
    assert answer.code == 0
    assert answer.err.count(f"attnvis: opencv-") == 1 and f"{two_wheels[0]} 4.10.0.84" in answer.err


def test_python_warns_once_that_two_wheels_clash(two_wheels):
    _, folder = two_wheels
    lines = f"import sys; sys.path.insert(0, {str(folder)!r}); import attnvis.data.decoding, attnvis.data.video"
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
