"""Columns: a number for every frame of a machine, and the rows of a trace as one array a field.

Beside `bulk` the only module of the core that imports numpy: plain numbers and buffers at its border.
A column of sixteen million frames costs what was touched of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sevlab.bulk import reserve
from sevlab.crypto import Buffer

ORDER = sys.byteorder
SHORT = 256  # values up to which bytes are quicker than arrays

Array = Any  # numpy's array types say nothing here that the names do not


class Column:
    """`count` numbers of one, two or four bytes, zero at first; untouched ones cost no memory."""

    def __init__(self, count: int, width: int) -> None:
        self.count = count
        self.limit = 256**width - 1
        self._width = width
        self._raw = reserve(count * width + 4 - count * width % 4)
        self._items: memoryview[int] = memoryview(self._raw).cast({1: "B", 2: "H", 4: "I"}[width])  # type: ignore[call-overload]
        self.array: Array = np.frombuffer(self._items, dtype=f"u{width}", count=count)
        self._end = 0  # nothing was written from here on
        self.bound = 0  # no value is larger
        self._one = self.array.dtype.type(1)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"{index} is not one of {self.count}")
        return self._items[index]

    def fill(self, first: int, count: int, value: int) -> None:
        """Set a run to one value."""
        end = first + count
        if end > self._end:
            self._end = end
        if value > self.bound:
            self.bound = value
        if count == 1:
            self._items[first] = value
        elif count <= SHORT:
            width = self._width
            self._raw[first * width : end * width] = value.to_bytes(width, ORDER) * count
        else:
            self.array[first:end] = value

    def add(self, first: int, count: int, change: int) -> None:
        """Add +1 or -1 to a run. Raises OverflowError, and changes nothing, when one would leave its range."""
        if not count:
            return
        run = self.array[first : first + count]
        if change > 0 and self.bound >= self.limit:
            self.bound = int(self.array[: self._end].max())  # the bound was crude: look
        if self.bound >= self.limit and int(run.max()) >= self.limit if change > 0 else np.count_nonzero(run) < count:
            raise OverflowError(f"a count from {first:#x} on would leave 0..{self.limit}")

        if first + count > self._end:
            self._end = first + count
        if change > 0:
            run += self._one
            self.bound += 1
        else:
            run -= self._one

    def counts(self) -> dict[int, int]:
        """How often each value occurs."""
        total = np.zeros(1, dtype=np.int64)
        for first in range(0, self._end, 1 << 20):
            part = np.bincount(self.array[first : min(first + (1 << 20), self._end)], minlength=len(total))
            part[: len(total)] += total
            total = part
        total[0] += self.count - self._end
        return {int(value): int(total[value]) for value in np.flatnonzero(total)}

    def gravest(self, first: int, count: int, cells: int, gravity: Sequence[int], width: int) -> Array:
        """A picture of a range, `width` cells a line: each the gravest of `cells` values, by `gravity[value]` (no two alike)."""
        order = np.asarray(gravity, dtype=np.uint8)
        value_of = np.argsort(order).astype(np.uint8)
        return value_of[self._cells(order[self.array[first : first + count]], cells, width)]

    def most(self, first: int, count: int, cells: int, width: int) -> Array:
        """The same with the largest value."""
        return self._cells(self.array[first : first + count], cells, width)

    @staticmethod
    def _cells(values: Array, cells: int, width: int) -> Array:
        short = -len(values) % (cells * width)
        return np.concatenate((values, np.zeros(short, values.dtype))).reshape(-1, width, cells).max(axis=2)

    @staticmethod
    def runs(first: int, count: int, *columns: Column) -> list[tuple[int, ...]]:
        """The runs of equal values in a range, as (first, count, a value of each column)."""
        if not count:
            return []
        end = min(max(column._end for column in columns) + 1, first + count)  # behind it all is zero
        cuts = [np.zeros(1, dtype=np.int64)]
        for column in columns:
            part = column.array[first:end]
            cuts.append(np.flatnonzero(part[1:] != part[:-1]) + 1)
        starts = np.unique(np.concatenate(cuts))
        lengths = np.diff(np.append(starts, count))
        values = [column.array[starts + first] for column in columns]
        return list(zip((starts + first).tolist(), lengths.tolist(), *(value.tolist() for value in values), strict=True))


def columns(packed: Buffer, formats: Iterable[tuple[str, str]]) -> dict[str, Array]:
    """Packed rows as one array a column, without a copy: what `Trace.packed` gives, ready for a plot."""
    rows = np.frombuffer(packed, dtype=np.dtype(list(formats)))
    return {name: rows[name] for name in rows.dtype.names or ()}
