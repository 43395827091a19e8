"""Regions of a memory folded behind one another: what lies between them is not drawn, and page numbers jump."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Region = tuple[int, int, str]  # first, count, name
Run = tuple[int, int, int, int, int]  # first, count, state, owner, pins


class Folding:
    """`asked` are the regions by page number, `regions` the same by place: the first page of the lowest one is at place 0."""

    def __init__(self, regions: Sequence[Region] = ()) -> None:
        self.asked = list(regions)
        self.regions: list[Region] = []
        self.places: list[tuple[int, int]] = []  # (place, page number) where a region begins
        self.count = 0
        for first, pages, name in sorted(regions):
            self.regions.append((self.count, pages, name))
            self.places.append((self.count, first))
            self.count += pages
        self.places = self.places or [(0, 0)]

    def number(self, place: int) -> int:
        """The number of the page at a place."""
        at, number = next(pair for pair in reversed(self.places) if pair[0] <= place)
        return number + place - at

    def inside(self, rows: Iterable[Run]) -> list[Run]:
        """Runs by page number as runs by place, without what lies in no region."""
        found = []
        for first, length, *values in rows:
            for (at, pages, _), (_, number) in zip(self.regions, self.places, strict=False):
                a, b = max(first, number), min(first + length, number + pages)
                if a < b:
                    state, owner, pins = values
                    found.append((at + a - number, b - a, state, owner, pins))
        return found
