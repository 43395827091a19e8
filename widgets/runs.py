"""Runs of equal cells: how a map of a million pages travels, and how it shrinks.

A map has three columns: state (u8), owner (u16), pins (u16). What changed goes
out as runs of cells that are alike in all three, thirteen bytes a run, one
column after the other:

    first u32[n] | length u32[n] | owner u16[n] | pins u16[n] | state u8[n]

So one changed page costs thirteen bytes, and fifty thousand neighbours that
changed alike cost thirteen too.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

ROW = 13  # bytes of one run
SMALL = 512  # below this many bytes compressing gains nothing
Columns = tuple[Any, Any, Any]  # state, owner, pins
Range = tuple[int, int]  # first, count


def blank(count: int) -> Columns:
    """Columns of `count` cells, all zero."""
    return np.zeros(count, np.uint8), np.zeros(count, np.uint16), np.zeros(count, np.uint16)


def grown(columns: Columns, count: int) -> Columns:
    """Copies of `count` cells; what is new is zero."""
    made = blank(count)
    for new, old in zip(made, columns, strict=True):
        new[: len(old)] = old
    return made


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same cells as disjoint ranges in ascending order; neighbours become one."""
    merged: list[Range] = []
    for first, count in sorted(ranges):
        if merged and first <= merged[-1][0] + merged[-1][1]:
            start, length = merged[-1]
            merged[-1] = start, max(length, first + count - start)
        elif count:
            merged.append((first, count))
    return merged


def runs(columns: Columns, ranges: Sequence[Range]) -> tuple[Any, ...]:
    """The runs inside disjoint ascending ranges: arrays of first, length, owner, pins, state."""
    if len(ranges) == 1:
        first, count = ranges[0]
        parts = [column[first : first + count] for column in columns]
        cut = np.zeros(count, dtype=bool)
        for part in parts:
            cut[1:] |= part[1:] != part[:-1]
        starts = np.flatnonzero(cut[1:]) + 1
        starts = np.concatenate(([0], starts)) if count else starts
        lengths = np.diff(np.append(starts, count))
        at = starts + first
    else:
        begin = np.array([first for first, _ in ranges], dtype=np.int64)
        sizes = np.array([count for _, count in ranges], dtype=np.int64)
        total = int(sizes.sum())
        cells = np.repeat(begin - np.cumsum(sizes) + sizes, sizes) + np.arange(total)
        cut = np.ones(total, dtype=bool)
        cut[1:] = np.diff(cells) != 1
        for column in columns:
            values = column[cells]
            cut[1:] |= values[1:] != values[:-1]
        starts = np.flatnonzero(cut)
        lengths = np.diff(np.append(starts, total))
        at = cells[starts]
    state, owner, pins = (column[at] for column in columns)
    return at.astype("<u4"), lengths.astype("<u4"), owner.astype("<u2"), pins.astype("<u2"), state


def pack(rows: tuple[Any, ...]) -> bytes:
    """Runs as bytes, one column after the other."""
    return b"".join(column.tobytes() for column in rows)


def unpack(data: bytes) -> tuple[Any, ...]:
    """The runs that `pack` made into `data`; what the front end does, for tests."""
    n, at, found = len(data) // ROW, 0, []
    for kind in ("<u4", "<u4", "<u2", "<u2", "u1"):
        found.append(np.frombuffer(data, kind, n, at))
        at += found[-1].nbytes
    return tuple(found)


def squeeze(data: bytes) -> tuple[bytes, int]:
    """The bytes to send and whether they are compressed: zlib level 1, where that gains something."""
    small = zlib.compress(data, 1) if len(data) >= SMALL else data
    return (small, 1) if len(small) < len(data) else (data, 0)


def differences(one: Columns, other: Columns) -> list[Range]:
    """The ranges of cells in which two sets of columns differ."""
    changed = np.zeros(len(one[0]) + 2, dtype=np.int8)
    for mine, yours in zip(one, other, strict=True):
        changed[1:-1] |= mine != yours
    edges = np.flatnonzero(np.diff(changed))
    return [(int(a), int(b - a)) for a, b in zip(edges[0::2], edges[1::2], strict=True)]


def reduce(states: Any, ranks: Sequence[int], cells: int) -> Any:
    """The most severe state of each group of `cells` pages: an array of codes.

    `ranks[code]` orders the codes; no two are alike. The last group may be
    short. One changed page in a million still decides its cell.
    """
    order = np.asarray(ranks, dtype=np.uint8)
    code_of = np.zeros(int(order.max()) + 1, dtype=np.uint8)
    code_of[order] = np.arange(len(order), dtype=np.uint8)
    severity = order[np.asarray(states)]
    short = -len(severity) % cells
    if short:
        severity = np.concatenate((severity, np.full(short, order.min(), dtype=np.uint8)))
    return code_of[severity.reshape(-1, cells).max(axis=1)]
