"""Between a host and the widgets that draw it: the widget where the widgets are installed, text everywhere else.

The adapters beside this file (views_*.py) turn a host into the rows that a widget
draws. None of them imports a widget before something is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sevlab.lab import ask
from sevlab.lab.show import Text


class Picture:
    """A picture in words: a title, then rows of two columns."""

    def __init__(self, title: str, facts: Sequence[str] = ()) -> None:
        self.head = " · ".join([title, *facts])
        self.rows: list[tuple[str, str]] = []

    def row(self, name: str, words: object) -> None:
        """One more row."""
        self.rows.append((name, str(words)))

    def __str__(self) -> str:
        wide = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join([self.head, *(f"  {name:{wide}}  {words}".rstrip() for name, words in self.rows)])


def shown(module: str, make: Callable[[Any], Any], text: Callable[[], str]) -> Any:
    """`make(module)`, a live widget, where one can be shown; else `text()` as it stands."""
    return make(ask.widgets(module)) if ask.live() else Text(text())


def facts(host: Any) -> tuple[str, ...]:
    """What a title line says of a host: chip, kernel, seed."""
    seed = host.seed.hex() if isinstance(host.seed, bytes) else host.seed
    return host.chip.name, host.design.name, f"seed {seed}"
