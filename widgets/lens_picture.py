"""The drawing of a Lens: columns of bytes, or a grey picture for each eye, or what has changed."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sevlab_widgets.palette import EMPTY, ORANGE, PARTIES, VERMILION
from sevlab_widgets.picture import Svg, fit, width_of
from sevlab_widgets.png import png

if TYPE_CHECKING:
    from sevlab_widgets.lens import Lens

BLOCK, ROW, LINE = 16, 8, 64
BOLD = 1.24  # how much wider bold letters are than width_of says
THIN = "stroke-width:1"
HEIGHTS = {"S": 130, "M": 278, "L": 480}
GREYS = [f"#{level:02x}{level:02x}{level:02x}" for level in range(0, 256, 17)]


class Columns(NamedTuple):
    """How a lens is laid out: type and pitch of a block (px), how many eyes stand beside each other, the first of them."""

    type: float
    pitch: float
    wide: float
    count: int
    first: int
    gutter: float
    head: float


def columns_of(lens: Lens, width: int, size: str) -> Columns:
    """The layout for a stage of `width` px."""
    want = min(len(lens.eyes), {"S": 1, "M": 3, "L": 5}[size]) or 1
    found = None
    for type_ in {"S": (11.0, 10.0), "M": (12.0, 11.5, 11.0, 10.5, 10.0), "L": (16.0, 15.0, 14.0, 13.0, 12.0)}[size]:
        wide, gutter = _wide(type_), 6.5 * type_ * 0.602
        found = type_, wide, gutter
        if gutter + want * wide <= width + _over(type_):
            break
    assert found is not None
    type_, wide, gutter = found
    count = max(1, min(want, int((width + _over(type_) - gutter) // wide)))
    while count < want and type_ < 14 and gutter * (1 + 1 / type_) + count * _wide(type_ + 1) <= width + _over(type_ + 1):
        type_ += 1.0  # not all of them fit: then those that do are as large as they can be
        wide, gutter = _wide(type_), 6.5 * type_ * 0.602
    wide = min(1.12 * wide, (width + _over(type_) - gutter) / count)
    first = max(0, min(lens.eye - count + 1, len(lens.eyes) - count)) if lens.eye >= count else 0
    tabs = 1.75 * type_ + 2 if count < len(lens.eyes) else 0
    head = tabs + (1.55 if size == "S" and tabs else 2.45) * type_
    return Columns(type_, round((2.42 if size == "S" else 2.5) * type_), wide, count, first, gutter, head)


def _over(type_: float) -> float:
    """How much of the gap behind the last column may lie outside."""
    return 0.75 * type_ - 2


def _wide(type_: float) -> float:
    return (23 + 1.6 + 8 + 3.0) * type_ * 0.602


def visible(lens: Lens, width: int, size: str) -> int:
    """How many blocks are in view."""
    columns = columns_of(lens, width, size)
    most = {"S": 3, "M": 8, "L": 16}[size]
    return max(1, min(most, lens.blocks, int((HEIGHTS[size] - columns.head - 2) // columns.pitch)))


class LensPicture:
    """One picture of a lens, in `svg`."""

    def __init__(self, lens: Lens, width: int, size: str) -> None:
        self.lens, self.width, self.size = lens, width, size
        self.c = columns_of(lens, width, size)
        self.svg = Svg(width, HEIGHTS[size] if lens.eyes else 110)
        if not lens.eyes:
            return
        tabs = self._tabs() if self.c.count < len(lens.eyes) else 0
        if lens.chosen["view"] == "bytes":
            self._bytes(tabs)
        else:
            self._pictures(tabs)

    # ------------------------------------------------- heads

    def _tabs(self) -> float:
        """All eyes in a row, where not all of them fit: one is chosen by selecting it."""
        x, high = 1.0, self.c.type * 1.75
        wides = [width_of(eye.name, self.c.type) * 1.2 + 22 for eye in self.lens.eyes]
        left = self.width - 2
        for count, at in zip(range(len(wides), 0, -1), sorted(range(len(wides)), key=wides.__getitem__), strict=True):
            wides[at] = min(wides[at], left / count)  # the short ones as they are, the long ones share what is left
            left -= wides[at]
        for index, eye in enumerate(self.lens.eyes):
            shown = self.c.first <= index < self.c.first + self.c.count
            wide = wides[index]
            with self.svg.item(eye.name, say=f"{eye.name}: select it to look through this eye."):
                self.svg.rect(x + 0.5, 0.5, wide - 5, high - 3, "box" if shown else "void", rx=3)
                self.svg.text(
                    x + wide / 2 - 2,
                    high * 0.66,
                    eye.name,
                    "middle bold" if shown else "middle soft",
                    room=(wide - 10) / 1.1,
                    size=self.c.type,
                )
            x += wide
        return high + 2

    def _head(self, index: int, x: float, y: float, wide: float) -> None:
        eye, type_ = self.lens.eyes[index], self.c.type
        party = PARTIES.get(eye.letter)
        left = x
        if party is not None:
            self.svg.letter(left, y, party.letter, party.colour, type_ * 1.3)
            left += type_ * 1.75
        name = fit(eye.name, (wide - (left - x) - (36 if eye.xray else 0)) / BOLD, type_) or eye.name
        self.svg.text(left, y + type_, name, "bold", size=type_)
        after = left + width_of(name, type_) * BOLD + 8
        if eye.note:
            self.svg.text(after, y + type_, eye.note, "soft", room=x + wide - after - (36 if eye.xray else 0), size=type_ * 0.92)

    # ------------------------------------------------- bytes

    def _bytes(self, tabs: float) -> None:
        lens, c = self.lens, self.c
        count = visible(lens, self.width, self.size)
        top = max(0, min(lens.top, lens.blocks - count))
        top = min(max(top, lens.block - count + 1), lens.block)
        y = c.head
        for row in range(count):
            base = y + row * c.pitch
            style = "mono bold" if top + row == lens.block else "mono soft"
            self.svg.text(0, base + c.type, f"0x{(top + row) * BLOCK:03x}", style, size=c.type * 0.92)
            self.svg.text(0, base + 2.15 * c.type, f"  {top + row:>3}", "mono soft", size=c.type * 0.92)
        for slot in range(c.count):
            self._column(c.first + slot, c.gutter + slot * c.wide, tabs, y, range(top, top + count))
        self.svg.height = round(y + count * c.pitch + 3)

    def _column(self, index: int, x: float, tabs: float, y: float, blocks: range) -> None:
        lens, c, sight = self.lens, self.c, self.lens.sights[index]
        eye, wide = lens.eyes[index], c.wide - 0.75 * c.type
        if self.size == "S" and tabs:
            self.svg.text(x + 6, tabs + 0.98 * c.type, eye.note, "soft", size=c.type * 0.95)
        else:
            self._head(index, x + 5, tabs + 4, wide - 10)
        if eye.xray:
            self.svg.xray(x - 0.5, tabs + 1.5, wide + 1, y - tabs + len(blocks) * c.pitch)
        if sight.data is None:
            return self._closed(index, x, y, wide, len(blocks) * c.pitch)
        changed = lens.changed(index)
        for row, block in enumerate(blocks):
            base = y + row * c.pitch
            drag = "y" if eye.letter == "B" and {"copy", "swap"} & lens.moves.keys() and lens.entry is None else None
            with self.svg.item(
                lens.key(index, block),
                say=lens.sentence(block),
                act=eye.xray or lens.carried is not None,
                drag=drag,
                data_step=c.pitch if drag else None,
            ):
                self.svg.rect(x, base - 1, wide, c.pitch, "bare")
                if block in changed:
                    self.svg.rect(x, base, 3, c.pitch - 2, "fill", fill=VERMILION)
                self._block(lens.block_of(index, block), x + 6, base)
                first = block * BLOCK % LINE == 0 or block == blocks.start  # of its line, or of what is in view of it
                if first and block * BLOCK // LINE * LINE in sight.dirty:
                    self.svg.add("circle", "fill edge", cx=x + wide - 4.5, cy=base + c.pitch / 2 - 1, r=3, fill=ORANGE)
            self.svg.line(x + 2, base + c.pitch - 1.5, x + wide - 2, base + c.pitch - 1.5, "rule")
        if lens.block in blocks:
            base = y + (lens.block - blocks.start) * c.pitch
            chosen = index == lens.eye
            self.svg.rect(
                x + 1,
                base - 1,
                wide - 2,
                c.pitch - 0.5,
                "now",
                fill="none",
                rx=3,
                pointer_events="none",
                style_=None if chosen else THIN,
            )
        if lens.carried is not None and lens.carried[1] in blocks:
            base = y + (lens.carried[1] - blocks.start) * c.pitch
            self.svg.rect(x + 1, base - 1, wide - 2, c.pitch - 0.5, "broken", rx=3, pointer_events="none")

    def _block(self, data: bytes | None, x: float, y: float) -> None:
        if data is None:
            self.svg.text(x, y + 1.5 * self.c.type, "nothing", "soft", size=self.c.type * 0.95)
            return
        unit = self.c.type * 0.602
        for half in range(0, len(data), ROW):
            part, base = data[half : half + ROW], y + self.c.type * (0.97 + 1.15 * (half // ROW))
            text = "".join(chr(byte) if 32 < byte < 127 else "·" if byte != 32 else "\u00a0" for byte in part)
            style = "mono" if any(part) else "mono soft"
            self.svg.text(x, base, part.hex(" "), style, size=self.c.type, textLength=round((3 * len(part) - 1) * unit, 1))
            self.svg.text(x + 24.6 * unit, base, text, style, size=self.c.type, textLength=round(len(part) * unit, 1))

    def _closed(self, index: int, x: float, y: float, wide: float, high: float) -> None:
        lens, eye, why = self.lens, self.lens.eyes[index], self.lens.sights[index].why
        closed = why == "closed"
        say = (
            f"{eye.name} is closed: no real machine shows this. Enter opens it, and the trace keeps a row of it."
            if closed
            else f"{eye.name}: {why}."
        )
        with self.svg.item(lens.key(index, lens.block), say=say, act=closed):
            self.svg.rect(
                x + 1, y, wide - 2, high - 3, "hatch" if not closed else "bare", **({"opacity": 0.25} if not closed else {})
            )
            lines = ["closed: Enter opens it", "and leaves a row in the trace"] if closed else _wrap(why, wide - 30, self.c.type)
            lines = lines[: max(1, int(high // (1.4 * self.c.type)))]  # a strip may be one line high
            for number, line in enumerate(lines):
                at = y + high / 2 + (number - len(lines) / 2 + 0.8) * self.c.type * 1.4
                self.svg.text(x + wide / 2, at, line, "middle soft" if closed else "middle", size=self.c.type)
        if index == lens.eye:
            self.svg.rect(x + 3, y, wide - 6, high - 4, "now", fill="none", rx=3, pointer_events="none")

    # ------------------------------------------------- pictures

    def _pictures(self, tabs: float) -> None:
        lens, c = self.lens, self.c
        delta = lens.chosen["view"] == "delta"
        rows = max(1, lens.blocks * BLOCK // lens.across)
        room = min((self.width - 8) / c.count - 16, (self.svg.height - tabs - 2.2 * c.type - 6) * lens.across / rows)
        high = room * rows / lens.across
        for slot in range(c.count):
            index = c.first + slot
            self._picture(index, 1 + slot * (room + 24), tabs, room, high, delta)
        self.svg.height = round(tabs + 2.2 * c.type + high + 6)

    def _picture(self, index: int, x: float, tabs: float, wide: float, high: float, delta: bool) -> None:
        lens, c = self.lens, self.c
        eye, sight, y = lens.eyes[index], lens.sights[index], tabs + 2.2 * c.type
        self._head(index, x, tabs + 3, wide)
        if sight.data is None:
            self.svg.rect(x + 0.5, y, wide, high, "void")
            return self._closed(index, x, y, wide, high)
        with self.svg.item(
            lens.key(index, lens.block), say=lens.says() if delta else lens.say(lens.block), act=eye.xray, data_pick=1
        ):
            self.svg.add(
                "image",
                x=x,
                y=y,
                width=wide,
                height=high,
                href=self._image(index, delta),
                preserveAspectRatio="none",
                style_="image-rendering:auto" if not delta and lens.blocks * BLOCK // lens.across > high else None,
            )
        self._edge(x - 1, y - 1, wide + 2, high + 2)
        if eye.xray:
            self.svg.text(x + wide, tabs + 3 + c.type, "x-ray", "soft end", size=10)
            self.svg.rect(x - 1, y - 1, wide + 2, high + 2, "xray")
        row = max(1, lens.across // BLOCK)
        cell, tall = wide / row, high / max(1, lens.blocks // row)
        bx, by = x + lens.block % row * cell, y + lens.block // row * tall
        self.svg.rect(
            bx - 2,
            by - 2,
            cell + 4,
            tall + 4,
            "now",
            fill="none",
            rx=2,
            pointer_events="none",
            style_=None if index == lens.eye else THIN,
        )

    def _edge(self, x: float, y: float, wide: float, high: float) -> None:
        self.svg.rect(x, y, wide, high, "void")

    def _image(self, index: int, delta: bool) -> str:
        lens, data = self.lens, self.lens.sights[index].data or b""
        if delta:
            changed = lens.changed(index)
            row = max(1, lens.across // BLOCK)
            flags = np.array([block in changed for block in range(lens.blocks)], dtype=np.uint8)
            flags = np.pad(flags, (0, -len(flags) % row)).reshape(-1, row)
            picture = png(flags, [EMPTY, VERMILION])
        else:
            grey = np.frombuffer(data, dtype=np.uint8) >> 4
            grey = np.pad(grey, (0, -len(grey) % lens.across)).reshape(-1, lens.across)
            picture = png(grey, GREYS, level=6)
        return "data:image/png;base64," + b64encode(picture).decode("ascii")


def _wrap(text: str, room: float, size: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:4]
