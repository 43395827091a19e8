"""Acts: a Drawing with a bench below it: what a reader can do, each a button with a key, some with a field.

What the author adds to a Drawing:

    acts()              the bench as it is now; empty where the notebook gave no callbacks
    press(name, value)  one was pressed; `value` is what stood in its field
    WALK                keys that move the author's own cursor: they reach `walk(key)`, not the picture
    OWN_RING            the picture shows for itself what is selected
    pick(key, x, y)     an item with `data_pick` was clicked; x and y from 0 to 1 inside its image
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.drawing import Drawing


class Act(NamedTuple):
    """Something to do. `pressed` is for switches, `field` names what is to be typed, `why` says why it cannot be done now."""

    name: str
    label: str
    key: str = ""
    pressed: bool | None = None
    field: str = ""
    value: str = ""
    why: str = ""


class Acts(Drawing):
    """A Drawing with a bench. See the head of this file."""

    FILES: ClassVar[tuple[str, ...]] = ("acts",)
    MAKER: ClassVar[str] = "acts"
    WALK: ClassVar[tuple[str, ...]] = ()
    OWN_RING: ClassVar[bool] = False

    def acts(self) -> list[Act]:
        """The bench."""
        return []

    def press(self, name: str, value: str) -> None:
        """One of `acts` was pressed."""

    def walk(self, key: str) -> None:
        """One of `WALK` was pressed."""

    def pick(self, key: str, x: float, y: float) -> None:
        """A place inside an item was clicked."""

    def chrome(self) -> dict[str, Any]:
        return {
            **super().chrome(),
            "acts": [act._asdict() for act in self.acts()],
            "walk": list(self.WALK),
            "own_ring": self.OWN_RING,
        }

    def got_press(self, view: str, name: str, value: str = "") -> None:
        act = next((act for act in self.acts() if act.name == name), None)
        if act is None or act.why or self.entry is not None:
            return  # it could be done when the button was drawn; an earlier entry is read only
        self.call(act.label, self.press, name, value)
        self.mark()

    def got_walk(self, view: str, key: str) -> None:
        if key in self.WALK:
            self.walk(key)
            self.mark()

    def got_pick(self, view: str, key: str, x: float, y: float) -> None:
        self.pick(key, min(max(float(x), 0.0), 0.999999), min(max(float(y), 0.0), 0.999999))
        self.mark()


def number(text: str, what: str) -> int:
    """A number as a reader types it, decimal or with its prefix; never evaluated. Raises ValueError in a sentence."""
    try:
        return int(text.replace(",", "").replace("_", "").strip(), 0)
    except ValueError:
        raise ValueError(f"{text!r} is no {what}: write it as 4096 or 0x1000") from None
