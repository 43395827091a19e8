"""The drawing of a KeyTree: keys as pills in columns, bonds as lines in four styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sevlab_widgets.palette import GREEN, SKY, VERMILION
from sevlab_widgets.picture import Svg, fit, width_of, wrap
from sevlab_widgets.strokes import stroke

if TYPE_CHECKING:
    from sevlab_widgets.keytree import Bond, Key, KeyTree

STYLES = {
    "signs": "",
    "derives": "stroke-dasharray:7 3",
    "wraps": "stroke-dasharray:1.5 3;stroke-width:1.6",
    "agrees": "stroke-dasharray:7 3 1.5 3",
}


class KeyTreePicture:
    """One picture, in `svg`."""

    def __init__(self, tree: KeyTree, width: int, size: str) -> None:
        self.tree, self.size = tree, size
        self.k = 1.25 if size == "L" else 1.0
        self.type = 12 * self.k
        self.svg = Svg(width, 110)
        if size == "S":
            self.svg.height = round(self._crumbs(width))
        elif size == "L" and tree.other is not None:
            half = (width - 40) / 2
            left = self._tree(tree.keyring, tree.bonds, 0, half, tree.names[0])
            right = self._tree(*tree.other, half + 40, half, tree.names[1], different=True)
            self.svg.line(half + 20, 0, half + 20, max(left, right), "rule")
            self.svg.height = round(max(left, right))
        else:
            self.svg.height = round(self._tree(*tree.drawn, 0, width, "", different=tree.second))

    # ------------------------------------------------- one path

    def _crumbs(self, width: float) -> float:
        tree, x, y = self.tree, 3.0, 4.0
        keys, drawn = tree.drawn
        names = tree.path or tuple(key.name for key in keys)
        bonds = {(bond.source, bond.target): bond for bond in drawn}
        for number, name in enumerate(names):
            key = next((key for key in keys if key.name == name), None)
            inside = [key for key in keys if key.column == name]  # a column's name stands for all that is in it
            wide = width_of(name, 12) * 1.1 + 16
            if x + wide > width and x:
                x, y = 3.0, y + 34
            say = f"{name}: {', '.join(key.name for key in inside) or 'no platform yet'}." if key is None else tree.say(key)
            with self.svg.item(name, say=say):
                self._pill(key or (inside[-1] if inside else None), x, y, wide, 24, name)
            x += wide + 4
            if number + 1 < len(names):
                bond = bonds.get((name, names[number + 1]))
                sign = "›" if bond is None or bond.how != "signs" or bond.ok is None else "✓" if bond.ok else "✕"
                self.svg.text(x + 6, y + 16.5, sign, "middle bold" if sign != "›" else "middle soft", size=12)
                x += 16
        return y + 30

    # ------------------------------------------------- a tree

    def _tree(
        self, keys: Sequence[Key], bonds: Sequence[Bond], x: float, width: float, title: str, different: bool = False
    ) -> float:
        tree, k = self.tree, self.k
        y = 0.0
        if title:
            self.svg.text(x, self.type, title, "bold", size=self.type)
            y = self.type * 1.7
        columns = tree.columns
        pitch = min(width / len(columns), 300 * k)
        names = [key.name for key in keys]
        self.boxes: dict[str, tuple[float, float, float, float]] = {}
        tall = max([sum(key.column == column for key in keys) for column in columns] or [0])
        high, gap = 30 * k, (28 if tall <= 4 else 16) * k
        for index, column in enumerate(columns):
            left = x + index * pitch
            self.svg.text(left + pitch * 0.36, y + self.type, column, "middle soft", room=pitch - 8, size=self.type * 0.96)
            mine = [key for key in keys if key.column == column]
            top = y + self.type * 2.1
            for row, key in enumerate(mine):
                wide = min(max(width_of(key.name, self.type), width_of(key.note, self.type * 0.86)) * 1.12 + 20 * k, pitch * 0.66)
                wide = max(wide, 54 * k)
                self.boxes[key.name] = left + pitch * 0.36 - wide / 2, top + row * (high + gap), wide, high
            if not mine:
                self.svg.rect(left + pitch * 0.36 - 34 * k, top, 68 * k, high, "void", rx=high / 2, stroke_dasharray="4 4")
        self.suffix = " beside" if different and title else ""  # of the keys of the second tree, where both are drawn
        selected = str(tree.selected or "")
        mine = selected.endswith(" beside") == bool(self.suffix)
        selected = selected.removesuffix(" beside")
        falls = tree.leak(selected, bonds) if mine and selected in names else set()
        first = tree.keyring if different else ()
        for bond in bonds:
            if bond.source in self.boxes and bond.target in self.boxes:
                self._bond(bond, dim=not tree.verified(bond), other=different and bond not in tree.bonds)
        for key in keys:
            left, top, wide, tall_ = self.boxes[key.name]
            with self.svg.item(key.name + self.suffix, say=tree.say(key)):
                self._pill(key, left, top, wide, tall_, key.name, falls=key.name in falls, other=different and key not in first)
        if len(columns) == len(keys) == 1:
            self._whose(keys[0], x + pitch * 0.72, y + self.type)
        down = self._crosses(bonds, x, max([b + h for _, b, _, h in self.boxes.values()] or [0]) + 10 * k, width)
        if not keys:
            self.svg.text(x + width / 2, y + self.type * 2.1 + high + 26, "No platform yet.", "middle soft", size=self.type)
        least = y + self.type * 7 if len(columns) == len(keys) == 1 and tree.choices else 0
        return max([*(b + h for _, b, _, h in self.boxes.values()), least, down - 8] if keys else [y + 80 * k]) + 8

    def _crosses(self, bonds: Sequence[Bond], x: float, y: float, width: float) -> float:
        """Below the tree, line by line: which signatures do not fit, and why."""
        tree, size = self.tree, self.type * 0.92
        for bond in bonds:
            if bond.how != "signs" or bond.ok is not False or not bond.reason or not tree.verified(bond):
                continue
            _sign(self.svg, False, x + 8 * self.k, y + size * 0.75, 6 * self.k)
            for line in wrap(f"{bond.source} → {bond.target}: {bond.reason}", (width - 20 * self.k) / 1.1, size, 3):
                self.svg.text(x + 20 * self.k, y + size * 1.1, line, "soft", size=size)
                y += size * 1.5
        return y

    def _pill(
        self, key: Key | None, x: float, y: float, wide: float, high: float, name: str, falls: bool = False, other: bool = False
    ) -> None:
        tree, k = self.tree, self.k
        has = tree.has(key) if key is not None else ""
        self.svg.rect(x, y, wide, high, "box", rx=high / 2, **({} if has else {"stroke_dasharray": "4 4"}))
        if has == "holds it" and tree.seen != "everybody":
            self.svg.rect(x, y, wide, high, "fill", fill=SKY, fill_opacity=0.5, rx=high / 2)
        elif has == "can have it used":
            half, r = wide / 2, high / 2
            self.svg.path(
                stroke("M", x + half, y, "H", x + r, "A", r, r, " 0 0 0", x + r, y + high, "H", x + half, "Z"),
                "fill",
                fill=SKY,
                fill_opacity=0.5,
            )
        if falls:
            self.svg.rect(x, y, wide, high, "hatch", rx=high / 2, style_="opacity:.28;stroke:none")
            self.svg.rect(x, y, wide, high, "fail", rx=high / 2)
        if other:
            self.svg.rect(x - 2.5, y - 2.5, wide + 5, high + 5, "fail", rx=high / 2 + 2, stroke_dasharray="4 3")
        note = key.note if key is not None and high >= 28 else ""
        style = "middle bold" if has else "middle soft"
        self.svg.text(x + wide / 2, y + (13 * k if note else high / 2 + 4.2 * k), name, style, room=wide - 6, size=self.type)
        self.svg.text(x + wide / 2, y + 25 * k, note, "middle soft", room=wide - 8, size=self.type * 0.86)

    def _whose(self, key: Key, x: float, y: float) -> None:
        """Where there is but one key: what each party has of it."""
        from sevlab_widgets.keytree import HOLDS, KNOWS, NOTHING, USES

        parties = [party for choice in self.tree.choices if choice.name == "seen" for party in choice.options[1:]]
        for has in (HOLDS, USES, KNOWS, NOTHING):
            who = ", ".join(party for party in parties if key.who.get(party, NOTHING) == has)
            if not who:
                continue
            high = 10 * self.k
            self.svg.rect(x, y - high, 16 * self.k, high, "box" if has != NOTHING else "void", rx=high / 2)
            if has in (HOLDS, USES):
                wide = 16 * self.k * (1 if has == HOLDS else 0.5)
                self.svg.rect(x, y - high, wide, high, "fill", fill=SKY, fill_opacity=0.5, rx=high / 2 if has == HOLDS else 2)
            self.svg.text(x + 24 * self.k, y - 0.5, f"{has}:", "soft", size=self.type)
            self.svg.text(x + 170 * self.k, y - 0.5, who, size=self.type, room=(self.svg.width - x - 170 * self.k) / 1.1)
            y += self.type * 1.6

    # ------------------------------------------------- bonds

    def _bond(self, bond: Bond, dim: bool, other: bool) -> None:
        tree, k = self.tree, self.k
        (ax, ay, aw, ah), (bx, by, bw, bh) = self.boxes[bond.source], self.boxes[bond.target]
        colour = f"stroke:{VERMILION};" if (bond.ok is False and not dim) or other else ""
        style = f"stroke-width:1.3;{STYLES[bond.how]};{colour}{'opacity:.35' if dim else ''}"
        key = f"{bond.source} → {bond.target}{self.suffix}"
        word = bond.how if not (bond.how == "signs" and not dim and tree.asked) else ""
        with self.svg.item(key, say=tree.say_bond(bond)):
            if bond.source == bond.target:
                self.svg.path(
                    stroke(
                        "M",
                        ax + aw,
                        ay + ah * 0.3,
                        "C",
                        ax + aw + 22 * k,
                        ay - 6,
                        ax + aw + 22 * k,
                        ay + ah + 6,
                        ax + aw,
                        ay + ah * 0.7,
                    ),
                    "line",
                    arrow=True,
                    style_=style,
                )
                mx, my = ax + aw + 17 * k, ay + ah / 2
                word = ""
            elif abs(ax + aw / 2 - bx - bw / 2) < 4:
                down = by > ay
                y1, y2 = (ay + ah, by - 1) if down else (ay, by + bh + 1)
                far = abs(by - ay) > 2 * ah + 10
                if far:
                    bend = max(ax + aw, bx + bw) + 16 * k
                    self.svg.path(
                        stroke("M", ax + aw, ay + ah / 2, "C", bend, ay + ah / 2, bend, by + bh / 2, bx + bw + 1, by + bh / 2),
                        "line",
                        arrow=True,
                        style_=style,
                    )
                    mx, my = bend - 4 * k, (ay + by + ah) / 2
                    word = ""
                else:
                    self.svg.line(ax + aw / 2, y1, ax + aw / 2, y2, "line", arrow=True, style_=style)
                    mx, my = ax + aw / 2 + (8 * k + width_of(word, self.type * 0.9) / 2 if word else 0), (y1 + y2) / 2
            else:
                right = bx > ax
                x1, x2 = (ax + aw, bx - 1) if right else (ax, bx + bw + 1)
                y1, y2 = ay + ah / 2, by + bh / 2
                bend = (x2 - x1) * 0.45
                self.svg.path(
                    stroke("M", x1, y1, "C", x1 + bend, y1, x2 - bend, y2, x2, y2),
                    "line",
                    arrow=True,
                    style_=style,
                )
                mx, my = (x1 + x2) / 2, (y1 + y2) / 2
                word = fit(word, abs(x2 - x1) - 16, self.type * 0.9)
            self._mark(bond, mx, my, word, dim)

    def _mark(self, bond: Bond, x: float, y: float, word: str, dim: bool) -> None:
        """The word of a bond, or whether a signature fits."""
        k = self.k
        if bond.how == "signs" and not dim and self.tree.asked:
            _sign(self.svg, bond.ok, x, y, 7 * k)
        elif word:
            wide = width_of(word, self.type * 0.9) + 6
            self.svg.rect(x - wide / 2, y - 7 * k, wide, 14 * k, "", style_="fill:var(--sl-here,#fff);stroke:none")
            self.svg.text(x, y + 4 * k, word, "middle soft", size=self.type * 0.9)


def _sign(svg: Svg, ok: bool | None, x: float, y: float, r: float) -> None:
    """A tick, a cross, or what stands for "nobody looked"."""
    colour = None if ok is None else GREEN if ok else VERMILION
    svg.add("circle", "box" if ok is None else "fill edge", cx=x, cy=y, r=r, fill=colour)
    style = None if ok is None else "fill:#111"
    svg.text(x, y + r * 0.54, "?" if ok is None else "✓" if ok else "✕", "middle bold", size=r * 1.5, style_=style)


def verdict(ok: bool | None) -> Svg:
    """A mark for the legend: what came of a signature."""
    svg = Svg(18, 18)
    _sign(svg, ok, 9, 9, 7)
    return svg


def swatch(what: str) -> Svg:
    """A mark for the legend: a bond's line, or a pill."""
    svg = Svg(18, 18)
    if what in STYLES:
        svg.line(0, 9, 18, 9, "line", style_=f"stroke-width:1.3;{STYLES[what]}")
        return svg
    svg.rect(1, 4, 16, 10, "box", rx=5)
    if what != "knows that it exists":
        svg.rect(1, 4, 16 if what == "holds it" else 8, 10, "fill", fill=SKY, fill_opacity=0.5, rx=5 if what == "holds it" else 0)
    return svg
