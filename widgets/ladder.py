"""Ladder: the checks of one call in the order in which they are made. It knows no SEV.

    Ladder([Column("linux-6.1", [Rung("the VM is no SEV guest", "ENOTTY", state="passed"), ...])], call="KVM_SEV_LAUNCH_START")

Of two columns equal rungs stand beside each other, joined; a rung that only one
has leaves a gap. With `on_call(wrong)`, which makes the call with the rungs of these
numbers made wrong and returns the columns that come of it, the reader may break it:
a switch for each rung (or for those that are `breakable`), a guess, and then the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.drawing import Choice, Drawing
from sevlab_widgets.frame import Message, Table
from sevlab_widgets.ladder_picture import LadderPicture
from sevlab_widgets.picture import Svg

STATES = ("open", "passed", "refused", "unasked", "also")
WORDS = {
    "open": "not asked yet",
    "passed": "passed",
    "refused": "refused",
    "unasked": "never asked",
    "also": "also wrong, never asked",
}


class Rung(NamedTuple):
    """One check: the case in which it refuses, in plain words, what it answers then, and how it went.

    `by` is who checks (rungs of one stand under its heading), `letter` that party's; `source` where the
    fact comes from; `fw` the firmware's code where one came with the answer. `tag` marks an answer that is a known defect.
    """

    words: str
    code: str
    state: str = "open"
    by: str = ""
    letter: str = ""
    source: str = ""
    fw: str = ""
    tag: str = ""


class Column(NamedTuple):
    """One design's rungs, from top to bottom."""

    name: str
    rungs: Sequence[Rung]

    @property
    def refused(self) -> Rung | None:
        """The rung that said no."""
        return next((rung for rung in self.rungs if rung.state == "refused"), None)


Pair = tuple[int | None, int | None]


def join(left: Sequence[Rung], right: Sequence[Rung]) -> list[Pair]:
    """The numbers of rungs that stand beside each other; None where only the other column has one."""
    keys = [[(rung.words, rung.code, rung.by) for rung in rungs] for rungs in (left, right)]
    pairs: list[Pair] = []
    for tag, a, b, c, d in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        if tag == "equal":
            pairs += zip(range(a, b), range(c, d), strict=True)
        else:
            pairs += [(i, None) for i in range(a, b)] + [(None, i) for i in range(c, d)]
    return pairs


def _checked(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns, if they can be drawn. Raises ValueError for none, for three, and for a rung in no known state."""
    columns = tuple(columns)
    if not 0 < len(columns) <= 2:
        raise ValueError(f"a ladder has one column or two, not {len(columns)}")
    for rung in (rung for column in columns for rung in column.rungs):
        if rung.state not in STATES:
            raise ValueError(f"a rung is {', '.join(STATES)}, not {rung.state!r}")
    return columns


class Ladder(Drawing):
    """The checks of one call. `on_source(rung)` is told when Enter is pressed on a rung, which also shows its source."""

    FILES: ClassVar[tuple[str, ...]] = ("ladder",)
    MAKER: ClassVar[str] = "ladder"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("↑ ↓ ← →", "from rung to rung"),
        ("Home End", "first, last"),
        ("Enter", "where the fact comes from"),
    )

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        call: str = "",
        on_call: Callable[[frozenset[int]], Sequence[Column]] | None = None,
        breakable: Iterable[int] | None = None,
        on_source: Callable[[Rung], Any] | None = None,
        title: str = "",
        **keywords: Any,
    ) -> None:
        self.columns = _checked(columns)
        names = tuple(column.name for column in self.columns)
        self.choices = (Choice("design", "Design", names),) if len(set(names)) == 2 else ()  # where there is no room for both
        self.call_name = call
        self.on_call = on_call
        self.breakable = None if breakable is None else frozenset(breakable)
        self.on_source = on_source
        self.wrong: frozenset[int] = frozenset()
        self.guess = ""
        self.guessed = ""
        self.opened: str | None = None  # the rung whose source is shown
        super().__init__(title=title or call or "checks", **keywords)

    def show(self, columns: Sequence[Column]) -> None:
        """Draw other columns: those after another call."""
        with self.lock:
            self.columns, self.opened = _checked(columns), None
        self.mark()

    # ------------------------------------------------- the picture

    @property
    def pairs(self) -> list[Pair]:
        """What stands beside what."""
        if len(self.columns) == 1:
            return [(i, None) for i in range(len(self.columns[0].rungs))]
        return join(self.columns[0].rungs, self.columns[1].rungs)

    @property
    def called(self) -> bool:
        """Whether a call was made: else these are its rungs, and nobody has asked."""
        return any(rung.state != "open" for column in self.columns for rung in column.rungs)

    @property
    def one(self) -> int | None:
        """The column that is drawn where there is no room for two; None where there is but one."""
        return self.choices[0].options.index(self.chosen["design"]) if self.choices and len(self.columns) == 2 else None

    def picture(self, width: int, size: str) -> Svg:
        return LadderPicture(self, width, size).svg

    def sentence(self, column: int, number: int) -> str:
        """One rung in a whole sentence."""
        rung = self.columns[column].rungs[number]
        where = f" of {self.columns[column].name}" if len(self.columns) > 1 else ""
        by = f", asked by the {rung.by}" if rung.by else ""
        end = (
            f"refused with {rung.code}" + (f", firmware {rung.fw}" if rung.fw else "")
            if rung.state == "refused"
            else WORDS[rung.state]
        )
        source = f" Source: {rung.source}." if rung.source and self.opened == f"{column}/{number}" else ""
        return f"Rung {number + 1}{where}: {rung.code} if {rung.words}{by}; {end}.{source}"

    def says(self) -> str:
        if not any(column.rungs for column in self.columns):
            return f"{self.call_name or 'This call'} has no checks."
        if self.guessed:
            return self.guessed
        if not self.called:
            return f"No call yet. These are the rungs of {self.call_name or 'the call'}, top first."
        parts = []
        for column in self.columns:
            name = f"{column.name}: r" if len(self.columns) > 1 else "R"
            rung = column.refused
            if rung is None:
                asked = any(one.state == "passed" for one in column.rungs)
                parts.append(
                    f"{name[:-1]}{'every' if name != 'R' else 'Every'} rung passed."
                    if asked
                    else f"{name[:-1]}{'nobody' if name != 'R' else 'Nobody'} has asked yet."
                )
                continue
            number = list(column.rungs).index(rung) + 1
            also = sum(one.state == "also" for one in column.rungs)
            more = f" {also} more {'is' if also == 1 else 'are'} also wrong, never asked." if also else ""
            parts.append(
                f"{name}ung {number} of {len(column.rungs)} refused: {rung.words}; {rung.code}"
                + (f", firmware {rung.fw}" if rung.fw else "")
                + f".{more}"
            )
        return " ".join(parts)

    def describe(self) -> str:
        lines = [f"{super().describe()}: {self.says()}"]
        for number, column in enumerate(self.columns):
            if len(self.columns) > 1:
                lines.append(f"{column.name}:")
            lines += ["  " + self.sentence(number, i) for i in range(len(column.rungs))]
        return "\n".join(lines)

    def table(self) -> Table:
        heads = ["design", "rung", "asked by", "refuses if", "with", "firmware", "outcome", "source"]
        rows = [
            [column.name, number, rung.by, rung.words, rung.code, rung.fw, WORDS[rung.state], rung.source]
            for column in self.columns
            for number, rung in enumerate(column.rungs, 1)
        ]
        return heads, rows

    # ------------------------------------------------- the reader

    def chrome(self) -> dict[str, Any]:
        """With `start`, the rung where a walk begins: the one that refused."""
        refused = [f"{i}/{list(column.rungs).index(column.refused)}" for i, column in enumerate(self.columns) if column.refused]
        return {**super().chrome(), "start": refused[0] if refused else ""}

    def full(self) -> Message:
        fields, buffers = super().full()
        rungs = self.columns[0].rungs
        codes = sorted({code for rung in rungs for code in _codes(rung.code)})
        switches = [
            [number, f"{number + 1} {rung.words}", number in self.wrong]
            for number, rung in enumerate(rungs)
            if self.on_call is not None and (self.breakable is None or number in self.breakable)
        ]
        return {**fields, "switches": switches, "codes": codes, "guess": self.guess}, buffers

    def act(self, key: str) -> None:
        """Enter on a rung: show its source, or hide it again."""
        with self.lock:
            self.opened = None if self.opened == key else key
        column, number = map(int, key.split("/"))
        self.call("The source", self.on_source, self.columns[column].rungs[number])
        self.mark()

    def got_call(self, view: str, wrong: Iterable[int], guess: str = "") -> None:
        """The call, with some rungs made wrong; `guess` was committed before."""
        if self.on_call is None:
            return
        numbers = frozenset(map(int, wrong))
        if strange := numbers - (frozenset(range(len(self.columns[0].rungs))) if self.breakable is None else self.breakable):
            raise ValueError(f"rung {min(strange) + 1} cannot be made wrong")
        with self.lock:
            self.wrong, self.guess = numbers, str(guess)
        columns = self.call("The call", self.on_call, self.wrong)
        if columns is None:
            return
        self.columns, self.opened = tuple(columns), None
        rung = self.columns[0].refused
        found = rung.code if rung else "0"
        self.guessed = ""
        answer = self.says()
        self.guessed = (
            f"You guessed {self.guess}, and so it is. {answer}"
            if found == self.guess
            else f"You guessed {self.guess or 'nothing'}, the answer is {found}. {answer}"
        )
        self.mark()


def _codes(text: str) -> list[str]:
    """The codes of a rung that may end in several ways."""
    return [code for code in text.replace(" or ", ", ").split(", ") if code]
