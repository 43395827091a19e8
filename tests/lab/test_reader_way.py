"""Each lab a reader's way, in a real JupyterLab: every prediction committed, every widget used, one exercise answered.

The stored notebook is opened and run from top to bottom. Answers come by mouse and by keyboard in
turn; an exercise is answered wrongly first, and told so in the words of that very diagnosis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import judges
import pytest
from front_end import helper
from reading import CARDS, Reading

from sevlab.lab.exercises import find

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Of each lab: an exercise, an answer that goes astray, and the diagnosis that it is meant for.
ASTRAY = {
    "00_tour": ("tour.pointer", "{'private': 'EFAULT', 'shared': 'plaintext'}", "fault"),
    "01_launch": ("launch.digest", "hashlib.sha256(case.a + case.b + case.c).digest()", "addresses"),
    "02_tweak": ("tweak.move", "case.m", "unmoved"),
    "03_asids": ("asids.next", "case.play(own_kind=True)", "one kind"),
    "04_mirror": ("mirror.table", "right | {'regions': 'shared'}", "regions"),
    "05_move": ("move.errno", "right | {'x <- x': 'EBUSY'}", "itself"),
    "06_es": ("es.decode", "right | {'registers': {}}", "bytes"),
}
LIVE = 2  # widgets, beside the cards, that every lab has at least
ANSWER = """import hashlib
from sevlab.lab.exercises import find
case = lab.reader.case(find({id!r}))
right = find({id!r}).reference(case)
answer = {answer}
lab.check({id!r}, answer)"""


@pytest.fixture(params=sorted(ASTRAY))
def lesson(request: pytest.FixtureRequest) -> str:
    """The name of a lab's notebook."""
    return str(request.param)


@pytest.fixture
def reading(lab: Any, lesson: str) -> Iterator[Reading]:
    """Its notebook, open in JupyterLab and run from top to bottom."""
    pytest.importorskip("sevlab_widgets", reason="sevlab is not installed here (make setup)")
    book = lab.show(lesson, json.loads((judges.ROOT / f"notebooks/{lesson}.ipynb").read_text()), width=1280, height=900)
    yield Reading(book.run())
    book.close()


@pytest.fixture
def violations() -> Callable[[Any], list[str]]:
    """What axe-core finds wrong in the output areas of a page; skipped where it is absent."""
    axe = helper("axe")
    if not axe.FILE.is_file():
        judges.absent(f"axe-core {axe.VERSION} is not in {axe.FILE.parent} (make judges, or python tests/widgets/axe.py)")
    return lambda page: list(axe.violations(page))


def test_a_reader_goes_through_the_whole_lab(reading: Reading, lesson: str, violations: Callable[[Any], list[str]]) -> None:
    before = reading.count()
    assert [f"{cell['id']}: {cell['raised']}" for cell in reading.cells() if cell["raised"]] == []

    used = _from_top_to_bottom(reading)
    assert used["committed"] >= 8 and used["walked"] >= LIVE and used["stepped back"] >= 1, used
    assert reading.count() == before

    _one_exercise(reading, *ASTRAY[lesson])
    assert reading.count() == before
    assert violations(reading.page) == []
    assert reading.book.lab.foreign() == []


def _from_top_to_bottom(reading: Reading) -> dict[str, int]:
    """Use all that is live, in the order of the notebook: how many cards were committed, widgets walked and stepped back."""
    used = {"committed": 0, "walked": 0, "stepped back": 0}
    for id in reading.live_cells():
        for widget in reading.drawn(id):
            kind = widget.get_attribute("data-widget")
            if kind == "Ask":
                reading.commit(widget, by="keys" if used["committed"] % 2 else "mouse")
                used["committed"] += 1
            elif kind not in CARDS:
                if not reading.one_thing_at_most(widget):
                    assert reading.walk(widget), f"{id}: no arrow key moves anything in {kind}"
                    used["walked"] += 1
                used["stepped back"] += reading.step_back(widget)
    return used


def _one_exercise(reading: Reading, id: str, astray: str, diagnosis: str) -> None:
    """Open the exercise's card, answer it wrongly, read what is said, then answer it rightly."""
    (opener,) = [cell["id"] for cell in reading.cells() if f'lab.exercise("{id}")' in cell["source"]]
    (answer,) = [cell["id"] for cell in reading.cells() if f'lab.check("{id}"' in cell["source"]]
    reading.run(opener)

    card = reading.run(answer, ANSWER.format(id=id, answer=astray)).locator(".sl")
    card.locator(".sl-status", has_text=f"{id}: not yet.").wait_for()
    said = card.locator(".sl-outcome p").inner_text()
    assert re.fullmatch(_words(id, diagnosis), said), said

    card = reading.run(answer, ANSWER.format(id=id, answer="right")).locator(".sl")
    card.locator(".sl-status", has_text=f"{id}: passed.").wait_for()
    assert card.locator(".sl-outcome b").inner_text() == "passed"


def _words(id: str, diagnosis: str) -> str:
    """What that diagnosis says, as a pattern: its `{}` are filled with what was found."""
    (says,) = [one.says for one in find(id).diagnoses if one.name == diagnosis]
    return ".+".join(re.escape(part) for part in re.split(r"\{[^}]*\}", says.replace("`", "")))
