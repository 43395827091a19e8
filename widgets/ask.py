"""Ask: the card of a prediction, and of an exercise that was checked. It knows no SEV.

    Ask("Same bytes at another address: same ciphertext?", ["yes", "no"], reveal=lambda: "no")

Commit locks the answer, and only then `reveal()` is called: what it says does not reach the
page before. It may return a word, or any object with `says`, `evidence` and `because`.
Where no front end runs, question, answers and reveal are text, at once: `describe()`.

`Checked` is the same card after a check: `draw()` gives all that stands on it as a
`Sheet`, and is asked again after each hint and each line of the solution.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any, ClassVar, NamedTuple

import traitlets as t
from sevlab_widgets.frame import Frame, Message, Table
from sevlab_widgets.picture import Svg

WAITING = "Not answered yet. You may read on; the card keeps your place."
HEADS = ("what", "you", "the machine")
COLUMNS = 96  # letters of a line in the static picture


class Shown(NamedTuple):
    """What the machine said, the bytes or the number that decide, and one sentence of reason."""

    says: str
    evidence: str = ""
    because: str = ""


class Card(Frame):
    """What both cards have in common: text that wraps, native controls, no picture to walk in."""

    FILES: ClassVar[tuple[str, ...]] = ("ask",)
    MAKER: ClassVar[str] = "ask"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (("Tab", "from control to control"), ("Enter", "press it"))

    def card(self) -> dict[str, Any]:
        """All that stands on the card."""
        raise NotImplementedError

    def chrome(self) -> dict[str, Any]:
        return {**super().chrome(), "files": False}  # its picture is its text, what is revealed and all

    def full(self) -> Message:
        with self.lock:
            return {"card": self.card()}, []

    def svg(self) -> str:
        lines = [part for line in self.describe().splitlines() for part in wrap(line, COLUMNS, subsequent_indent="  ") or [""]]
        svg = Svg(760, 18 * len(lines) + 8)
        for number, line in enumerate(lines):
            indent = len(line) - len(line.lstrip())
            svg.text(7 * indent, 14 + 18 * number, line.lstrip(), "bold" if not number else "")
        return svg.file()

    def still(self, limit: int | None = None) -> dict[str, Any]:
        return {}  # its text says it all


class Ask(Card):
    """A prediction. `answer` is what was committed, None before; `why` the reader's reason.

    With `answers` (2 to 5) one is chosen, without them there is one input field, whose
    `unit` stands behind it. `on_commit(answer)` is told once.
    """

    answer = t.Unicode(None, allow_none=True, help="the answer that was committed")
    why = t.Unicode("", help="the reason that was given")

    def __init__(
        self,
        question: str,
        answers: Sequence[str] = (),
        *,
        reveal: Callable[[], Any],
        unit: str = "",
        title: str = "Prediction",
        on_commit: Callable[[str], Any] | None = None,
        **keywords: Any,
    ) -> None:
        self.question = question
        self.answers = tuple(answers)
        self.unit = unit
        self.on_commit = on_commit
        self._reveal = reveal
        self._shown: Shown | None = None
        self._bundling = False
        super().__init__(title=title, **keywords)

    def __repr__(self) -> str:
        """The whole card as text; while it is being shown live, only the question."""
        return f"Predict: {self.question}\n{WAITING}" if self._bundling and self.answer is None else self.describe()

    def _repr_mimebundle_(self, **keywords: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self._bundling = os.environ.get("SEVLAB_STATIC") != "1"
        try:
            return super()._repr_mimebundle_(**keywords)
        finally:
            self._bundling = False

    @property
    def shown(self) -> Shown:
        """What the machine says: it is looked at once."""
        with self.lock:
            if self._shown is None:
                found = self._reveal()
                parts = (str(getattr(found, name, "")) for name in ("evidence", "because"))
                self._shown = Shown(str(getattr(found, "says", found)), *parts)
            return self._shown

    @property
    def agrees(self) -> bool | None:
        """Whether the answer is what the machine says; None while there is none, or where words cannot be compared."""
        if self.answer is None or self._shown is None:
            return None
        return self.answer == self._shown.says if self.answers else _value(self.answer) == _value(self._shown.says)

    def card(self) -> dict[str, Any]:
        shown = self._shown if self.answer is not None else None
        return {
            "kind": "prediction",
            "question": self.question,
            "answers": list(self.answers),
            "unit": self.unit,
            "answer": self.answer,
            "why": self.why,
            "agrees": self.agrees,
            "reveal": None if shown is None else shown._asdict(),
            "say": self.says(),
        }

    def says(self) -> str:
        """The status line."""
        if self.answer is None:
            return WAITING
        if self._shown is None:
            return f"You said: {self.answer}. The machine could not be asked."
        return f"You said: {self.answer}. The machine says: {self._shown.says}."

    def describe(self) -> str:
        shown = self.shown
        lines = [f"Predict: {self.question}", "  " + (" / ".join(self.answers) or (f"(in {self.unit})" if self.unit else ""))]
        if self.answer is not None:
            lines.append(f"You said: {self.answer}" + (f", because {self.why}" if self.why else ""))
        lines += [f"The machine says: {shown.says}", *shown.evidence.splitlines(), shown.because]
        return "\n".join(line for line in lines if line.strip())

    def table(self) -> Table:
        machine = "" if self.answer is None or self._shown is None else self._shown.says
        return list(HEADS), [[self.question, self.answer or "", machine]]

    def got_commit(self, view: str, answer: str, why: str = "") -> None:
        """An answer, for good: whatever comes after it is not taken."""
        with self.lock:
            if self.answer is not None:
                return
            answer = str(answer).strip()
            if not answer or (self.answers and answer not in self.answers):
                raise ValueError(f"{answer!r} is no answer to choose from")
            self.why = str(why).strip()
            self.answer = answer
        self._look()
        self.call("What follows the answer", self.on_commit, self.answer)

    def got_again(self, view: str) -> None:
        """The machine could not be asked the first time: once more."""
        if self.answer is not None and self._shown is None:
            self._look()

    def _look(self) -> None:
        self.call("The reveal", lambda: self.shown)
        self.mark()


def _value(text: str) -> Any:
    """A number in any of Python's forms, else the words themselves, spaces and capitals aside."""
    words = text.replace(",", "").replace("_", "").strip().casefold()
    try:
        return int(words, 0)
    except ValueError:
        return " ".join(words.split())


class Sheet(NamedTuple):
    """What stands on a checked card, and the same as `text`.

    `sign` stands for the outcome; `rows` are (what, you, the machine, whether they fit); `dots` the lab's
    exercises as (id, outcome, sign), in order; of `hints` and `solution` only what was shown, of so many.
    """

    id: str
    title: str
    question: str = ""
    outcome: str = "not attempted"
    sign: str = "–"
    says: str = ""
    rows: Sequence[tuple[str, str, str, bool]] = ()
    heads: Sequence[str] = HEADS
    look: str = ""
    hints: Sequence[str] = ()
    hints_all: int = 0
    solution: Sequence[str] = ()
    solution_all: int = 0
    solution_open: bool = False
    minutes: int = 0
    level: str = ""
    dots: Sequence[tuple[str, str, str]] = ()
    note: str = ""
    text: str = ""

    @property
    def passed(self) -> int:
        """How many of the lab's exercises are."""
        return sum(outcome == "passed" for _, outcome, _ in self.dots)


class Checked(Card):
    """An exercise and what came of checking it.

    `on_hint()` and `on_line()` are called for the next hint and the next line of the
    solution, `on_look()` for the link (without it, what to look at is no link); afterwards `draw()` says what the card is now.
    """

    def __init__(
        self,
        draw: Callable[[], Sheet],
        *,
        on_hint: Callable[[], Any] | None = None,
        on_line: Callable[[], Any] | None = None,
        on_look: Callable[[], Any] | None = None,
        **keywords: Any,
    ) -> None:
        self.draw = draw
        self.on_hint, self.on_line, self.on_look = on_hint, on_line, on_look
        sheet = draw()
        usually = f"usually {sheet.minutes} minute{'s' * (sheet.minutes != 1)}"
        super().__init__(
            **{
                "title": sheet.title,
                "facts": [part for part in (sheet.id, sheet.level, sheet.minutes and usually) if part],
                **keywords,
            }
        )

    def card(self) -> dict[str, Any]:
        sheet = self.draw()
        fields = sheet._asdict()
        del fields["text"]
        return {
            "kind": "exercise",
            **fields,
            "passed": sheet.passed,
            "leads": self.on_look is not None,
            "say": self._says(sheet),
        }

    @staticmethod
    def _says(sheet: Sheet) -> str:
        differ = sum(not row[3] for row in sheet.rows)
        rows = f" {differ} of {len(sheet.rows)} rows {'differs' if differ == 1 else 'differ'}." if differ else ""
        so_far = f" {sheet.passed} of {len(sheet.dots)} passed." if sheet.dots else ""
        return f"{sheet.id}: {sheet.outcome}.{rows}{so_far}"

    def describe(self) -> str:
        sheet = self.draw()
        return sheet.text or self._says(sheet)

    def table(self) -> Table:
        sheet = self.draw()
        return [*sheet.heads, ""], [[*row[:3], "" if row[3] else "differs"] for row in sheet.rows]

    def got_hint(self, view: str) -> None:
        """The next hint was asked for."""
        self._act("The hint", self.on_hint)

    def got_line(self, view: str) -> None:
        """The next line of the solution was asked for."""
        self._act("The solution", self.on_line)

    def got_look(self, view: str) -> None:
        """The link was followed."""
        self._act("The link", self.on_look)

    def _act(self, what: str, function: Callable[[], Any] | None) -> None:
        self.call(what, function)
        self.mark()
