"""Every exercise, answered with nonsense of every kind: a card with a verdict, never a traceback and never a pass."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sevlab.lab.exercises import LABS, of_lab
from sevlab.lab.grading import OUTCOMES, PASSED
from sevlab.lab.reader import Progress, check, exercise, reader

ALL = [one.id for lab in LABS for one in of_lab(lab)]
CELL = 300  # letters of the widest line that a card may have


class Odd:
    """Neither to be compared, nor shown, nor hashed."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compare me not")

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise RuntimeError("show me not")


def fails(*args: Any) -> Any:
    raise OSError(5, "no")


def endless(*args: Any) -> Iterator[int]:
    yield from itertools.count()


NONSENSE: dict[str, Any] = {
    "none": None, "an empty text": "", "no list": [], "no dict": {}, "not a number": math.nan, "a huge number": 10**5000,
    "below 0": -1, "yes": True, "bytes": b"x", "32 bytes": bytearray(32), "a class": Odd, "an odd thing": Odd(),
    "odd things": [Odd(), Odd()],
    "an array": np.zeros(32, np.uint8), "half a letter": "\ud800", "braces": "{x}{}", "emoji": "😀" * 300, "a range": range(10**9),
    "raises": fails, "no arguments": lambda: 1, "odd answer": lambda *args: Odd(), "a class again": lambda *args: Odd,
    "without an end": endless(), "gives what has no end": endless, "a dict of odd things": {"private": Odd(), "shared": []},
}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who has not begun."""
    monkeypatch.setattr(reader, "progress", Progress())
    monkeypatch.setattr(reader, "cases", {})
    monkeypatch.setattr(reader, "seed", 1234)


@pytest.mark.parametrize("id", ALL)
def test_nonsense_gets_a_card(id: str) -> None:
    asked = repr(exercise(id))
    for name, answer in NONSENSE.items():
        found = check(id, answer)
        card = found.describe()
        assert found.outcome in OUTCOMES and found.outcome != PASSED, name
        assert "Traceback" not in card and max(map(len, card.splitlines())) < max(CELL, len(asked)), name
        assert json.loads(json.dumps(found.sheet()))["id"] == id, name
        assert found.says or found.rows or found.outcome == "not attempted", name


@pytest.mark.parametrize("id", ALL)
def test_two_answers_where_one_is_asked_for_get_a_card_too(id: str) -> None:
    who = {"lazy": Odd(), "careful": []}
    pairs: list[tuple[Callable[..., Any] | bytes, Any]] = [(fails, {}), (b"", Odd()), (lambda *args: bytes(48), who)]
    for pair in pairs:
        found = check(id, *pair)
        assert not found and found.describe().startswith(id)
