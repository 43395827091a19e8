"""PageMap: every page of a memory, up to millions, one cell a page or one cell for 2^n pages.

    PageMap(states, owner=..., pins=..., regions=[(0, 4096, "slot 0")])      # rows and arrays
    PageMap.of(host)                                                         # a machine, live
    PageMap(host=host, look=rows_of)                                         # whatever a host says when it is asked

Two channels, because they are independent: the fill says what a page is, a tick
in the corner that it is pinned. What a state code means is data (`kinds`), and
so is the word for an owner: the map knows no SEV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import traitlets as t
from sevlab_widgets import runs
from sevlab_widgets.folding import Folding, Region, Run
from sevlab_widgets.frame import Frame, Message, Table
from sevlab_widgets.history import History
from sevlab_widgets.palette import EMPTY, PAGES, Kind, ink
from sevlab_widgets.picture import Svg
from sevlab_widgets.png import png
from sevlab_widgets.words import facts_of, notes_of

PAGE = 4096
KINDS = 15  # kinds a map can tell apart: four bits of the static picture, less one for the ground
COLUMNS, LINES = 128, 56  # cells of the static picture, at most

Look = tuple[int, Sequence[Run], Sequence[Region]]  # count, runs, regions


class PageMap(Frame):
    """A map of `count` pages.

    `states` is a sequence of state codes (or, with `count`, may be left out), `owner` and
    `pins` one number a page or one for all; `kinds[code]` says what a code means. `first`
    is the number of the first page, for its address. `regions` are (first, count, name):
    memory slots, or whatever has a border. `owners` gives owners a name, `word` says what
    an owner is. `on_enter(page)` is what Enter and a double click do. `look(host)` answers with
    (count, runs, regions) of the host as it is or was, a run being (first, count, state, owner, pins):
    it is asked once a frame, after something has happened. With `folded` only the pages of its regions are drawn,
    one region behind the other: what lies between two memory slots is no memory.

    Raises ValueError for a code without a kind, for more than fifteen kinds, and for numbers that no page can have.
    """

    FILES: ClassVar[tuple[str, ...]] = ("pages", "grid", "pagemap")
    MAKER: ClassVar[str] = "pagemap"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("← → ↑ ↓", "move the cursor"),
        ("+ -", "zoom (or click, then wheel)"),
        ("PgUp PgDn", "a screen up, down"),
        ("0", "the whole memory"),
        ("u", "what is in use"),
        ("Home End", "first, last page"),
        ("Enter", "take this page elsewhere"),
    )

    lit = t.Int(None, allow_none=True, help="an owner: its pages are shown, all others faded")

    def __init__(
        self,
        states: Any = None,
        *,
        count: int | None = None,
        owner: Any = 0,
        pins: Any = 0,
        kinds: Sequence[Kind] = PAGES,
        first: int = 0,
        regions: Sequence[Region] = (),
        owners: Mapping[int, str] | None = None,
        word: str = "owner",
        title: str = "memory",
        on_enter: Any = None,
        look: Callable[[Any], Look] | None = None,
        folded: bool = False,
        **keywords: Any,
    ) -> None:
        if look is not None:
            count = 1 if folded else max(1, look(keywords.get("host"))[0])
        states = np.zeros(count or 0, np.uint8) if states is None else np.asarray(states)
        if not states.size:
            raise ValueError("a map needs at least one page: give it states, or a count")
        if len(kinds) > KINDS:
            raise ValueError(f"{len(kinds)} kinds of pages; a map can tell {KINDS} apart")
        if int(states.max()) >= len(kinds) or int(states.min()) < 0:
            raise ValueError(f"state {int(states.max())} has no kind; there are {len(kinds)}")

        self.kinds = tuple(kinds)
        self.first = first
        self.regions = list(regions)
        self.owners = dict(owners or {})
        self.word = word
        self.on_enter = on_enter
        self.columns = runs.blank(len(states))
        for column, values in zip(self.columns, (states, owner, pins), strict=True):
            if np.ndim(values) or np.any(values):  # memory that nobody writes costs nothing
                if np.min(values) < 0 or np.max(values) > np.iinfo(column.dtype).max:
                    raise ValueError(f"owners and pins are numbers from 0 to {np.iinfo(column.dtype).max}")
                column[:] = values
        self._used = len(states) if any(map(np.any, (states, owner, pins))) else 0  # nothing was written from here on
        self._dirty: list[runs.Range] = []
        self._whole = False
        self._history: History | None = None
        self._look, self._old = look, look is not None
        self._folded = folded and look is not None
        self.folding = Folding()
        super().__init__(title=title, **keywords)
        self._catch_up()

    @classmethod
    def of(cls, host: Any, **keywords: Any) -> PageMap:
        """The memory of a host, drawn from its trace: now, and at any journal entry.

        Of the host it asks `pages.count`, `pages.runs()` and `trace`, and for the title line what it has of
        `chip.name`, `design.name` and `seed`.
        """
        given = {"count": host.pages.count, "host": host, "title": "machine memory", "facts": facts_of(host), "word": "slot"}
        made = cls(**{**given, **keywords})
        made._history = History(made.columns, getattr(getattr(host, "gate", None), "host", 0))
        if getattr(host.trace, "ring", None):  # a trace that forgets: the machine itself says how it stands
            made._history.begin(made.now or 0, host.pages.runs())
            made.fed([])
        else:
            made.fed(host.trace.rows())
        return made

    # ------------------------------------------------- what a notebook changes

    @property
    def count(self) -> int:
        """How many pages there are."""
        return len(self.columns[0])

    def set(
        self, first: int, count: int = 1, *, state: int | None = None, owner: int | None = None, pins: int | None = None
    ) -> None:
        """Change a run of pages; what is None stays.

        Raises ValueError for pages that are not on the map and for a state without a kind.
        """
        if first < 0 or count < 1 or first + count > self.count:
            raise ValueError(f"{count} pages from {first:#x} are not on a map of {self.count:#x}")
        if state is not None and not 0 <= state < len(self.kinds):
            raise ValueError(f"state {state} has no kind; there are {len(self.kinds)}")

        with self.lock:
            for column, value in zip(self.columns, (state, owner, pins), strict=True):
                if value is not None:
                    column[first : first + count] = value
            self._touch(first, count)
        self.mark()

    def show(self, states: Any, *, owner: Any = None, pins: Any = None) -> None:
        """Replace the columns; only the pages that differ are sent. Raises ValueError for another number of pages."""
        if len(states) != self.count:
            raise ValueError(f"{len(states)} states for a map of {self.count} pages")

        with self.lock:
            before = tuple(column.copy() for column in self.columns)
            for column, values in zip(self.columns, (states, owner, pins), strict=True):
                if values is not None:
                    column[:] = values
            self._used = self.count
            self._dirty += runs.differences(before, self.columns)
        self.mark()

    def border(self, regions: Sequence[Region]) -> None:
        """Replace the regions: (first, count, name)."""
        with self.lock:
            self.regions = list(regions)
            self._whole = True
        self.mark()

    def _touch(self, first: int, count: int) -> None:
        self._used = max(self._used, first + count)
        if not self.watched:
            return
        if self._dirty and self._dirty[-1] == (first, count):
            return
        if self._dirty and sum(self._dirty[-1]) == first:
            first, count = self._dirty[-1][0], self._dirty[-1][1] + count
            self._dirty[-1] = first, count
        else:
            self._dirty.append((first, count))

    # ------------------------------------------------- time

    def fed(self, rows: list[dict[str, Any]]) -> None:
        self._old = self._look is not None
        if self._history is not None:
            self._history.add(rows)
            if self.entry is None:
                self.draw_at(None)

    def draw_at(self, n: int | None) -> None:
        self._old = self._look is not None
        if self._history is not None:
            for first, count in self._history.draw(n):
                self._touch(first, count)
            self._used = self._history.used

    def _catch_up(self) -> None:
        """Ask `look` again, where something has happened since."""
        if not self._old or self._look is None:
            return
        self._old = False
        host = self.host if self.entry is None else self.host.at(self.entry)
        count, rows, regions = self._look(host)
        if self._folded:
            self.folding = self.folding if list(regions) == self.folding.asked else Folding(regions)
            count, rows, regions = max(1, self.folding.count), self.folding.inside(rows), self.folding.regions
        if list(regions) != self.regions:
            self.regions, self._whole = list(regions), True
        if count > self.count or (self._folded and count < self.count):
            state, owner, pins = (column[:count] for column in self.columns)
            self.columns = runs.grown((state, owner, pins), count)
            self._whole = True
        before, self.columns = self.columns, runs.blank(self.count)
        for first, length, *values in rows:
            for column, value in zip(self.columns, values, strict=True):
                column[first : first + length] = value
        self._used = max((first + length for first, length, *_ in rows), default=0)
        self._dirty += runs.differences(before, self.columns)

    # ------------------------------------------------- frames

    @property
    def empty(self) -> str:  # type: ignore[override]
        self._catch_up()
        if self._used:
            return ""
        if self._folded and not self.regions:
            return "No memory yet. The first memory slot draws itself here."
        return f"{size_of(self.count)}, nothing touched. The first {'memory slot' if self.host else 'page'} draws itself here."

    def full(self) -> Message:
        with self.lock:
            self._catch_up()
            rows = runs.pack(runs.runs(self.columns, [(0, self._used)])) if self._used else b""
            whole = len(rows) > 5 * self.count
            if whole:
                state, owner, pins = self.columns
                rows = b"".join((owner.astype("<u2").tobytes(), pins.astype("<u2").tobytes(), state.tobytes()))
            data, z = runs.squeeze(rows)
            void = [[k.name, k.letter, "" if k.colour == EMPTY else k.colour, ink(k.colour), k.severity] for k in self.kinds]
            fields = {
                "count": self.count,
                "first": self.first,
                "places": self.folding.places,
                "kinds": void,
                "regions": self.regions,
                "owners": self.owners,
                "word": self.word,
            }
            return {**fields, "z": z, "whole": int(whole), "lit": self.lit}, [data]

    def changes(self) -> Message | None:
        self._catch_up()
        dirty, self._dirty = runs.merge(self._dirty), []
        if self._whole or sum(count for _, count in dirty) > self.count // 2 > 4096:
            self._whole = False
            fields, buffers = self.full()
            return {"kind": "full", **fields}, buffers
        if not dirty:
            return None
        data, z = runs.squeeze(runs.pack(runs.runs(self.columns, dirty)))
        return ({"z": z} if z else {}), [data]

    @t.observe("lit")
    def _relit(self, change: Any) -> None:
        self.post({"kind": "lit", "owner": change["new"]})

    def got_enter(self, view: str, page: int) -> None:
        """Enter, or a double click."""
        self.call("Enter", self.on_enter, self.folding.number(int(page)))

    # ------------------------------------------------- in words and without a front end

    def counts(self) -> dict[str, int]:
        """How many pages there are of each kind, by its name, and how many are pinned."""
        self._catch_up()
        found = np.bincount(self.columns[0][: self._used], minlength=len(self.kinds))
        found[0] += self.count - self._used
        named = {kind.name: int(number) for kind, number in zip(self.kinds, found, strict=True) if number}
        return {**named, "pinned": int(np.count_nonzero(self.columns[2][: self._used]))}

    def page(self, page: int) -> str:
        """One page in a sentence: what the status line says of it."""
        state, owner, pins = (int(column[page]) for column in self.columns)
        parts = [f"{self.kinds[state].letter} {self.kinds[state].name}"]
        if owner:
            parts.append(f"{self.word} {self.owners.get(owner, owner)}")
        if pins:
            parts.append(f"pinned {pins:,} times" if pins > 1 else "pinned")
        parts += [name for first, count, name in self.regions if first <= page < first + count]
        number = self.first + self.folding.number(page)
        return f"Page {number:#x} at {number * PAGE:#x}: {', '.join(parts)}."

    def describe(self) -> str:
        said = [f"{' · '.join([self.title, *self.facts])}: {self.count:,} pages ({size_of(self.count)})."]
        counts = self.counts()
        pinned = counts.pop("pinned")
        letters = {kind.name: kind.letter for kind in self.kinds}
        said.append(
            ", ".join(f"{letters[name]} {name} {number:,}" for name, number in counts.items())
            + (f"; pinned {pinned:,}." if pinned else ".")
        )
        if self.entry is not None:
            said.append(f"Entry {self.entry} of {self.now}.")
        if isinstance(self.selected, int) and 0 <= self.selected < self.count:
            said.append(self.page(self.selected))
        return " ".join(said)

    def table(self) -> Table:
        self._catch_up()
        first, length, owner, pins, state = (column.tolist() for column in runs.runs(self.columns, [(0, self.count)]))
        heads = ["first page", "pages", "address", "letter", "state", self.word, "pins"]
        kinds = [self.kinds[code] for code in state]
        rows = zip(first, length, owner, pins, kinds, strict=True)
        return heads, [
            [
                f"{self.first + self.folding.number(a):#x}",
                n,
                f"{(self.first + self.folding.number(a)) * PAGE:#x}",
                kind.letter,
                kind.name,
                self.owners.get(who, who) if who else "",
                held or "",
            ]
            for a, n, who, held, kind in rows
        ]

    def _shrunk(self, cells: int) -> tuple[Any, int]:
        """What is in use (or all, when nothing is) as at most `cells` states, and how many pages each stands for."""
        used = self._used or self.count
        each = 1
        while -(-used // each) > cells:
            each *= 2
        ranks = np.argsort(np.lexsort((range(len(self.kinds)), [kind.severity for kind in self.kinds])))
        return runs.reduce(self.columns[0][:used], ranks.tolist(), each), each

    def png(self, cells: int = COLUMNS * LINES, scale: int = 5) -> bytes:
        """The map as a PNG file: at most `cells` cells of `scale` px, the most severe state winning."""
        states, _ = self._shrunk(cells)
        columns = min(COLUMNS, 1 << max(2, (len(states) - 1).bit_length() // 2 + 1))
        grid = np.full(-(-len(states) // columns) * columns, len(self.kinds), np.uint8)
        grid[: len(states)] = states
        colours = [kind.colour for kind in self.kinds] + ["#ffffff"]
        return png(grid.reshape(-1, columns), colours, scale=scale, clear=len(self.kinds))

    def svg(self) -> str:
        from base64 import b64encode

        _, each = self._shrunk(COLUMNS * LINES)
        picture = self.png()
        width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
        svg = Svg(max(width, 480), height + 30)
        svg.add("image", x=0, y=0, width=width, height=height, href="data:image/png;base64," + b64encode(picture).decode())
        x = 0.0
        for kind in self.kinds:
            if kind.name in self.counts():
                svg.letter(x, height + 10, kind.letter, kind.colour)
                svg.text(x + 21, height + 22, kind.name)
                x += 34 + 7 * len(kind.name)
        return svg.file(
            " · ".join([self.title, *self.facts]),
            [
                *notes_of(self),
                self.describe().partition(". ")[2],
                f"One cell is {each:,} pages." if each > 1 else "One cell is one page.",
            ],
        )

    def still(self, limit: int | None = None) -> dict[str, Any]:
        cells = COLUMNS * LINES
        picture = self.png(cells)
        while limit is not None and len(picture) > limit and cells > 64:
            cells //= 4
            picture = self.png(cells)
        return {"image/png": picture}


def size_of(pages: int) -> str:
    """So many pages as a size in words."""
    size, units = pages * PAGE / 1024, iter(("MiB", "GiB", "TiB"))
    unit = "KiB"
    while size >= 1024 and (larger := next(units, None)):
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if size == int(size) else f"{size:.1f} {unit}"
