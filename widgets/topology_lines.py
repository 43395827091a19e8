"""The lines of a Topology: from a descriptor to what it holds, from a VM to its slot, between two VMs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sevlab_widgets.picture import fit, width_of
from sevlab_widgets.strokes import stroke

if TYPE_CHECKING:
    from sevlab_widgets.topology import Scene
    from sevlab_widgets.topology_picture import TopologyPicture

MANY = 4  # processes that are drawn with a line from every descriptor


def name_of(link: Any) -> str:
    """The key of a link."""
    return f"{link.source} → {link.target}"


class Lines:
    """The lines of one scene of `picture`, whose boxes have their places."""

    def __init__(self, picture: TopologyPicture, scene: Scene, mark: str) -> None:
        self.picture, self.scene, self.mark = picture, scene, mark
        self.level = {thing.key for thing in scene.things}

    def down(self) -> None:
        """The lines from one band to the next."""
        picture = self.picture
        for target, sources in self._ends().items():
            left, wide, top = picture.tops[target]
            for number, (key, x, y, style) in enumerate(sorted(sources, key=lambda one: one[1])):
                to = left + wide * (number + 1) / (len(sources) + 1)
                with picture.seen(key, target):
                    bend = min(18, (top - y) / 2)
                    picture.svg.path(
                        stroke("M", x, y, "C", x, y + bend, to, top - bend, to, top),
                        "line",
                        pointer_events="none",
                        style_=style or "stroke-width:1.2",
                    )

    def _ends(self) -> dict[str, list[tuple[str, float, float, str | None]]]:
        """Of each thing the lines that end there: whose, from where (x, y), and how they are drawn."""
        from sevlab_widgets.topology import plug_key

        picture, scene = self.picture, self.scene
        ends: dict[str, list[tuple[str, float, float, str | None]]] = {}
        for box in scene.boxes:
            for plug in box.plugs:
                key = plug_key(box, plug)
                if plug.holds not in picture.tops:
                    continue
                mine, style = ends.setdefault(plug.holds, []), picture.style(key, self.mark)
                same = mine and mine[-1][0].startswith(f"{box.key}:") and style == mine[-1][3]
                if same and len(scene.boxes) > MANY and key not in picture.near:  # one line for all that it holds of a thing
                    continue
                mine.append((key, *picture.places[key], style))
        for link in scene.links:
            if link.target in picture.tops and link.source in picture.places and not self._beside(link):
                end = (link.source, *picture.places[link.source], picture.style(name_of(link), self.mark))
                ends.setdefault(link.target, []).append(end)
        return ends

    def _beside(self, link: Any) -> bool:
        return link.source in self.level and link.target in self.level

    def across(self) -> None:
        """The lines between neighbours of one band."""
        tops = self.picture.tops
        for link in self.scene.links:
            if self._beside(link) and link.source in tops and link.target in tops:
                self._straight(link) if self._neighbours(link) else self._below(link)

    def _neighbours(self, link: Any) -> bool:
        """Whether nothing stands between the two ends."""
        (a, wa, ta), (b, wb, tb) = (self.picture.tops[end] for end in (link.source, link.target))
        low, high = min(a + wa, b + wb), max(a, b)
        others = (place for key, place in self.picture.tops.items() if key in self.level and key not in (link.source, link.target))
        return ta == tb and low < high and not any(top == ta and low <= x <= high for x, _, top in others)

    def _straight(self, link: Any) -> None:
        """An arrow from side to side, with its word above."""
        picture = self.picture
        (a, wa, top), (b, wb, _) = (picture.tops[end] for end in (link.source, link.target))
        x1, x2 = (a, b + wb + 1) if a > b else (a + wa, b - 1)
        y, size = top + 23 * picture.k, picture.type * 0.92
        with picture.seen(link.source, link.target):
            style = picture.style(name_of(link), self.mark) or "stroke-width:1.5"
            picture.svg.path(stroke("M", x1, y, "L", x2, y), "line", arrow=True, pointer_events="none", style_=style)
            picture.svg.text((x1 + x2) / 2, y - 5 * picture.k, fit(link.words, abs(x1 - x2) - 6, size), "middle soft", size=size)

    def _below(self, link: Any) -> None:
        """An arrow below both, with its word."""
        picture = self.picture
        (a, wa, ta), (b, wb, tb) = (picture.tops[end] for end in (link.source, link.target))
        bottom = max(ta, tb) + 38 * picture.k
        x1, x2 = (a + wa * 0.25, b + wb * 0.75) if a > b else (a + wa * 0.75, b + wb * 0.25)
        dip, words = 15 * picture.k, fit(link.words, abs(x1 - x2), picture.type * 0.92)
        with picture.seen(link.source, link.target):
            style = picture.style(name_of(link), self.mark) or "stroke-width:1.5"
            picture.svg.path(
                stroke("M", x1, ta + 38 * picture.k, "C", x1, bottom + dip, x2, bottom + dip, x2, tb + 38 * picture.k + 1),
                "line",
                arrow=True,
                pointer_events="none",
                style_=style,
            )
            if words:
                middle, wide = (x1 + x2) / 2, width_of(words, picture.type * 0.92) + 8
                picture.svg.rect(
                    middle - wide / 2,
                    bottom + dip * 0.75 - 8 * picture.k,
                    wide,
                    15 * picture.k,
                    "ground",
                    style_="fill:var(--sl-here,#fff);stroke:none",
                )
                picture.svg.text(middle, bottom + dip * 0.75 + 4 * picture.k, words, "middle soft", size=picture.type * 0.92)
