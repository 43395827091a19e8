"""The drawing of a Layout: hex in tinted runs, the list of fields, and brackets for what is covered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab_widgets.palette import BLUE, GREEN, ORANGE, PARTIES, PURPLE, SKY, VERMILION, YELLOW
from sevlab_widgets.picture import Svg, fit, width_of, wrap

if TYPE_CHECKING:
    from sevlab_widgets.layout import Layout, Part

ROW = 16
TINTS = (SKY, ORANGE, GREEN, PURPLE, YELLOW, BLUE)
STACKED = 18  # lines of hex and of the list that may stand above each other, where they have no room side by side
SHORT = 18  # letters of a value that must be seen beside a name
LONG = 512  # bytes beyond which rows that are all one reserved or zero field are left out


class LayoutPicture:
    """One picture of a layout, in `svg`."""

    def __init__(self, layout: Layout, width: int, size: str) -> None:
        self.layout, self.size = layout, size
        self.type = 15.5 if size == "L" else 12.0
        self.unit, self.row = self.type * 0.602, round(self.type * 1.55)
        self.svg = Svg(width, 0)
        if not layout.parts:
            self.svg.height = 110
            return
        two = layout.compare and layout.other is not None
        hexes = (6.2 + 3 * ROW + 0.5) * self.unit
        names = max(width_of(cover.name, self.type * 0.92) for cover in layout.covers) * 1.1 if layout.covers else 0
        self.labels = size != "S" and width > hexes + 330
        gutter = (14 + 12 * len(layout.covers)) * self.type / 12 + (names if self.labels else 0) if layout.covers else 0
        if size == "S":
            down = self._small(width, gutter, two)
        elif size == "L" and two and width > 2 * hexes + 360:
            bare = hexes - 6.2 * self.unit
            left = self._hex(0, layout.data, layout.names[0])
            right = self._hex(width - bare, layout.other, layout.names[1], second=True)
            down = max(left, right, self._list(hexes + 26, 1.6 * self.type, width - hexes - bare - 52, two))
            self._joins(hexes)
        elif width < hexes + 400 and len(self._rows()) + len(layout.parts) <= STACKED:
            down = self._hex(0, layout.data, "") + 8
            down = self._list(0, down, width - gutter, two)
            self._covers(width - gutter + 4)
        else:
            down = max(self._hex(0, layout.data, ""), self._list(hexes + 18, 0, width - hexes - 18 - gutter, two))
            self._covers(width - gutter + 4)
        for line in wrap(layout.sentence or layout.same, width / 1.1, self.type, 3):
            self.svg.text(1, down + 1.4 * self.type, line, "soft", size=self.type)
            down += 1.5 * self.type
        self.svg.height = round(down + (6 if layout.sentence or layout.same else 3))

    def _small(self, width: float, gutter: float, two: bool) -> float:
        """The list; the bytes on demand, in type that has room for sixteen of them."""
        if self.layout.chosen["show"] == "fields":
            down = self._list(0, 0, width - gutter, two)
            self._covers(width - gutter + 4)
            return down
        self.type = min(12.0, (width - 1) / (ROW * 3 + 7) / 0.602)
        self.unit, self.row = self.type * 0.602, round(self.type * 1.65)
        return self._hex(0, self.layout.data, "")

    def tint(self, part: Part) -> str:
        """A field's colour: neighbours have different ones."""
        return TINTS[[p for p in self.layout.parts if not p.reserved].index(part) % len(TINTS)] if not part.reserved else "none"

    # ------------------------------------------------- hex

    def _rows(self) -> list[int]:
        """The offsets of the rows that are drawn, -1 for some that are left out."""
        layout, size = self.layout, self.layout.size
        if size <= LONG:
            return list(range(0, size, ROW))
        rows: list[int] = []
        for at in range(0, size, ROW):
            whole = [p for p in layout.parts if p.offset <= at and p.offset + p.size >= at + ROW]
            bare = not any(p.offset < at + ROW and p.offset + p.size > at for p in layout.parts)  # no field that is shown
            dull = bool(whole) and (layout.data is None or not any(layout.data[at : at + ROW])) and at != whole[0].offset
            dull = dull or (bool(whole) and at - whole[0].offset >= 4 * ROW and at + ROW < whole[0].offset + whole[0].size)
            if not dull and not bare:
                rows.append(at)
            elif rows and rows[-1] != -1:
                rows.append(-1)
        return rows

    def _hex(self, x: float, data: bytes | None, title: str, second: bool = False) -> float:
        layout, u = self.layout, self.unit
        top = 0.0
        if title:
            self.svg.text(x, self.type, title, "bold", size=self.type)
            top = 1.6 * self.type
        rows = self._rows()
        where = {at: top + number * self.row for number, at in enumerate(rows)}
        left = x + (0.6 if second else 6.2) * u
        for number, at in enumerate(rows if not second else ()):
            y = top + number * self.row
            self.svg.text(x, y + self.type * 1.1, f"0x{at:03x}" if at >= 0 else "  ⋮", "mono soft", size=self.type * 0.92)
        self.ends: dict[str, tuple[float, float]] = getattr(self, "ends", {})
        for part in layout.parts:
            self._run(part, data, left, where, second)
        return top + len(rows) * self.row

    def _run(self, part: Part, data: bytes | None, left: float, where: dict[int, float], second: bool) -> None:
        layout, u = self.layout, self.unit
        lit, changed = layout.selected == part.name, bool(layout.was(part)) or layout.differs(part)
        spans = [
            (at, max(part.offset, at), min(part.offset + part.size, at + ROW))
            for at in where
            if at >= 0 and at < part.offset + part.size and at + ROW > part.offset
        ]
        boxes = [(left + 3 * (a - at) * u - 0.6 * u, where[at] + 1, (3 * (b - a) - 0.2) * u) for at, a, b in spans]
        high = self.row - 2
        with self.svg.item(f"hex {part.name}{' ' * second}", say=layout.say(part)):
            for x, y, wide in boxes:
                self.svg.rect(
                    x,
                    y,
                    wide,
                    high,
                    "hatch" if part.reserved else "fill",
                    rx=2,
                    **({"style_": "opacity:.3;stroke:none"} if part.reserved else {"fill": self.tint(part), "fill_opacity": 0.26}),
                )
                self.svg.line(x, y + 1, x, y + high - 1, "rule")
            for (at, a, b), (_, y, _) in zip(spans, boxes, strict=True):
                text = "-- " * (b - a) if data is None else data[a:b].hex(" ")
                x, wide = left + 3 * (a - at) * u, (3 * (b - a) - 1) * u
                quiet = part.reserved or data is None or not any(data[a:b])
                self.svg.text(
                    x,
                    y + self.type * 1.02,
                    text.rstrip(),
                    "mono soft" if quiet else "mono",
                    size=self.type,
                    textLength=round(wide, 1),
                )
                if changed:
                    self.svg.line(x, y + high - 1.5, x + wide, y + high - 1.5, "fail", style_="stroke-width:1.6")
        if boxes:
            self.ends[part.name + (" second" if second else "")] = (
                boxes[0][0] if second else max(x + w for x, _, w in boxes),
                boxes[0][1] + high / 2,
            )
        if lit:
            for x, y, wide in boxes:
                self.svg.rect(x, y, wide, high, "now", fill="none", rx=2, pointer_events="none", style_="stroke-width:1.5")

    # ------------------------------------------------- the list

    def _list(self, x: float, y: float, width: float, two: bool) -> float:
        layout, t = self.layout, self.type
        self.tops: dict[str, tuple[float, float]] = {}
        self.right = x + width
        names = min(max(width_of(part.name, t) * 1.12 for part in layout.parts) + 12, width * 0.42)
        swatch, marks = 14 * t / 12, 22 * t / 12 if layout.writers else 0
        dot = 13 * t / 12 if layout.valid is not None else 0
        offset = 5.2 * self.unit
        for part in layout.parts:
            lines = self._notes(part, width - offset - swatch - names - marks - dot, two)
            high = self.row * max(1, len(lines)) + (2 if len(lines) > 1 else 0)
            lit = layout.selected == part.name
            with self.svg.item(part.name, say=layout.say(part), act=False):
                self.svg.rect(x, y, width, high - 1, "bare")
                at = x + 2
                if dot:
                    known = (layout.valid or {}).get(part.name)
                    if known is not None and (known or any(layout.bytes_of(part) or b"")):
                        self.svg.add(
                            "circle",
                            "fill edge" if known else "line",
                            cx=at + 4,
                            cy=y + self.row / 2,
                            r=3.5 * t / 12,
                            **({"fill": GREEN} if known else {"style_": "stroke-width:1.2"}),
                        )
                    at += dot
                self.svg.text(at, y + t * 1.1, f"0x{part.offset:02x}", "mono soft", size=t * 0.92)
                at += offset
                self.svg.rect(
                    at,
                    y + 3,
                    swatch - 5,
                    self.row - 7,
                    "hatch" if part.reserved else "fill edge",
                    rx=2,
                    **({"style_": "opacity:.5"} if part.reserved else {"fill": self.tint(part), "fill_opacity": 0.55}),
                )
                at += swatch
                style = "soft" if part.reserved else "bold" if layout.data is None and part.name in layout.wants else ""
                self.svg.text(at, y + t * 1.1, part.name, style, room=names - 6, size=t)
                at += names
                if marks:
                    party = PARTIES.get(layout.writers.get(part.name, ""))
                    if party is not None:
                        self.svg.letter(at, y + 1.5, party.letter, party.colour, 14 * t / 12)
                    at += marks
                for number, line in enumerate(lines):
                    start = at
                    for text, look in line:
                        most = max(2, int((x + width - start - 2) / self.unit))
                        if "mono" in look and len(text) > most:
                            text = text[: most - 1].rstrip("…") + "…"
                        self.svg.text(start, y + t * 1.1 + number * self.row, text, look, size=t)
                        start += len(text) * self.unit + 14 if "mono" in look else width_of(text, t) * 1.2 + 8
            if lit:
                self.svg.rect(x, y, width, high - 1, "now", fill="none", rx=3, pointer_events="none", style_="stroke-width:1.5")
            self.tops[part.name] = y, high
            y += high
        return y

    def _notes(self, part: Part, room: float, two: bool) -> list[list[tuple[str, str]]]:
        """What the list says of a field, line by line: its value, what it was or is beside, what it means."""
        layout = self.layout
        value, note = layout.value(part), layout.notes.get(part.name, "")
        lines = [[(value, "mono" if layout.data is not None and value != "zeros" else "mono soft")]]
        if was := layout.was(part):
            lines.append([(f"was {was}", "mono soft")])
        if two and layout.differs(part):
            whose, other = fit(f"{layout.names[1]}:", room / 1.2, self.type), layout.value(part, layout.other)
            beside = width_of(whose, self.type) * 1.2 + 8 + min(len(other), SHORT) * self.unit <= room
            lines += [[(whose, "bold"), (other, "mono")]] if beside else [[(whose, "bold")], [(other, "mono")]]
        if note:
            if len(lines) == 1 and len(value) * self.unit + 14 + width_of(note, self.type) * 1.1 <= room:
                lines[0].append((note, "soft"))
            else:
                lines += [[(line, "soft")] for line in wrap(note, room / 1.1, self.type)]
        return lines

    # ------------------------------------------------- brackets and joins

    def _covers(self, x: float) -> None:
        """A bracket for what each signature or MAC covers; its name beside it, where there is room."""
        layout, k, low = self.layout, self.type / 12, -99.0
        for number, cover in enumerate(layout.covers):
            tops = [self.tops[name] for name in cover.fields if name in self.tops]
            if not tops:
                continue
            first, last = min(y for y, _ in tops) + 2, max(y + high for y, high in tops) - 3
            at = x + (4 + 12 * number) * k
            with self.svg.item(f"cover {cover.name}", say=f"{cover.name} covers {', '.join(cover.fields)}."):
                self.svg.rect(at - 6, first, 14 * k, last - first, "bare")
                for y, high in tops:
                    self.svg.line(at - 4, y + high / 2, at, y + high / 2, "line")
                self.svg.path(f"M{at - 4:.1f} {first:.1f}H{at:.1f}V{last:.1f}H{at - 4:.1f}", "line")
                if self.labels:
                    low = max(low + self.row, (first + last) / 2 + 4 * k)
                    self.svg.text(x + 12 * len(layout.covers) * k, low, cover.name, "soft", size=self.type * 0.92)

    def _joins(self, left: float) -> None:
        """Where both structures stand side by side: lines between the fields that differ."""
        for part in self.layout.parts:
            if self.layout.differs(part) and part.name in self.ends and f"{part.name} second" in self.ends:
                (ax, ay), (bx, by) = self.ends[part.name], self.ends[f"{part.name} second"]
                y, far = self.tops[part.name][0] + self.row / 2, self.right
                for x1, y1, x2, y2 in ((ax + 2, ay, left + 24, y), (far + 2, y, bx - 2, by)):
                    bend = (x2 - x1) / 2
                    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
                    self.svg.path(path, "line", style_=f"stroke:{VERMILION};stroke-width:1.2", pointer_events="none")
