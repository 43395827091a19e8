"""The rig of the browser tests: what it says where something is missing."""

from __future__ import annotations

import sys

import pytest


def test_a_missing_browser_is_named(rig, monkeypatch):
    monkeypatch.setattr(rig, "chromium", lambda: None)
    monkeypatch.setattr(rig, "find_spec", lambda name: object())

    assert rig.missing() == "no Chromium in the PATH (Debian: chromium)"


def test_a_missing_library_is_named(rig, monkeypatch):
    monkeypatch.setattr(rig, "find_spec", lambda name: None if name == "playwright" else object())

    assert rig.missing() == "playwright not installed in this Python"


@pytest.mark.parametrize(
    ("promised", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)], ids=["skipped", "failed"]
)
def test_what_is_missing_skips_or_fails_with_its_reason(rig, monkeypatch, promised, outcome):
    monkeypatch.setattr(rig, "missing", lambda: "no Chromium here")
    monkeypatch.setenv("SEVLAB_REQUIRE_TOOLS", promised)

    with pytest.raises(outcome, match="no Chromium here"):
        rig.require()


def test_a_notebook_of_cells_is_a_notebook(rig):
    nbformat = pytest.importorskip("nbformat")

    nbformat.validate(nbformat.from_dict(rig.notebook(["1 + 1", "x = 2"])))


def test_a_server_that_does_not_start_raises_with_its_log(rig, tmp_path):
    with pytest.raises(RuntimeError, match="no room for a server"):
        rig.started([sys.executable, "-c", "raise SystemExit('no room for a server')"], tmp_path, "http://127.0.0.1:9/")


@pytest.mark.ui
def test_a_window_is_left_to_the_next_notebook_as_it_was_found(lab):
    first = lab.open("window-first", ["x = 1\nx"], width=900).run()
    first.theme("dark")
    first.close()
    second = lab.open("window-second", ["x"], width=700).run()

    assert second.page is first.page
    assert second.page.evaluate("[innerWidth, document.body.dataset.jpThemeLight]") == [700, "true"]
    assert second.page.locator(".jp-Notebook").count() == 1
    assert second.do("print('x' in globals())") == "False\n"
    second.close()


@pytest.mark.ui
def test_who_asks_for_a_special_browser_gets_a_window_of_its_own(lab):
    usual = lab.open("window-usual", ["1"])
    usual.close()
    special = lab.open("window-special", ["1"], reduced_motion="reduce")

    assert special.page is not usual.page
    assert special.page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    special.close()
    assert special.page.is_closed()
