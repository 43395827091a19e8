"""Where the boxes of a Topology stand: under whatever holds them, in a row where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

FAR = 1e6  # px: nobody says where
GAP = 14.0  # px between two boxes


class Place(NamedTuple):
    """The left edge of a box, px, and the number of its row."""

    x: float
    row: int


def gap_of_all(_one: int, _other: int) -> float:
    """The usual gap between two boxes."""
    return GAP


def placed(
    wanted: Sequence[float],
    wides: Sequence[float],
    left: float,
    right: float,
    gap: Callable[[int, int], float] = gap_of_all,
) -> list[Place]:
    """A place for each box of `wides`, as near as can be to the left edge that it wants, and never over another one.

    `gap(one, other)` is the room between two neighbours. What does not fit into one row goes on in the next,
    and the rows are about equally full.
    """
    order = sorted(range(len(wides)), key=lambda i: wanted[i])
    found = [Place(left, 0)] * len(wides)
    for number, row in enumerate(_rows(order, wides, right - left, gap)):
        xs: list[float] = []
        for i, before in zip(row, [None, *row], strict=False):
            least = left if before is None else xs[-1] + wides[before] + gap(before, i)
            xs.append(max(least, least if wanted[i] > FAR / 2 else wanted[i]))
        limit = right
        for at in range(len(row) - 1, -1, -1):  # what is too far right pushes its neighbours left
            xs[at] = max(left, min(xs[at], limit - wides[row[at]]))
            limit = xs[at] - (gap(row[at - 1], row[at]) if at else 0)
        for i, x in zip(row, xs, strict=True):
            found[i] = Place(x, number)
    return found


def span(row: Sequence[int], wides: Sequence[float], gap: Callable[[int, int], float] = gap_of_all) -> float:
    """How wide boxes are beside each other."""
    return sum(wides[i] for i in row) + sum(gap(a, b) for a, b in pairwise(row))


def _rows(order: Sequence[int], wides: Sequence[float], width: float, gap: Callable[[int, int], float]) -> list[list[int]]:
    """The boxes in as few rows of at most `width` as can be, and equally many in each where that fits too."""
    rows: list[list[int]] = [[]]
    for i in order:
        if rows[-1] and span([*rows[-1], i], wides, gap) > width + 1:
            rows.append([])
        rows[-1].append(i)
    each = -(-len(order) // len(rows))
    even = [list(order[at : at + each]) for at in range(0, len(order), each)] if order else rows
    return even if all(span(row, wides, gap) <= width + 1 for row in even) else rows


def columns(count: int, width: float, least: float) -> int:
    """How many of `count` boxes stand beside each other in `width`, each at least `least` wide."""
    return max(1, min(count, int((width + GAP) // (least + GAP))))
