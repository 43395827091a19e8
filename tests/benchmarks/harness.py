"""Benchmarks as ratios: each figure stands beside its limit or its peer, measured in the same run.

    python tests/benchmarks/harness.py [engine crypto ...]      # bench_engine.py, bench_crypto.py, ...; all without a name

One line a figure: name, ratio, goal, and how it stands to the goal: ok, near or short. The exit status is 1 if one is
short or a module broke. JSON=FILE in the environment, or --json FILE, writes them too.

Rounds of both sides are interleaved and the ratio of each round is taken, because the speed of a machine drifts by half
within a minute and its ratios do not. The gate is the median ratio: `ok` at or under the goal, `near` up to 15 % above it (as far
as medians wander here), `short` beyond.
Absolute times are printed and never judged. They are seconds of the thread's own processor time, so that what else the
machine does counts for nobody, except where a side asks another process and waits: then it is the clock on the wall.

A module `bench_NAME.py` has one function, `figures()`, that yields what `pair` returns.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
SLACK = 1.15
Clock = Callable[[], float]
ROUND = 0.02  # seconds that one side of one round lasts at least


class Figure(NamedTuple):
    """One measured ratio, ours over the limit's; `ratio` is None where the peer is not there. Times in seconds a call."""

    name: str
    goal: float
    ratio: float | None
    ours: float = 0.0
    limit: float = 0.0
    note: str = ""

    @property
    def verdict(self) -> str:
        """ok at or under the goal, near within SLACK of it, short above that, or absent."""
        if self.ratio is None:
            return "absent"
        return "ok" if self.ratio <= self.goal else "near" if self.ratio <= self.goal * SLACK else "short"

    def __str__(self) -> str:
        if self.ratio is None:
            return f"{self.name:<58} {'-':>7} {self.goal:7.2f}  absent  {self.note}"
        times = f"{_time(self.ours)} against {_time(self.limit)}"
        return f"{self.name:<58} {self.ratio:7.2f} {self.goal:7.2f}  {self.verdict:<6}  {times}  {self.note}".rstrip()


def pair(
    name: str,
    goal: float,
    ours: Callable[[], Any],
    limit: Callable[[], Any],
    rounds: int = 7,
    *,
    before: Callable[[], Any] | None = None,
    per: int = 1,
    note: str = "",
    clock: Clock = time.thread_time,
) -> Figure:
    """Measure `ours` against `limit`: the median over the rounds of the ratio of their times.

    `before` runs, unmeasured, ahead of each side of each round. `per` is how many operations one call of either makes.
    `clock` gives seconds.
    """
    counts = [_count(side, before, clock) for side in (limit, ours)]
    taken: list[list[float]] = [[], []]
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            if before:
                before()
            taken[side].append(_timed((limit, ours)[side], counts[side], clock) / per)
    ratio = statistics.median(mine / theirs for theirs, mine in zip(*taken, strict=True))
    return Figure(name, goal, ratio, statistics.median(taken[1]), statistics.median(taken[0]), note)


def absent(name: str, goal: float, why: str) -> Figure:
    """A figure whose peer is not on this machine: printed, and no failure."""
    return Figure(name, goal, None, note=why)


def _timed(call: Callable[[], Any], count: int, clock: Clock) -> float:
    """Seconds a call, over `count` calls, with the garbage collector at rest."""
    was = gc.isenabled()
    gc.disable()
    try:
        turns = range(count)
        start = clock()
        for _ in turns:
            call()
        return (clock() - start) / count
    finally:
        if was:
            gc.enable()


def _count(call: Callable[[], Any], before: Callable[[], Any] | None, clock: Clock) -> int:
    """How many calls fill a round; it also warms the caches."""
    if before:
        before()
    count = 1
    while True:
        took = _timed(call, count, clock) * count
        if took >= ROUND / 2:
            return max(1, round(count * ROUND / took))
        count *= 4


def _time(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def run(names: list[str]) -> int:
    """Measure what the modules of these names yield (of all names, if none is given) and print it; the exit status."""
    sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
    found = sorted(path.stem for path in HERE.glob("bench_*.py"))
    unknown = [name for name in names if f"bench_{name}" not in found]
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(stem[6:] for stem in found)}", file=sys.stderr)
        return 2
    figures, broken = [], False
    print(f"{'figure':<58} {'ratio':>7} {'goal':>7}")
    for stem in found:
        if names and stem[6:] not in names:
            continue
        try:
            for figure in importlib.import_module(stem).figures():
                figures.append(figure)
                print(figure, flush=True)
        except Exception:  # one that is broken does not hide the others' figures
            broken = True
            traceback.print_exc()
    if os.environ.get("JSON"):
        rows = [{**figure._asdict(), "verdict": figure.verdict} for figure in figures]
        Path(os.environ["JSON"]).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if broken or any(figure.verdict == "short" for figure in figures) else 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--json" in arguments:  # as the environment's JSON
        at = arguments.index("--json")
        os.environ["JSON"] = arguments[at + 1]
        del arguments[at : at + 2]
    sys.exit(run(arguments))
