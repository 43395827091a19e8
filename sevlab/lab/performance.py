"""The performance page, from what the benchmarks measured.

    make bench JSON=bench.json
    python -m sevlab.lab.performance bench.json

Ratios stand in the page, seconds do not: those of another machine say nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sevlab.cli.coverage import PAGE as COVERAGE
from sevlab.cli.coverage import table

PAGE = COVERAGE.with_name("performance.md")

HEAD = """# Performance: ratios to what the machine can do at all

Each figure is a ratio: what sevlab takes, over what the fastest known way of doing the same takes on the same machine in the same
run, its rounds interleaved; the median of several. The *limit* is named in the figure: a bare call of the cryptographic library,
a bare `send` of a generator, another program. 1 would be the silicon's own speed. The goal is what the project holds itself to.

Seconds are not here on purpose. `make bench` prints them for your machine, and its exit status says whether a figure fell short."""


def page(figures: Sequence[dict[str, Any]]) -> str:
    """The page for these figures: rows of `name`, `ratio` (None where the peer was not there), `goal` and `verdict`."""
    rows = []
    for figure in figures:
        ratio = "" if figure["ratio"] is None else f"{figure['ratio']:.2f}"
        rows.append((figure["name"], ratio, f"{figure['goal']:.2f}", figure["verdict"]))
    return f"{HEAD}\n\n{table(('figure', 'ratio', 'goal', 'verdict'), rows)}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page from the file that `make bench JSON=FILE` wrote."""
    if len(arguments) != 1:
        print("usage: python -m sevlab.lab.performance FILE    (FILE: from make bench JSON=FILE)", file=sys.stderr)
        return 2
    PAGE.write_text(page(json.loads(Path(arguments[0]).read_text())), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
