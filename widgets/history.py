"""What happened to pages, as rows of a trace, and the map of any moment folded from them.

Three kinds of rows change a page; their names and columns are data, so that
another machine's trace can be drawn as well.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any

from sevlab_widgets import runs

# kind of row -> what it does to the pages first .. first + count - 1: set a column from the row's field, or add a number.
PAGE_EVENTS: Mapping[str, Mapping[str, Any]] = {
    "PagesMarked": {"state": "state", "owner": "asid"},
    "PagesPinned": {"pins": 1},
    "PagesUnpinned": {"pins": -1},
}


class History:
    """Rows in their order, and how many of them the columns hold. `host` is the number whose rows count."""

    def __init__(self, columns: runs.Columns, host: int = 0, events: Mapping[str, Mapping[str, Any]] = PAGE_EVENTS) -> None:
        self.columns = columns
        self.host = host
        self.events = events
        self.used = 0  # no page from here on was ever written
        self._entries: list[int] = []
        self._changes: list[tuple[int, int, Any, Any, int]] = []  # first, end, state, owner, pins added
        self._done = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows in, without drawing them."""
        for row in rows:
            event = self.events.get(row["kind"])
            if event is None or row["host"] != self.host:
                continue
            first, state, owner = row["first"], event.get("state"), event.get("owner")
            end = first + row["count"]
            self.used = max(self.used, end)
            self._entries.append(row["n"])
            self._changes.append((first, end, row[state] if state else None, row[owner] if owner else None, event.get("pins", 0)))

    def begin(self, n: int, found: Iterable[tuple[int, int, int, int, int]]) -> None:
        """Start from runs (first, length, state, owner, pins) as they are after entry `n`: what was before is not known."""
        for first, length, state, owner, pins in found:
            if state or owner or pins:
                self.used = max(self.used, first + length)
                self._entries.append(n)
                self._changes.append((first, first + length, state, owner, pins))

    def draw(self, n: int | None) -> list[runs.Range]:
        """Make the columns those after entry `n` (None: now); the ranges of pages that may be different."""
        goal = len(self._changes) if n is None else bisect_right(self._entries, n)
        if goal >= self._done:
            return self._apply(goal)
        before = _head(self.columns, self.used, copy=True)
        for column in self.columns:
            column[: self.used] = 0
        self._done = 0
        self._apply(goal)
        return runs.differences(before, _head(self.columns, self.used))

    def _apply(self, goal: int) -> list[runs.Range]:
        states, owners, pins = self.columns
        touched = []
        for first, end, state, owner, more in self._changes[self._done : goal]:
            if state is not None:
                states[first:end] = state
            if owner is not None:
                owners[first:end] = owner
            if more:
                run = pins[first:end]
                run += more if more > 0 else 65536 + more  # modulo 2^16
            touched.append((first, end - first))
        self._done = goal
        return touched


def _head(columns: runs.Columns, count: int, copy: bool = False) -> runs.Columns:
    """The first `count` cells of each column."""
    state, owner, pins = (column[:count].copy() if copy else column[:count] for column in columns)
    return state, owner, pins
