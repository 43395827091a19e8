"""A prediction: the question comes before the machine is looked at.

The reveal belongs to the card, not to the next cell, or Run All would spoil
every question. A reveal only looks and never acts, so that the machine is the
same whether or not somebody answered.

In a running notebook the card is a widget, whose kernel keeps what the machine
says until an answer was committed. On a web page and in an exported file it waits
for an answer too, without a script. Where there is no browser (nbval, a terminal)
it shows question and answer at once.

The machine is looked at when the card is made, whether or not somebody answers
it: a later cell may change the machine, and the trace shall not depend on who was quick.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

from sevlab.lab.ask import live, prediction
from sevlab.lab.style import CARD

MOST = 5  # answers that one reads before one chooses
FOLD = 78  # letters of a line of evidence
# JupyterLab's one-letter shortcuts match the focused element itself, so each input says that its keys are its own.
QUIET_KEYS = 'data-lm-suppress-shortcuts="true"'


class Answer(NamedTuple):
    """What the machine says to a question; the evidence that decides (bytes, a refusal, a table); one sentence of reason."""

    says: Any
    evidence: Any = ""
    because: str = ""


class Prediction:
    """A question, its possible answers, what the machine says, and why.

    Without answers to choose from the reader makes up his mind unaided.
    """

    def __init__(
        self, question: str, answers: Sequence[str], revealed: str, evidence: str = "", because: str = "", unit: str = ""
    ) -> None:
        if answers and not 2 <= len(answers) <= MOST:
            raise ValueError(f"a prediction offers 2 to {MOST} answers or none, not {len(answers)}")
        if answers and revealed not in answers:
            raise ValueError(
                f"the machine says {revealed!r}, and the answers offered are {', '.join(map(repr, answers))}; a machine that was "
                "brought elsewhere, as by a cell that ran twice, begins anew with Run All Cells"
            )
        self.question = question
        self.answers = tuple(answers)
        self.revealed = revealed
        self.evidence = evidence
        self.because = because
        self.unit = unit
        self._card: Any = None

    @property
    def answer(self) -> str | None:
        """What was committed on the live card; None before, and where there is none."""
        return None if self._card is None else self._card.answer

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """The live card, where one can be shown; the other forms are IPython's to ask for."""
        if not live():
            return {}
        if self._card is None:
            said = Answer(self.revealed, self.evidence, self.because)
            self._card = prediction(self.question, self.answers, lambda: said, self.unit)
        data, metadata = self._card._repr_mimebundle_()
        return {**data, "text/plain": self.describe()}, metadata

    def describe(self) -> str:
        """The card in plain sentences."""
        lines = [f"Predict: {self.question}"]
        if self.answers:
            lines.append("  " + " / ".join(self.answers))
        lines += [f"The machine says: {self.revealed}", *self.evidence.splitlines(), self.because]
        return "\n".join(line for line in lines if line)

    __repr__ = describe

    def _repr_html_(self) -> str:
        e = html.escape
        group = "sevlab-" + hashlib.sha256(self.question.encode()).hexdigest()[:12]
        choices = self.answers or ("I have made up my mind",)
        # A check box and not a radio button: there an arrow key, meant to look around, would choose already.
        box = f'<input type="checkbox" name="{group}" {QUIET_KEYS}>'
        answers = "".join(f"<label>{box}<span>{e(one)}</span></label>" for one in choices)
        you = "".join(f'<span class="you">You said: {e(one)}.</span> ' for one in self.answers)
        evidence = f"<pre>{e(self.evidence)}</pre>" if self.evidence else ""
        because = f"<p>{e(self.because)}</p>" if self.because else ""
        return (
            f'<style>{CARD}</style><section class="sevlab-card" aria-label="Prediction" {QUIET_KEYS}>'
            f'<fieldset><legend>{e(self.question)}</legend><div class="answers">{answers}</div></fieldset>'
            '<p class="wait">Not answered yet. You may read on; the card keeps your place.</p>'
            f'<div class="reveal" aria-live="polite"><p>{you}<b>The machine says: {e(self.revealed)}.</b></p>'
            f"{evidence}{because}</div></section>"
        )


def predict(question: str, answers: Sequence[str] = (), *, reveal: Callable[[], Any], unit: str = "") -> Prediction:
    """Ask `question`, and say what the machine says once it is answered.

    Without `answers` the live card has one input field; `unit` says in what to answer.

    `reveal()` looks at the machine and returns an Answer, or only what it says.
    It stands in the lab's own module and not in the cell, where everybody would
    read it beside the question.

    Raises ValueError for one answer alone, for more than five, and when the
    machine says something that was not offered.
    """
    said = reveal()
    answer = said if isinstance(said, Answer) else Answer(said)
    return Prediction(question, answers, str(answer.says), _folded(str(answer.evidence)), answer.because)


def _folded(text: str) -> str:
    """Evidence with its long sentences broken; a row of a table, which has gaps between its columns, stays a row."""
    lines: list[str] = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        prose = "  " not in line.strip()
        lines += wrap(line, FOLD, subsequent_indent=indent + "  ") if prose and len(line) > FOLD else [line]
    return "\n".join(lines)
