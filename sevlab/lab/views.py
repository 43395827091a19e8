"""Between a host and the widgets that draw it: the widget where one can be shown, text everywhere, and the same text.

The adapters beside this file (views_*.py) turn a host into the rows that a widget
draws. None of them imports a widget before something is shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from sevlab.lab import ask


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


class View:
    """Something to look at. Displayed, it is a live widget, a picture where nobody listens, or its text.

    `widget` is the live one, to be linked with others; asking for it raises ImportError where the widgets are not installed.
    """

    def __init__(self, module: str, make: Callable[[Any], Any], text: Callable[[], str]) -> None:
        self._module, self._make, self._text = module, make, text
        self._widget: Any = None

    @property
    def widget(self) -> Any:
        if self._widget is None:
            self._widget = self._make(ask.widgets(self._module))
        return self._widget

    def describe(self) -> str:
        """The same in words; a sentence where what was looked at is gone, as a guest is whose process was killed."""
        try:
            return self._text()
        except LookupError as no:
            if type(no) is not LookupError:  # a key or a place that is missing is somebody's mistake
                raise
            return f"{self._module}: nothing to look at; {no}"

    __repr__ = describe

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        static = (
            os.environ.get("SEVLAB_STATIC") == "1"
            and find_spec("anywidget") is not None
            and find_spec("sevlab_widgets") is not None
        )
        if not static and not ask.live():
            return {"text/plain": self.describe()}
        try:
            data, metadata = self.widget._repr_mimebundle_()
        except LookupError as no:
            if type(no) is not LookupError:
                raise
            return {"text/plain": self.describe()}  # what was to be drawn is gone
        return {**data, "text/plain": self.describe()}, metadata


def facts(host: Any) -> tuple[str, ...]:
    """What a title line says of a host: chip, kernel, seed."""
    seed = host.seed.hex() if isinstance(host.seed, bytes) else host.seed
    return host.chip.name, host.design.name, f"seed {seed}"


def imaginary(host: Any) -> str:
    """Why no such machine ever was: the chip's reason, else the kernel's, behind the words with which the banner begins.

    "" for a machine that was, or might have been.
    """
    why = str(getattr(host.chip, "banner", "") or host.design.imaginary)
    return why.partition(" never existed: ")[2] or why
