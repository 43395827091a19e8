"""A notebook in its stored form: what stays, what goes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sevlab.lab import stored

RESULT = {"output_type": "execute_result", "data": {"text/plain": "42"}, "execution_count": 5, "metadata": {"noise": 1}}
PRINT = {"output_type": "stream", "name": "stdout", "text": "42\n"}


def notebook(*outputs: dict[str, Any], checked: bool = True) -> stored.Notebook:
    metadata: dict[str, Any] = {"collapsed": False} | ({"tags": [stored.CHECKED]} if checked else {})
    code = {"cell_type": "code", "id": "a", "source": "x\ny", "metadata": metadata, "execution_count": 7, "outputs": list(outputs)}
    words = {"cell_type": "markdown", "id": "b", "source": "text", "metadata": {}, "attachments": {}}
    return {"cells": [code, words], "metadata": {"language_info": {"version": "3.12.1"}}, "nbformat": 4, "nbformat_minor": 4}


def test_a_checked_cell_keeps_its_text_and_loses_its_count() -> None:
    cell = stored.normal(notebook(PRINT, RESULT))["cells"][0]

    assert cell["execution_count"] == 0 and cell["metadata"] == {"tags": [stored.CHECKED]}
    assert cell["outputs"] == [PRINT, RESULT | {"execution_count": None, "metadata": {}}]


def test_pieces_of_one_stream_are_kept_as_one_and_a_live_card_as_its_text() -> None:
    pieces = [{**PRINT, "text": "one\n"}, {**PRINT, "text": ["two\n"]}]
    shown = {"text/plain": "a card", stored.LIVE: {}, "image/svg+xml": "<svg/>"}
    card = {"output_type": "display_data", "data": shown, "metadata": {}}
    kept = stored.normal(notebook(*pieces, card))["cells"][0]["outputs"]

    assert kept[0] == PRINT | {"text": "one\ntwo\n"}
    assert kept[1]["data"] == {"text/plain": "a card"}


def test_any_other_cell_keeps_nothing() -> None:
    cell = stored.normal(notebook(PRINT, checked=False))["cells"][0]

    assert cell["execution_count"] is None and cell["outputs"] == []


def test_what_an_editor_left_behind_goes() -> None:
    kept = stored.normal(notebook())

    assert kept["metadata"] == stored.METADATA and (kept["nbformat"], kept["nbformat_minor"]) == (4, 5)
    assert set(kept["cells"][1]) == {"cell_type", "id", "source", "metadata"}


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []},
        {"output_type": "stream", "name": "stderr", "text": "warning"},
        {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}},
        {"output_type": "execute_result", "data": {"text/plain": "x", "text/html": "<b>"}, "metadata": {}, "execution_count": 1},
    ],
    ids=["error", "stderr", "display", "html"],
)
def test_a_checked_cell_that_shows_more_than_text_is_refused(output: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cell 'a' is checked and must show text only"):
        stored.normal(notebook(output))


def test_storing_twice_changes_nothing() -> None:
    once = stored.text(stored.normal(notebook(PRINT, RESULT)))

    again = json.loads(once)
    assert stored.text(stored.normal(again)) == once
    assert again["cells"][0]["source"] == ["x\n", "y"]


def test_a_notebook_is_run_and_written_as_it_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.ipynb"
    book = notebook()
    book["cells"][0]["source"] = "print(6 * 7)"
    path.write_text(stored.text(stored.normal(book)))

    assert stored.main([str(path)]) == 0
    assert json.loads(path.read_text())["cells"][0]["outputs"] == [PRINT | {"text": ["42\n"]}]
    assert "run and stored" in capsys.readouterr().out
