"""Svg: a diagram made in Python, the same in a live widget, in an exported file and on a page without a front end.

    svg = Svg(720, 240)
    svg.text(8, 16, "SEV 6 to 15", "soft")
    with svg.item("vm-a", say="vm-a holds slot 6.", act=True):
        svg.rect(80, 40, 120, 14, "fill", fill=SKY)

Styles are words of drawing.css ("ink", "soft", "line", "hatch", "xray" ...), which follow the
theme where there is one and are light elsewhere. An `item` has a key: the cursor stops
there, its sentence becomes the status line, and when its drawing changes it flashes.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sevlab_widgets.palette import ink

XMLNS = "http://www.w3.org/2000/svg"
STYLE = (Path(__file__).parent / "drawing.css").read_text()
DEFS = (
    '<defs><pattern id="sl-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="sl-hatching" width="2" height="6"/></pattern>'
    '<marker id="sl-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path class="sl-head" d="M0 0L8 4L0 8z"/></marker></defs>'
)
NARROW, WIDE = frozenset("iljtfrI.,:;|'!()[] "), frozenset("mwMW@%")


NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str, quote: bool = True) -> str:
    """Text as XML has it; what XML has no letter for, such as a zero byte, stands as the replacement character."""
    return html.escape(NOT_XML.sub("\ufffd", text), quote)


def width_of(text: str, size: float = 12) -> float:
    """How wide `text` is in the sans-serif of a notebook, px, to about a tenth."""
    return size * sum(0.3 if c in NARROW else 0.86 if c in WIDE else 0.67 if c.isupper() else 0.56 for c in text)


def fit(text: str, room: float, size: float = 12) -> str:
    """`text`, or as much of it as fits into `room` px with an ellipsis; "" when not two letters do."""
    if width_of(text, size) <= room:
        return text
    short = text
    while short and width_of(short + "…", size) > room:
        short = short[:-1]
    return short.rstrip() + "…" if len(short) > 1 else ""


def wrap(text: str, room: float, size: float = 12, most: int = 2) -> list[str]:
    """`text` in at most so many lines of `room` px each; an ellipsis where there was more."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines[most - 1] = fit(" ".join(lines[most - 1 :]), room, size) or "…"
    return [line if width_of(line, size) <= room else fit(line, room, size) for line in lines[:most]]


def _number(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


class Svg:
    """A picture of `width` by `height` px. Coordinates are px from the upper left corner; y of a text is its baseline."""

    def __init__(self, width: float, height: float) -> None:
        self.width = width
        self.height = height
        self.parts: list[str] = []

    def add(self, tag: str, style: str = "", text: str | None = None, /, **attributes: Any) -> None:
        """One element; `style` is words of drawing.css, an attribute's `_` stands for `-`, None leaves it out."""
        words = " ".join(f"sl-{word}" for word in style.split())
        pairs = {"class": words or None, **attributes}
        inside = "".join(
            f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in pairs.items() if value is not None
        )
        self.parts.append(f"<{tag}{inside}/>" if text is None else f"<{tag}{inside}>{escape(text, quote=False)}</{tag}>")

    def rect(self, x: float, y: float, width: float, height: float, style: str = "", **attributes: Any) -> None:
        """A rectangle. Styles: "box" (outlined card), "fill" (give `fill=`), "hatch", "xray"."""
        self.add("rect", style, x=x, y=y, width=max(0, width), height=max(0, height), **attributes)

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str = "line", **attributes: Any) -> None:
        """A straight line. Styles: "line", "rule" (hairline), "dotted", "broken"; with `arrow=True` it has a head."""
        head = "url(#sl-arrow)" if attributes.pop("arrow", False) else None
        self.add("line", style, x1=x1, y1=y1, x2=x2, y2=y2, marker_end=head, **attributes)

    def path(self, d: str, style: str = "line", **attributes: Any) -> None:
        """A path in SVG's own words."""
        head = "url(#sl-arrow)" if attributes.pop("arrow", False) else None
        self.add("path", style, d=d, marker_end=head, **attributes)

    def text(
        self, x: float, y: float, text: str, style: str = "", *, room: float | None = None, size: float = 12, **attributes: Any
    ) -> None:
        """A text, cut with an ellipsis where it has only `room` px. Styles: "soft", "bold", "mono", "middle", "end"."""
        shown = text if room is None else fit(text, room, size)
        if shown:
            self.add("text", f"text {style}", shown, x=x, y=y, font_size=size, **attributes)

    def letter(self, x: float, y: float, letter: str, colour: str, size: float = 16) -> None:
        """A party's letter in its colour: a square of `size` px with its upper left corner at (x, y)."""
        self.rect(x, y, size, size, "fill edge", fill=colour, rx=2)
        self.add(
            "text",
            "text bold middle",
            letter,
            x=x + size / 2,
            y=y + size * 0.74,
            font_size=size * 0.7,
            style_=f"fill:{ink(colour)}",
        )

    def tag(self, x: float, y: float, text: str, scale: float = 1) -> None:
        """A known defect of what is modelled, as "as shipped, see J26": neither the reader's mistake nor ours."""
        width = (width_of(text, 11) + 12) * scale
        self.rect(x, y - 11 * scale, width, 15 * scale, "defect", rx=7 * scale)
        self.text(x + 6 * scale, y, text, size=11 * scale)

    def xray(self, x: float, y: float, width: float, height: float) -> None:
        """A dashed frame with the word x-ray: around what real hardware shows to nobody."""
        self.rect(x, y, width, height, "xray", rx=3)
        self.text(x + width - 4, y + 11, "x-ray", "soft end", size=10)

    @contextmanager
    def item(
        self, key: str, *, say: str = "", act: bool = False, drag: str | None = None, style: str = "", **attributes: Any
    ) -> Iterator[None]:
        """What is drawn inside is one thing: it can be selected, and if `act` Enter and a double click reach `got_act`.

        `drag` is "x", "y" or "xy": it can be dragged (or moved by Shift and an arrow), which reaches `got_drop`.
        """
        words = " ".join(f"sl-{word}" for word in f"item {style}".split())
        pairs = {
            "class": words,
            "data-key": key,
            "data-say": say or None,
            "data-act": 1 if act else None,
            "data-drag": drag,
            **attributes,
        }
        self.parts.append(
            "<g" + "".join(f' {name.replace("_", "-")}="{escape(_number(v))}"' for name, v in pairs.items() if v is not None) + ">"
        )
        yield
        self.parts.append("</g>")

    def __str__(self) -> str:
        """The picture for a live widget, whose page has the style sheet and the DEFS, once."""
        w, h = _number(self.width), _number(self.height)
        return f'<svg xmlns="{XMLNS}" width="{w}" height="{h}" viewBox="0 0 {w} {h}">{"".join(self.parts)}</svg>'

    def file(self, title: str = "", notes: Sequence[str] = ()) -> str:
        """The picture as a file of its own: style sheet, white ground, title above, `notes` below."""
        top, bottom = (26 if title else 0), 18 * len(notes)
        w, h = _number(self.width + 24), _number(self.height + top + bottom + 20)
        head = f'<text class="sl-text sl-bold" x="12" y="22" font-size="13">{escape(title, quote=False)}</text>' if title else ""
        below = [(_number(self.height + top + 24 + 18 * i), escape(note, quote=False)) for i, note in enumerate(notes)]
        lines = "".join(f'<text class="sl-text sl-soft" font-size="12" x="12" y="{y}">{note}</text>' for y, note in below)
        body = f'<g transform="translate(12 {top + 8})">{"".join(self.parts)}</g>'
        return (
            f'<svg xmlns="{XMLNS}" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">'
            f"<title>{escape(title)}</title><style>{STYLE}</style>{DEFS}"
            f'<rect width="{w}" height="{h}" fill="#fff"/>{head}{body}{lines}</svg>\n'
        )
