"""Between a lesson and its cards: a live widget where one can be shown, text everywhere.

Nothing here is imported from the widgets before a card is displayed, so that a
lesson runs, and says all it has to say, where they are not installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def live() -> bool:
    """Whether a notebook is listening and the widgets are installed. SEVLAB_STATIC=1 says that nobody is."""
    if os.environ.get("SEVLAB_STATIC") == "1" or find_spec("anywidget") is None or find_spec("sevlab_widgets") is None:
        return False
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def widgets(module: str) -> Any:
    """A module of the widgets, which is only asked for when something is shown."""
    return import_module(f"sevlab_widgets.{module}")


def prediction(question: str, answers: tuple[str, ...], reveal: Callable[[], Any], unit: str = "") -> Any:
    """The live card of a prediction; None where there is nobody to show it to."""
    return widgets("ask").Ask(question, answers, reveal=reveal, unit=unit) if live() else None


def checked(sheet: Callable[[], Mapping[str, Any]], *, hint: Any, line: Any, look: Any) -> Any:
    """The live card of a checked exercise; None where there is nobody to show it to."""
    if not live():
        return None
    cards = widgets("ask")
    return cards.Checked(lambda: cards.Sheet(**sheet()), on_hint=hint, on_line=line, on_look=look)


# What stands for an outcome beside its word: colour is never alone.
SIGNS = {"passed": "✓", "not yet": "≠", "your code raised": "!", "not attempted": "–"}


def sheet_text(sheet: Mapping[str, Any]) -> str:
    """The card of a checked exercise as text: question or verdict, the table, help so far, and how many are passed."""
    lines = [f"{sheet['id']} · {sheet['title']}: {sheet['sign']} {sheet['outcome']}"]
    lines += [f"  {line}" for part in (sheet["question"], sheet["says"]) for line in part.splitlines()]
    if sheet["rows"]:
        cells = [[*sheet["heads"], ""], *[[*row[:3], "" if row[3] else "differs"] for row in sheet["rows"]]]
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines += ["  " + "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in cells]
    if sheet["look"]:
        lines.append(f"  look at: {sheet['look']}")
    lines += [f"  hint {number} of {sheet['hints_all']}: {hint}" for number, hint in enumerate(sheet["hints"], 1)]
    lines += [f"  solution, line {number} of {sheet['solution_all']}: {line}" for number, line in enumerate(sheet["solution"], 1)]
    if sheet["note"]:
        lines.append(f"  {sheet['note']}")
    passed = sum(outcome == "passed" for _, outcome, _ in sheet["dots"])
    lines.append(f"  {sheet['level']}, usually {sheet['minutes']} minutes; {passed} of {len(sheet['dots'])} passed")
    return "\n".join(lines)
