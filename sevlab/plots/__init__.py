"""Figures for lessons: matplotlib, imported only when a figure is asked for.

    from sevlab import plots
    plots.asid_occupancy(host)       # a Plot: shows itself in a notebook, `.figure` is matplotlib's, `.alt` says it in words

No pyplot: a figure belongs to whoever asked for it.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Plot": "style",
    "asid_occupancy": "asids",
    "delta": "images",
    "engines": "images",
    "launch_timeline": "times",
    "migration_timeline": "times",
    "page_map": "pages",
    "pictures": "images",
    "timeline": "times",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"sevlab.plots has no {name!r}; it has {', '.join(_HOME)}")
    module = importlib.import_module(f"sevlab.plots.{_HOME[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
