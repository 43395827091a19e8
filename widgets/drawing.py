"""Drawing: a widget whose picture is an SVG made in Python. Most widgets need no JavaScript of their own.

What the author writes, besides what every Frame has:

    picture(width, size)    the Svg for a stage of `width` px; size is "S", "M" or "L"
    choices                 [Choice("axis", "Axis", ("time", "entries"))]: switches in the title line, and
                            the key `a`; `self.chosen["axis"]` is the option in force
    legend()                [(Svg of 18 by 18, text)], below the picture
    act(key)                Enter or a double click on an item with `act`
    drop(key, dx, dy)       an item with `drag` was moved by so many px
    chrome()["start"]       the key of the item where a walk begins, if not with the first

An item that is drawn differently than before flashes; the cursor walks from item
to item by the arrow keys, and `selected` is the key of the item under it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.frame import Frame, Message
from sevlab_widgets.picture import Svg
from sevlab_widgets.runs import squeeze
from sevlab_widgets.words import notes_of

HEIGHTS = {"S": 150, "M": 278, "L": 470}  # px that a stage should keep to; a higher picture scrolls
STATIC = (760, "M")  # the picture where no front end says how wide it is


class Choice(NamedTuple):
    """A row of options of which one is in force."""

    name: str
    label: str
    options: tuple[str, ...]


class Drawing(Frame):
    """A widget whose picture is an SVG made in Python. See the head of this file."""

    FILES: ClassVar[tuple[str, ...]] = ("drawing",)
    MAKER: ClassVar[str] = "drawing"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (("← → ↑ ↓", "from thing to thing"), ("Home End", "first, last"))

    choices: tuple[Choice, ...] = ()

    def __init__(self, *, on_select: Callable[[Any], Any] | None = None, **keywords: Any) -> None:
        self.chosen = {choice.name: choice.options[0] for choice in self.choices}
        self.on_select = on_select
        super().__init__(**keywords)

    # ------------------------------------------------- what an author writes

    def picture(self, width: int, size: str) -> Svg:
        """The picture for a stage of `width` px."""
        return Svg(width, 0)

    def legend(self) -> list[tuple[Svg, str]]:
        """What the marks mean."""
        return []

    def act(self, key: str) -> None:
        """Enter, or a double click, on an item that can act."""

    def drop(self, key: str, dx: float, dy: float) -> None:
        """An item was dragged by so many px."""

    def says(self) -> str:
        """The status line when nothing is under the cursor."""
        return self.describe()

    # ------------------------------------------------- frames

    def full(self) -> Message:
        with self.lock:
            texts = [(at, size, str(self.picture(at, size))) for at, size in self.sizes()]
        parts = [squeeze(text.encode()) for _, _, text in texts]
        return {"widths": [at for at, _, _ in texts], "z": [z for _, z in parts], "say": self.says()}, [data for data, _ in parts]

    def sizes(self) -> list[tuple[int, str]]:
        """The widths that pictures are wanted for; the newest views' three, at most."""
        return list(dict.fromkeys(reversed(list(self._views.values()))))[:3] or [STATIC]

    def chrome(self) -> dict[str, Any]:
        options = [[*choice, self.chosen[choice.name]] for choice in self.choices]
        around = super().chrome()
        keys = [[choice.label[0].lower(), f"{choice.label}: {' or '.join(choice.options)}"] for choice in self.choices]
        return {
            **around,
            "keys": [*around["keys"], *keys],
            "choices": options,
            "legend": [[str(svg), text] for svg, text in self.legend()],
        }

    def svg(self) -> str:
        return self.picture(*STATIC).file(" · ".join([self.title, *self.facts]), notes_of(self))

    # ------------------------------------------------- messages from the views

    def got_select(self, view: str, value: Any) -> None:
        super().got_select(view, value)
        self.chose(value)

    def chose(self, value: Any) -> None:
        """A reader has selected the item of this key."""
        self.call("What follows a selection", self.on_select, value)

    def got_choose(self, view: str, name: str, option: str) -> None:
        """An option was taken."""
        if option not in next(choice.options for choice in self.choices if choice.name == name):
            raise ValueError(f"{option!r} is no option of {name}")
        self.choose(name, option)

    def choose(self, name: str, option: str) -> None:
        """Put an option into force."""
        with self.lock:
            self.chosen[name] = option
        self.mark()

    def got_act(self, view: str, key: str) -> None:
        self.act(key)

    def got_drop(self, view: str, key: str, dx: float, dy: float) -> None:
        if self.entry is None:  # an earlier entry is read only
            self.drop(key, float(dx), float(dy))
        self.mark()
