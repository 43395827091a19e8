"""The reader of this notebook: a seed, the exercises opened, and how far they are.

lab.reader.seed = 1234                # numbers, addresses and keys of your own
case = lab.exercise("launch.digest")  # its card; what it is about stands in case.host and the like
lab.check("launch.digest", answer)    # a Result
lab.progress()                        # all of it, as a table
lab.progress().save("mine.json")      # if you want to keep it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sevlab.lab.ask import SIGNS, checked, sheet_text
from sevlab.lab.exercises import find, of_lab
from sevlab.lab.grading import HEADS, NOT_ATTEMPTED, OUTCOMES, PASSED, Exercise, Verdict, judge
from sevlab.lab.show import table

FORMAT = "sevlab progress 1"
CELL = 90  # letters


class Done:
    """How far one exercise is: its last outcome, how often it was checked, hints and lines of the solution shown."""

    def __init__(self) -> None:
        self.outcome = NOT_ATTEMPTED
        self.tries = self.hints = self.lines = 0
        self.passed = False


class Progress:
    """How far the reader is, in memory only; `save` writes it to a file when asked to."""

    def __init__(self) -> None:
        self.done: dict[str, Done] = {}

    def of(self, id: str) -> Done:
        """The state of one exercise."""
        return self.done.setdefault(id, Done())

    def dots(self, lab: str) -> list[tuple[str, str, str]]:
        """Every exercise of a lab in its order, as (id, outcome, sign); what was passed once stays so."""
        found = []
        for exercise in of_lab(lab):
            one = self.done.get(exercise.id, Done())
            outcome = PASSED if one.passed else one.outcome
            found.append((exercise.id, outcome, SIGNS[outcome]))
        return found

    def save(self, file: str | Path) -> None:
        """Write it as JSON. The file is for the reader's own memory: anybody can write one."""
        rows = {id: vars(one) for id, one in sorted(self.done.items())}
        Path(file).write_text(json.dumps({"format": FORMAT, "exercises": rows}, indent=1) + "\n", encoding="utf-8")

    def load(self, file: str | Path) -> None:
        """Take up what `save` wrote. Raises ValueError for another file."""
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"{file} is no {FORMAT}")
        made = {}
        for id, row in data["exercises"].items():
            if row["outcome"] not in OUTCOMES:
                raise ValueError(f"{file}: {id} has the outcome {row['outcome']!r}")
            made[id] = Done()
            vars(made[id]).update({key: row[key] for key in vars(Done())})
        self.done.update(made)

    def __repr__(self) -> str:
        rows = [{"exercise": id, "outcome": one.outcome, "tries": one.tries, "hints": one.hints} for id, one in self.done.items()]
        return repr(table(rows)) if rows else "Nothing checked yet."


class Reader:
    """Whoever works in this notebook. `seed` is theirs: neighbours with other seeds have other numbers.

    Raises ValueError for a seed that is no whole number from 0 on.
    """

    def __init__(self, seed: int = 7) -> None:
        self.seed = seed
        self.progress = Progress()
        self.cases: dict[tuple[str, int], Any] = {}
        self.judged: set[str] = set()  # what is being checked just now

    @property
    def seed(self) -> int:
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"a reader's seed is a whole number from 0 on, and {seed!r} is none")
        self._seed = seed

    def case(self, exercise: Exercise) -> Any:
        """The case of an exercise under this seed, made when it is first asked for."""
        key = exercise.id, self.seed
        if key not in self.cases:
            self.cases[key] = exercise.setup(self.seed)
        return self.cases[key]


reader = Reader()


def _short(text: str) -> str:
    """What stands in a cell of a table: one line, of so many letters at most."""
    line = " ".join(text.split())
    return line if len(line) <= CELL else f"{line[: CELL - 1]}…"


class Result:
    """What came of a check. It is true when it passed; displayed, it is the exercise's card.

    `hint()` gives the next hint and `solution()` the next line of the solution, as the card's buttons do.
    """

    def __init__(self, exercise: Exercise, verdict: Verdict, done: Done, dots: Any, question: str = "", look: Any = None) -> None:
        self.exercise, self.verdict = exercise, verdict
        self.outcome, self.says, self.rows = verdict.outcome, verdict.says, tuple(verdict.rows)
        self._done, self._dots, self._question, self._look = done, dots, question, look
        self._widget: Any = None

    def __bool__(self) -> bool:
        return self.outcome == PASSED

    @property
    def may_see(self) -> bool:
        """Whether the solution is open: after the last hint, or once it has passed."""
        return self._done.passed or self._done.hints >= len(self.exercise.hints)

    def hint(self) -> str:
        """The next hint. Raises LookupError after the last."""
        if self._done.hints >= len(self.exercise.hints):
            raise LookupError(f"{self.exercise.id} has {len(self.exercise.hints)} hints, and you have seen them")
        self._done.hints += 1
        return self.exercise.hints[self._done.hints - 1]

    def solution(self) -> str:
        """The next line of the solution. Raises LookupError while there are hints left, and after the last line."""
        lines = self.exercise.solution
        if not self.may_see:
            left = len(self.exercise.hints) - self._done.hints
            raise LookupError(f"the solution opens after the last hint, and {left} {'is' if left == 1 else 'are'} left")
        if self._done.lines >= len(lines):
            raise LookupError(f"{self.exercise.id} has {len(lines)} lines of solution, and you have seen them")
        self._done.lines += 1
        return lines[self._done.lines - 1]

    def sheet(self) -> dict[str, Any]:
        """All that stands on the card, as plain data."""
        exercise, done, xrays = self.exercise, self._done, self.verdict.xrays
        lines = exercise.solution
        return {
            "id": exercise.id,
            "title": exercise.title,
            "question": self._question,
            "outcome": self.outcome,
            "sign": SIGNS[self.outcome],
            "says": self.says,
            "rows": [(*map(_short, row[:3]), row.ok) for row in self.rows],
            "heads": exercise.heads if self.rows else HEADS,
            "look": self.verdict.look,
            "hints": list(exercise.hints[: done.hints]),
            "hints_all": len(exercise.hints),
            "solution": lines[: done.lines],
            "solution_all": len(lines),
            "solution_open": self.may_see,
            "minutes": exercise.minutes,
            "level": exercise.level,
            "dots": self._dots(),
            "note": f"{xrays} look{'s' * (xrays != 1)} through the x-ray on this machine: the submission is marked."
            if xrays
            else "",
        }

    def look(self) -> None:
        """Follow the card's "look at": tell whoever was given to `lab.check(..., look=...)`."""
        if self._look is None:
            raise LookupError("no widget was given to look at; lab.check(..., look=widget) takes one")
        if callable(self._look):
            self._look(self.verdict.look)
        else:
            widget = getattr(self._look, "widget", self._look)  # a view stands for its widget
            if hasattr(widget, "look_at"):
                widget.look_at(self.verdict.look)
            else:
                widget.selected = self.verdict.look

    def describe(self) -> str:
        """The card in plain text."""
        text: str = sheet_text(self.sheet())
        return text

    __repr__ = describe

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        self._widget = self._widget or checked(
            lambda: {**self.sheet(), "text": self.describe()}, hint=self.hint, line=self.solution,
            look=None if self._look is None else self.look,
        )
        return _bundle(self._widget, self.describe())


class Opened:
    """An exercise that is open: the attributes of its case are yours to use; displayed, it is the card."""

    _exercise: Exercise
    _case: Any
    _result: Result

    def __init__(self, exercise: Exercise, case: Any, result: Result) -> None:
        vars(self).update(_exercise=exercise, _case=case, _result=result)

    def __getattr__(self, name: str) -> Any:
        if name not in self._case.gives:
            raise AttributeError(f"{self._exercise.id} gives {', '.join(self._case.gives)}, and no {name!r}")
        return getattr(self._case, name)

    def __dir__(self) -> list[str]:
        return list(self._case.gives)

    def __repr__(self) -> str:
        return self._result.describe()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return self._result._repr_mimebundle_(include, exclude)


def _bundle(widget: Any, text: str) -> Any:
    """A displayed widget, or the text alone."""
    if widget is None:
        return {"text/plain": text}
    data, metadata = widget._repr_mimebundle_()
    return {**data, "text/plain": text}, metadata


def exercise(id: str) -> Opened:
    """Open an exercise: its card says what is asked, its attributes are the machine it is about.

    Raises LookupError for an id that is none.
    """
    one = find(id)
    case = reader.case(one)
    done = reader.progress.of(id)
    result = Result(one, Verdict(done.outcome), done, lambda: reader.progress.dots(one.lab), question=asked(one, case))
    return Opened(one, case, result)


def asked(one: Exercise, case: Any) -> str:
    """The question, with the numbers of this case."""
    facts: Mapping[str, Any] = {name: getattr(case, name) for name in dir(case) if not name.startswith("_")}
    return one.ask.format(**facts)


def check(id: str, *answer: Any, look: Any = None) -> Result:
    """Check an answer (or several, where the exercise asks for several) and return a Result.

    `look` is a widget whose selection the card's link sets, or a function that is told what to look at.
    Raises LookupError for an id that is none, and RuntimeError in an answer that checks itself.
    """
    one = find(id)
    if id in reader.judged:
        raise RuntimeError(f"{id} is being checked just now; its answer cannot check itself")
    reader.judged.add(id)
    try:
        verdict = judge(one, reader.case(one), answer[0] if len(answer) == 1 else answer, reader.seed)
    finally:
        reader.judged.discard(id)
    done = reader.progress.of(id)
    done.outcome = verdict.outcome
    done.tries += verdict.outcome != NOT_ATTEMPTED
    done.passed = done.passed or verdict.outcome == PASSED
    return Result(one, verdict, done, lambda: reader.progress.dots(one.lab), look=look)


def progress() -> Progress:
    """How far the reader is."""
    return reader.progress
