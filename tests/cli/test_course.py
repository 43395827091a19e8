"""`sevlab lab` finds the course and hands its words on; it never starts JupyterLab here."""

from __future__ import annotations

import os
import sys

import pytest

from sevlab.cli import course


@pytest.fixture
def started(monkeypatch):
    """The command lines that would have replaced this process."""
    lines = []
    monkeypatch.setattr(os, "execv", lambda path, words: lines.append(words))
    monkeypatch.setattr(course.util, "find_spec", lambda name: object())
    return lines


def test_what_follows_lab_goes_to_jupyterlab_in_its_order(sevlab, started, root):
    sevlab("lab", "--no-browser", "--port", "9999")

    (words,) = started
    assert words[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={root / 'notebooks'}" in words
    assert words[-3:] == ["--no-browser", "--port", "9999"]


def test_lab_opens_the_first_lab(tmp_path):
    for name in ("01_launch.ipynb", "00_tour.ipynb", "notes.md"):
        (tmp_path / name).touch()

    assert "--LabApp.default_url=/lab/tree/00_tour.ipynb" in course.command(tmp_path, [])


def test_root_is_allowed_once(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert course.command(tmp_path, ["--allow-root"]).count("--allow-root") == 1
    assert course.command(tmp_path, []).count("--allow-root") == 1
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--allow-root" not in course.command(tmp_path, [])


def test_without_jupyterlab_lab_says_how_to_get_it(refused, monkeypatch):
    monkeypatch.setattr(course.util, "find_spec", lambda name: None)

    assert "pip install 'sevlab[lab]'" in refused(1, "lab")


def test_an_installed_course_is_copied_once_and_then_left_alone(sevlab, started, tmp_path, monkeypatch):
    data = tmp_path / "data/share/sevlab/notebooks"
    data.mkdir(parents=True)
    (data / "01_launch.ipynb").write_text("as shipped")
    (data / "reference").mkdir()
    (data / "reference/coverage.md").write_text("what is modelled")
    monkeypatch.setattr(course.sevlab, "__file__", str(tmp_path / "site-packages/sevlab/__init__.py"))
    monkeypatch.setattr(course.sysconfig, "get_path", lambda name: str(tmp_path / "data"))

    sevlab("lab")
    own = tmp_path / "sevlab-course/01_launch.ipynb"
    assert own.read_text() == "as shipped"
    assert (tmp_path / "sevlab-course/reference/coverage.md").read_text() == "what is modelled"
    own.write_text("solved")
    sevlab("lab")

    assert own.read_text() == "solved" and len(started) == 2


def test_a_copy_that_fails_half_way_leaves_no_half_course(sevlab, refused, started, tmp_path, monkeypatch):
    data = tmp_path / "data/share/sevlab/notebooks"
    data.mkdir(parents=True)
    (data / "01_launch.ipynb").write_text("as shipped")
    monkeypatch.setattr(course.sevlab, "__file__", str(tmp_path / "site-packages/sevlab/__init__.py"))
    monkeypatch.setattr(course.sysconfig, "get_path", lambda name: str(tmp_path / "data"))
    whole = course.shutil.copytree

    def half(source, to):
        whole(source, to)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(course.shutil, "copytree", half)
    assert "No space left on device" in refused(1, "lab")
    assert not (tmp_path / "sevlab-course").exists() and started == []

    monkeypatch.setattr(course.shutil, "copytree", whole)
    sevlab("lab")
    assert (tmp_path / "sevlab-course/01_launch.ipynb").read_text() == "as shipped"


def test_an_installation_without_notebooks_says_so(refused, started, tmp_path, monkeypatch):
    monkeypatch.setattr(course.sevlab, "__file__", str(tmp_path / "site-packages/sevlab/__init__.py"))
    monkeypatch.setattr(course.sysconfig, "get_path", lambda name: str(tmp_path / "data"))

    assert "carries no notebooks" in refused(1, "lab")
    assert started == []
