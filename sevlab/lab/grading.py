"""Exercises as rows, and how one answer is judged.

An exercise looks at the machine, never at a stored answer, and says what it
found before it says where to look. `judge` gives one of four outcomes.

The kinds of check differ in what machine they look at:
`value` and `state` at the reader's own case, `fresh` at three cases of other
seeds on which the answer (a function) is run, `journal` at new machines that
repeat the journal (`repeated`): the reader's own, or, where the answer is a
function, those of three such cases.
"""

from __future__ import annotations

import inspect
import io
import linecache
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PASSED = "passed"
NOT_YET = "not yet"
RAISED = "your code raised"
NOT_ATTEMPTED = "not attempted"
OUTCOMES = (PASSED, NOT_YET, RAISED, NOT_ATTEMPTED)
KINDS = ("value", "state", "fresh", "journal")
LEVELS = ("core", "more", "hard")
HEADS = ("what", "you", "the machine")
UNREADABLE = "The check can make nothing of this answer, of type {} ({}). The question says which kind it asks for."
OURS = Path(__file__).resolve().parents[1]  # code in here is not the reader's
OTHERS = (1009, 2027, 4051)  # added to the reader's seed: the three other machines of a fresh check


class Row(NamedTuple):
    """One line of the table: what was compared, and whether it fits (by default: whether both say the same)."""

    what: str
    you: str
    machine: str
    fits: bool | None = None

    @property
    def ok(self) -> bool:
        return self.you == self.machine if self.fits is None else self.fits


class Finding(NamedTuple):
    """What a check has seen: the rows, and whatever else the diagnoses want to know."""

    rows: Sequence[Row]
    facts: Mapping[str, Any] = {}

    @property
    def passed(self) -> bool:
        return all(row.ok for row in self.rows)


class Diagnosis(NamedTuple):
    """One way to go astray: `fits(case, answer, finding)`, and what is said to it.

    `fits` answers with a truth value, or with a dict that fills the `{}` of `says` and `look`. `look` names the place to look at.
    """

    name: str
    fits: Callable[[Any, Any, Finding], object]
    says: str
    look: str = ""


@dataclass(frozen=True)
class Exercise:
    """One exercise: what is asked, on which machine, how an answer is judged, and what helps.

    `setup(seed)` makes the case, all of whose numbers come from the seed; its `gives` names
    the attributes that are for the reader. `ask` is the question, its `{}` filled with the case's attributes. `check(case, answer)`
    looks and returns a Finding. `wants(answer)` is a sentence for an answer of another
    kind than asked for, else "". `reference(case)` answers; its source lines are the solution.
    """

    id: str
    title: str
    minutes: int
    level: str
    kind: str
    ask: str
    setup: Callable[[int], Any]
    check: Callable[[Any, Any], Finding]
    reference: Callable[[Any], Any]
    diagnoses: tuple[Diagnosis, ...]
    hints: tuple[str, ...]
    wants: Callable[[Any], str] = lambda answer: ""
    heads: tuple[str, str, str] = HEADS
    look: str = ""

    @property
    def lab(self) -> str:
        """The lab it belongs to."""
        return self.id.partition(".")[0]

    @property
    def solution(self) -> list[str]:
        """The lines of the reference answer, as a reader would write them."""
        lines = textwrap.dedent(inspect.getsource(self.reference)).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def ")) + 1
        body = textwrap.dedent("\n".join(lines[start:])).splitlines()
        return [line.replace("return ", "answer = ", 1) if line.startswith("return ") else line for line in body if line.strip()]


class Verdict(NamedTuple):
    """What came of judging: one of OUTCOMES, what is said to it, the rows, and which diagnosis spoke."""

    outcome: str
    says: str = ""
    rows: Sequence[Row] = ()
    look: str = ""
    diagnosis: str = ""
    xrays: int = 0


class NotAttempted(Exception):
    """The reader's function has no body yet."""


class Raised(Exception):
    """The reader's own code raised `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(_said(error))
        self.error = error


def student(function: Callable[..., Any], *args: Any, answers: bool = True) -> Any:
    """Call the reader's function. With `answers`, one that gives nothing back was not attempted.

    Raises NotAttempted, or Raised around whatever the function raised.
    """
    try:
        value = function(*args)
    except NotImplementedError as no:
        raise NotAttempted from no
    except (Exception, SystemExit) as error:
        raise Raised(error) from error
    if value is ... or (answers and value is None):
        raise NotAttempted
    return value


def judge(exercise: Exercise, case: Any, answer: Any, seed: int = 7) -> Verdict:
    """Judge one answer to the reader's `case`; `seed` is the reader's.

    An answer that no check can read, such as an array or an object with an `==` of its own, is told so.
    """
    if isinstance(answer, bytearray | memoryview):
        answer = bytes(answer)
    parts = answer if isinstance(answer, tuple) else (answer,)
    if not parts or any(part is None or part is ... for part in parts):
        return Verdict(NOT_ATTEMPTED)
    xrays = looks(case)
    try:
        fault = exercise.wants(answer)
        if fault:
            return Verdict(NOT_YET, fault, look=exercise.look, diagnosis="wants", xrays=xrays)
        fresh = exercise.kind == "fresh" or (exercise.kind == "journal" and callable(answer))
        cases = [exercise.setup(seed + more) for more in OTHERS] if fresh else [case]
        finding = Finding(())
        for one in cases:
            finding = exercise.check(one, answer)
            if not finding.passed:
                return _diagnosed(exercise, one, answer, finding, xrays)
    except NotAttempted:
        return Verdict(NOT_ATTEMPTED, xrays=xrays)
    except Raised as raised:
        return Verdict(RAISED, _where(raised.error), xrays=xrays)
    except Exception as error:
        if _plain(answer):
            raise  # a mistake of ours
        return Verdict(NOT_YET, UNREADABLE.format(type(answer).__name__, _said(error)), diagnosis="unreadable", xrays=xrays)
    return Verdict(PASSED, "", finding.rows, xrays=xrays)


def _diagnosed(exercise: Exercise, case: Any, answer: Any, finding: Finding, xrays: int) -> Verdict:
    """The first diagnosis that fits speaks; if none does, the table alone."""
    for diagnosis in exercise.diagnoses:
        fits = diagnosis.fits(case, answer, finding)
        if fits:
            said = diagnosis.says, diagnosis.look or exercise.look
            words, look = (text.format(**fits) for text in said) if isinstance(fits, Mapping) else said
            return Verdict(NOT_YET, words, finding.rows, look, diagnosis.name, xrays)
    return Verdict(NOT_YET, "", finding.rows, exercise.look, "", xrays)


def _plain(answer: Any, depth: int = 4) -> bool:
    """Whether an answer is made of Python's own values only, so that no code or limit of another can speak through it."""
    if isinstance(answer, int):
        return abs(answer) < 1 << 4096  # beyond 4,300 digits Python itself refuses to write a number
    if isinstance(answer, list | tuple | set | frozenset | dict):
        inside = [*answer, *answer.values()] if isinstance(answer, dict) else answer
        return depth > 0 and all(_plain(one, depth - 1) for one in inside)
    return answer is None or isinstance(answer, float | str | bytes)


def _said(error: BaseException) -> str:
    """An error's type and its words, which may be none or another error."""
    try:
        words = str(error)
    except Exception as other:
        words = f"its text raised {type(other).__name__}"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _where(error: BaseException) -> str:
    """What the reader's code raised, and on which of its lines."""
    why = getattr(error, "why", "")
    said = _said(error)
    said += f" ({why})" if why and why not in said else ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not Path(frame.filename).is_relative_to(OURS)]
    if not frames:
        return said
    last = frames[-1]
    line = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    return f"{said}, at line {last.lineno} of {last.name}" + (f": {line}" if line else "")


# ------------------------------------------------------------- the machines that are looked at


def looks(case: Any) -> int:
    """How many looks through the x-ray the reader has taken on the case's machine."""
    host = getattr(case, "host", None)
    return 0 if host is None else len(host.journal.looks)


def repeated(host: Any, programs: Sequence[Any] = ()) -> Any:
    """A new machine that repeats this one's journal, by way of a file: nothing but what was done counts.

    `programs` are guests that the file cannot name, beside those that the journal itself has started.
    Raises sevlab.journal_format.JournalError where the journal cannot be kept.
    """
    from sevlab.host import Host
    from sevlab.hw.program import Program

    started = [arg for _, _, _, args, _ in host.journal.entries for arg in args if isinstance(arg, Program)]

    file = io.BytesIO()
    host.save(file)
    file.seek(0)
    return Host.load(file, [*programs, *started])
