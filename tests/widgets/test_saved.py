"""What a saved notebook keeps of a widget: a sentence, a small picture, and a loader, never the map and never the program."""

from __future__ import annotations

import importlib.util
import sys

import judges
import pytest

NEEDED = ("nbclient", "nbformat", "ipykernel", "anywidget")
CELL = """
import numpy as np
from sevlab_widgets import PageMap
m = PageMap(np.random.default_rng(1).integers(0, 9, 1 << 20).astype("u1"), title="a million random pages")
m
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook as nbclient runs and stores it, widget state and all."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        judges.absent(f"{', '.join(absent)} not installed in this Python")
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"import sys; sys.path[:] = {sys.path!r}"), nbformat.v4.new_code_cell(CELL)]
    )
    NotebookClient(
        book, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path_factory.mktemp("saved"))}}
    ).execute()
    book.cells[0].source = ""
    return book


def test_a_notebook_with_a_million_pages_and_its_widget_state_is_under_ten_kilobytes(executed):
    import nbformat

    saved = len(nbformat.writes(executed))

    print(f"1 M random pages, executed by nbclient, widget state stored: {saved} bytes")
    assert executed.metadata.widgets
    assert saved < 10_000


def test_a_reader_without_a_front_end_finds_a_picture_and_a_sentence(executed):
    [output] = executed.cells[1].outputs

    assert output.data["text/plain"].startswith("a million random pages: 1,048,576 pages (4 GiB). . free 116,")
    assert output.data["image/png"].startswith("iVBORw0KGgo")
    assert output.metadata["image/png"]["alt"] == output.data["text/plain"]
