"""The notebooks as they are kept: no noise, the checked text only, and what every lab owes its reader.

That their cells run and that the checked text comes out is nbval's to say (`make test`). Here each is run once more
where no foreign tool is installed, against the clock: the stored text must not depend on the machine.
"""

from __future__ import annotations

import ast
import json
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sevlab.lab import stored

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IDS = [path.stem for path in NOTEBOOKS]
LINES = 12  # of a cell
COLUMNS = 100
WORDS = 20  # of a question
SECONDS = 30
NEVER = r"\b(simply|as you can see|obviously|of course|trivial(ly)?|just)\b"
TAGS = {stored.CHECKED}

Cell = dict[str, Any]
Books = pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)


def cells(path: Path, kind: str = "") -> list[Cell]:
    found: list[Cell] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if kind in ("", cell["cell_type"])]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def links(text: str) -> list[str]:
    return re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", text)


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


# ------------------------------------------------------------- as they are kept


@Books
def test_a_notebook_is_stored_in_its_normal_form(path: Path) -> None:
    kept = path.read_text(encoding="utf-8")

    assert stored.text(stored.normal(json.loads(kept))) == kept, f"run: python -m sevlab.lab.stored notebooks/{path.name}"


@Books
def test_outputs_are_stored_of_checked_cells_only_and_are_text(path: Path) -> None:
    for cell in cells(path, "code"):
        checked = stored.CHECKED in stored.tags(cell)
        assert cell["execution_count"] == (stored.RUN if checked else None), cell["id"]
        assert bool(cell["outputs"]) == checked, cell["id"]
        for output in cell["outputs"]:
            assert set(output) == {"output_type", "name", "text"} or set(output["data"]) == {"text/plain"}


@Books
def test_what_is_checked_is_no_address_no_path_and_no_time(path: Path) -> None:
    text = json.dumps([cell["outputs"] for cell in cells(path, "code")])

    assert not re.findall(r"0x7f[0-9a-f]{10}|object at|/home/|/tmp/|\d\d:\d\d:\d\d", text)


@Books
def test_cells_have_readable_names_of_their_own_and_known_tags(path: Path) -> None:
    names = [cell["id"] for cell in cells(path)]

    assert len(names) == len(set(names)) and all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    assert {tag for cell in cells(path) for tag in stored.tags(cell)} <= TAGS


# ------------------------------------------------------------- what a lab owes its reader


@Books
def test_the_first_cell_says_goal_time_needs_and_keys_and_the_last_sums_up_and_links_on(path: Path) -> None:
    first, last = (source(cells(path)[i]) for i in (0, -1))

    assert first.startswith("# Lab `") and all(f"**{word}:**" in first for word in ("Goal", "Time", "You need", "Keys"))
    assert last.startswith("## ") and links(last)


@Books
def test_a_cell_is_short_and_fits_its_column(path: Path) -> None:
    for cell in cells(path, "code"):
        lines = source(cell).splitlines()
        assert len(lines) <= LINES, cell["id"]
        assert max(map(len, lines)) <= COLUMNS, cell["id"]


@Books
def test_the_seeds_are_fixed(path: Path) -> None:
    calls = [node for cell in cells(path, "code") for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Call)]
    seeded = [call for call in calls if ast.unparse(call.func) in ("Host", "owner.new_session")]

    assert seeded and all("seed" in {word.arg for word in call.keywords} for call in seeded)


@Books
def test_a_question_is_short_and_its_answer_stands_elsewhere(path: Path) -> None:
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "lab.predict":
                assert isinstance(node.args[0], ast.Constant) and len(str(node.args[0].value).split()) <= WORDS, cell["id"]
                assert [word.arg for word in node.keywords] == ["reveal"], cell["id"]
                assert ast.unparse(node.keywords[0].value).startswith("lambda: answers."), cell["id"]
                assert stored.CHECKED not in stored.tags(cell), f"{cell['id']} would store what the card hides"


@Books
def test_every_image_has_a_text_for_who_does_not_see_it(path: Path) -> None:
    text = "\n".join(source(cell) for cell in cells(path, "markdown"))

    assert not re.findall(r"!\[\s*\]\(", text)
    assert all(re.search(r"\balt=\"[^\"]+\"", tag) for tag in re.findall(r"<img[^>]*>", text))


@Books
def test_headings_go_down_one_step_at_a_time(path: Path) -> None:
    levels = [len(mark) for cell in cells(path, "markdown") for mark in re.findall(r"^(#+) ", source(cell), re.M)]

    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


PAGES = [*NOTEBOOKS, *sorted((ROOT / "notebooks").glob("*.md")), *sorted((ROOT / "notebooks/reference").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_inside_the_book_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(map(source, cells(path, "markdown")))
    inside = [link.partition("#")[0] for link in links(text) if not link.startswith(("http", "#"))]

    assert [link for link in inside if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_nothing_is_called_simple(path: Path) -> None:
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(map(source, cells(path, "markdown")))

    assert [found[0] for found in re.finditer(NEVER, text, re.I)] == []


# ------------------------------------------------------------- on another machine


@Books
def test_without_any_foreign_tool_the_stored_text_is_the_same_and_it_takes_less_than_half_a_minute(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nbclient")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))

    began = time.monotonic()
    ran = stored.execute(path)
    took = time.monotonic() - began

    assert stored.text(stored.normal(ran)) == path.read_text(encoding="utf-8")
    absent = [json.dumps(cell["outputs"]) for cell in ran["cells"] if "foreign_verdict" in cell["source"] and "outputs" in cell]
    assert all("is not installed on this machine" in text for text in absent)
    assert took < SECONDS, f"{took:.0f} s"
