"""The rig of the browser tests: what it says where something is missing."""

from __future__ import annotations

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
