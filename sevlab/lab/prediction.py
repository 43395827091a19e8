"""A prediction: the question comes before the machine is looked at.

The reveal belongs to the card, not to the next cell, or Run All would spoil
every question. A reveal only looks and never acts, so that the machine is the
same whether or not somebody answered. Where no front end runs (nbval, a plain
terminal, a page on the web) the card shows question and answer at once; in a
browser the answer is folded until it is asked for.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

_CSS = (
    "border:1px solid var(--jp-border-color1,#bbb);border-left:4px solid #0072b2;border-radius:4px;"
    "padding:10px 14px;margin:4px 0;max-width:60em;color:var(--jp-content-font-color1,inherit);"
    "background:var(--jp-layout-color1,transparent);font-family:var(--jp-content-font-family,sans-serif)"
)


class Prediction:
    """A question, its possible answers, and the machine's own answer."""

    def __init__(self, question: str, answers: Sequence[str], revealed: str, because: str) -> None:
        self.question = question
        self.answers = tuple(answers)
        self.revealed = revealed
        self.because = because

    def describe(self) -> str:
        """The card in plain sentences."""
        lines = [f"Predict: {self.question}"]
        if self.answers:
            lines.append("  " + " / ".join(self.answers))
        lines.append(f"The machine says: {self.revealed}")
        if self.because:
            lines.append(self.because)
        return "\n".join(lines)

    __repr__ = describe

    def _repr_html_(self) -> str:
        e = html.escape
        answers = "".join(f'<li style="margin:2px 0">{e(answer)}</li>' for answer in self.answers)
        because = f'<p style="margin:6px 0 0">{e(self.because)}</p>' if self.because else ""
        return (
            f'<section style="{_CSS}" aria-label="Prediction">'
            f'<p style="margin:0 0 6px;font-weight:600">{e(self.question)}</p>'
            + (f'<ul style="margin:0 0 8px;padding-left:1.4em">{answers}</ul>' if answers else "")
            + '<details><summary style="cursor:pointer">I have made up my mind: ask the machine</summary>'
            f'<p style="margin:8px 0 0;white-space:pre-wrap"><b>The machine says:</b> {e(self.revealed)}</p>{because}</details></section>'
        )


def predict(question: str, answers: Sequence[str] = (), *, reveal: Callable[[], Any], because: str = "") -> Prediction:
    """Ask `question` before the machine is looked at.

    `reveal()` looks at the machine and returns what it says (anything with a
    str); `because` is one sentence of reason.
    """
    return Prediction(question, answers, str(reveal()), because)
