"""Lens: one address, many eyes. It knows no SEV.

    Lens([Eye("the bus", lambda host: host.dram.read(hpa, 4096), "B"), ...], host=host, where=lambda host: "gpa 0x4000")

Every eye is asked what it sees of the same bytes, each time the host has done something.
An eye with `xray` is closed until somebody opens it, since a look through it leaves a
row in the trace. `moves` are the notebook's callbacks, by name:

    copy(source, target), swap(one, other)     offsets of two blocks, in bytes
    put back(offset, n)                        one block, as it was after entry n
    remap(address), flush()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.acts import Act, Acts, number
from sevlab_widgets.drawing import Choice
from sevlab_widgets.frame import Table
from sevlab_widgets.lens_picture import LensPicture, columns_of, visible
from sevlab_widgets.picture import Svg

BLOCK, LINE = 16, 64  # bytes of a cipher's block, of a cache's line
NOTHING = "No page chosen. Give Lens a gpa, or click one in PageMap."
MOVES = (
    ("copy", "c", "Copy"),
    ("swap", "x", "Swap"),
    ("put back", "p", "Put back"),
    ("remap", "m", "Remap"),
    ("flush", "f", "Flush"),
)


class Eye(NamedTuple):
    """A viewer. `look(host)` gives what it sees of the whole range, None where it sees nothing; `verb` as in "vm-a reads".

    `dirty(host)` gives the offsets of 64-byte lines that memory does not have yet, `gaps(host)` those of which it sees nothing.
    """

    name: str
    look: Callable[[Any], bytes | None]
    letter: str = ""
    xray: bool = False
    note: str = ""
    verb: str = "reads"
    dirty: Callable[[Any], Sequence[int]] | None = None
    gaps: Callable[[Any], Sequence[int]] | None = None


class Sight(NamedTuple):
    """What an eye saw: its bytes, or why there are none."""

    data: bytes | None
    why: str = ""
    dirty: frozenset[int] = frozenset()
    gaps: frozenset[int] = frozenset()


class Lens(Acts):
    """One address, many eyes. `block` is the number of the block that is selected."""

    WALK: ClassVar[tuple[str, ...]] = ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown", "Home", "End")
    OWN_RING: ClassVar[bool] = True
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("↑ ↓", "from block to block"),
        ("← →", "from eye to eye"),
        ("Enter", "open an x-ray; drop what is carried"),
        ("h", "hold the bytes of now"),
    )
    choices = (Choice("view", "Show", ("bytes", "picture", "delta")),)

    def __init__(
        self,
        eyes: Sequence[Eye] = (),
        *,
        where: Callable[[Any], str] | str = "",
        across: int = 64,
        moves: Mapping[str, Callable[..., Any]] | None = None,
        opened: bool = False,
        title: str = "lens",
        **keywords: Any,
    ) -> None:
        self.eyes = tuple(eyes)
        self.where = where
        self.across = across  # bytes in a row of a picture
        self.moves = dict(moves or {})
        if unknown := self.moves.keys() - {name for name, _, _ in MOVES}:
            raise ValueError(f"a lens can {', '.join(name for name, _, _ in MOVES)}, not {', '.join(sorted(unknown))}")
        self.opened = {eye.name for eye in self.eyes if eye.xray and opened}
        self.block = self.eye = self.top = 0
        self.held: dict[str, bytes] = {}
        self.held_at: int | None = None
        self.carried: tuple[str, int] | None = None  # the move under way, and the block it began at
        self._sights: list[Sight] = []
        self._looked: Any = ()  # the entry that was looked at, and through which eyes
        self._past: Any = None  # the host as it was at the entry that is drawn
        super().__init__(title=title, **keywords)
        self.look()
        if self.eyes:
            self.selected = self.key(0, 0)

    # ------------------------------------------------- looking

    def look(self) -> None:
        """Ask every open eye again."""
        with self.lock:
            at = (self.now, self.entry, frozenset(self.opened))
            self._looked = at
            host = self.host if self._past is None else self._past
            self._sights = [self._through(eye, host) for eye in self.eyes]
        self.mark()

    def _through(self, eye: Eye, host: Any) -> Sight:
        if eye.xray and eye.name not in self.opened:
            return Sight(None, "closed")
        try:
            data = eye.look(host)
            lines, gaps = (frozenset(one(host)) if one is not None else frozenset() for one in (eye.dirty, eye.gaps))
        except (OSError, ValueError, LookupError) as error:
            return Sight(None, str(error))
        return Sight(None, "sees nothing here") if data is None else Sight(bytes(data), dirty=lines, gaps=gaps)

    @property
    def sights(self) -> list[Sight]:
        """What each eye sees, asked anew where the host has gone on."""
        if self._looked != (self.now, self.entry, frozenset(self.opened)):
            self.look()
        return self._sights

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return max((len(sight.data) for sight in self.sights if sight.data), default=4096 if self.eyes else 0) // BLOCK

    def fed(self, rows: list[dict[str, Any]]) -> None:
        """A look leaves rows as well: whether anything was done, the entry says, when a frame is drawn."""

    def draw_at(self, n: int | None) -> None:
        self._past = None if n is None else self.call("The past", getattr(self.host, "at", None), n)
        self.carried = None

    def block_of(self, index: int, block: int) -> bytes | None:
        """The 16 bytes of a block as eye number `index` sees them, None where it sees nothing."""
        data, gaps = self.sights[index].data, self.sights[index].gaps
        return None if data is None or block * BLOCK // LINE * LINE in gaps else data[block * BLOCK : (block + 1) * BLOCK] or None

    def changed(self, index: int) -> set[int]:
        """The blocks that this eye sees otherwise than when its bytes were held."""
        held, data = self.held.get(self.eyes[index].name), self.sights[index].data
        if held is None or data is None:
            return set()
        return {at // BLOCK for at in range(0, len(data), BLOCK) if data[at : at + BLOCK] != held[at : at + BLOCK]}

    # ------------------------------------------------- the picture

    def picture(self, width: int, size: str) -> Svg:
        return LensPicture(self, width, size).svg

    @property
    def empty(self) -> str:  # type: ignore[override]
        return "" if self.eyes else NOTHING

    def chrome(self) -> dict[str, Any]:
        if callable(self.where):
            self.title = self.call("The address", self.where, self.host if self._past is None else self._past) or self.title
        elif self.where:
            self.title = self.where
        return super().chrome()

    def key(self, index: int, block: int) -> str:
        """The key of a block in a column."""
        return f"{self.eyes[index].name}/{block}"

    # ------------------------------------------------- in words

    def seen(self, index: int, block: int) -> str:
        """What one eye sees of a block, in words."""
        eye, data = self.eyes[index], self.block_of(index, block)
        if data is None:
            why = self.sights[index].why
            if not why:
                why = "holds nothing there" if self.sights[index].gaps else "has no such block"
            return f"{eye.name} is closed" if why == "closed" else f"{eye.name} {why}"
        return f"{eye.name} {eye.verb} {in_words(data, raw=eye.letter == 'B')}"

    def say(self, block: int) -> str:
        """A block in a sentence, through every eye."""
        parts = ", ".join(self.seen(i, block) for i in range(len(self.eyes)))
        return f"Block {block} of {self.blocks}: {parts}" + ("" if parts.endswith("…") else ".")

    def says(self) -> str:
        if not self.eyes:
            return NOTHING
        if self.chosen["view"] == "delta" and not self.held:
            return "Nothing is held yet. Hold (h) keeps the bytes of now; delta then shows every block that differs from them."
        if self.chosen["view"] == "delta":
            counts = ", ".join(f"{eye.name} {len(self.changed(i))}" for i, eye in enumerate(self.eyes) if eye.name in self.held)
            when = "" if self.held_at is None else f" at entry {self.held_at}"
            return f"Blocks that differ from those held{when}: {counts}. {self.say(self.block)}"
        return self.sentence(self.block)

    def sentence(self, block: int) -> str:
        """The status line at a block: what is being carried, if anything is, and what every eye sees."""
        if self.carried is None:
            return self.say(block)
        what, start = self.carried
        return f"{what.capitalize()} block {start}: arrows choose the other block, Enter does it. {self.say(block)}"

    def describe(self) -> str:
        self.chrome()
        return f"{' · '.join([self.title, *self.facts])}. {self.says()}"

    def table(self) -> Table:
        heads = ["block", "offset", *[part for eye in self.eyes for part in (eye.name, f"{eye.name}, text")]]
        rows = []
        for block in range(self.blocks):
            cells: list[Any] = [block, f"{block * BLOCK:#05x}"]
            for index in range(len(self.eyes)):
                data = self.block_of(index, block)
                cells += ["", ""] if data is None else [data.hex(" "), letters(data)]
            rows.append(cells)
        return heads, rows

    # ------------------------------------------------- cursor

    def to(self, block: int, eye: int | None = None) -> None:
        """Select a block, and which eye is looked through."""
        if not self.eyes:
            return
        self.block = max(0, min(block, self.blocks - 1))
        self.eye = max(0, min(self.eye if eye is None else eye, len(self.eyes) - 1))
        width, size = self.sizes()[0]
        rows = visible(self, width, size)
        self.top = max(0, min(max(self.top, self.block - rows + 1), self.block))
        self.selected = self.key(self.eye, self.block)

    def walk(self, key: str) -> None:
        if self.chosen["view"] == "bytes":
            page = visible(self, *self.sizes()[0])
            by, eye = {
                "ArrowUp": (-1, 0),
                "ArrowDown": (1, 0),
                "ArrowLeft": (0, -1),
                "ArrowRight": (0, 1),
                "PageUp": (-page, 0),
                "PageDown": (page, 0),
            }.get(key, (0, 0))
        else:
            row = max(1, self.across // BLOCK)
            by, eye = (
                {
                    "ArrowUp": -row,
                    "ArrowDown": row,
                    "ArrowLeft": -1,
                    "ArrowRight": 1,
                    "PageUp": -16 * row,
                    "PageDown": 16 * row,
                }.get(key, 0),
                0,
            )
        self.to({"Home": 0, "End": self.blocks - 1}.get(key, self.block + by), self.eye + eye)

    def got_select(self, view: str, value: Any) -> None:
        name, _, block = str(value).rpartition("/")
        names = [eye.name for eye in self.eyes]
        if name in names and block.isdigit():
            self.to(int(block), names.index(name))
            if self.on_select is not None:
                self.on_select(self.selected)
        elif value in names:
            self.to(self.block, names.index(value))
        self.mark()

    def pick(self, key: str, x: float, y: float) -> None:
        row = max(1, self.across // BLOCK)
        names = [eye.name for eye in self.eyes]
        name = key.rpartition("/")[0] or key
        self.to(int(y * max(1, self.blocks // row)) * row + int(x * row), names.index(name) if name in names else None)

    def act(self, key: str) -> None:
        if self.carried is not None:
            return self._drop(self.block)
        name = key.rpartition("/")[0] or key
        if any(eye.xray and eye.name == name for eye in self.eyes):
            self.opened ^= {name}
            self.mark()

    # ------------------------------------------------- moves

    def acts(self) -> list[Act]:
        if not self.eyes:
            return []
        held = bool(self.held)
        found = [Act("hold", "Hold", "h", pressed=held)]
        for name, key, label in MOVES:
            if name not in self.moves:
                continue
            carrying = self.carried is not None and self.carried[0] == name if name in ("copy", "swap") else None
            found.append(Act(name, label, key, pressed=carrying, field={"put back": "as of entry", "remap": "hpa"}.get(name, "")))
        return found

    def press(self, name: str, value: str) -> None:
        if name == "hold":
            self.held = (
                {}
                if self.held
                else {eye.name: sight.data for eye, sight in zip(self.eyes, self.sights, strict=True) if sight.data is not None}
            )
            self.held_at = self.now if self.held else None
        elif name in ("copy", "swap"):
            if self.carried is not None and self.carried[0] == name and self.carried[1] != self.block:
                return self._drop(self.block)
            self.carried = None if self.carried is not None and self.carried[0] == name else (name, self.block)
        elif name == "put back":
            self.moves[name](self.block * BLOCK, number(value, "entry"))
        elif name == "remap":
            self.moves[name](number(value, "address"))
        else:
            self.moves[name]()

    def _drop(self, target: int) -> None:
        if self.carried is None:
            return
        (what, start), self.carried = self.carried, None
        if target != start:
            self.call(what.capitalize(), self.moves[what], start * BLOCK, target * BLOCK)
        self.mark()

    def drop(self, key: str, dx: float, dy: float) -> None:
        """A block was dragged onto another: it is copied, or what is being carried decides."""
        what = (
            self.carried[0] if self.carried is not None else next((name for name in ("copy", "swap") if name in self.moves), None)
        )
        block = key.rpartition("/")[2]
        if what is None or not block.isdigit():
            return
        target = max(0, min(int(block) + round(dy / columns_of(self, *self.sizes()[0]).pitch), self.blocks - 1))
        self.carried = what, int(block)
        self.to(target)
        self._drop(target)


def letters(data: bytes) -> str:
    """Bytes as text, a point for whatever cannot be printed."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def in_words(data: bytes, *, raw: bool = False) -> str:
    """16 bytes in words: text in quotes, "zeros", a few bytes, or noise."""
    if not any(data):
        return "zeros"
    if sum(32 <= byte < 127 for byte in data) >= 12 or (
        data.rstrip(b"\0").isascii() and data.rstrip(b"\0").decode("ascii").isprintable()
    ):
        return f"“{letters(data)}”"
    if not raw and len(set(data)) >= 12:
        return "noise"
    return f"{data[:4].hex(' ')} …"
