"""How an answer is judged, on exercises made up for it, and what the reader's notebook remembers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sevlab import Host
from sevlab.lab.exercises import find, of_lab
from sevlab.lab.grading import (
    NOT_ATTEMPTED,
    NOT_YET,
    PASSED,
    RAISED,
    Diagnosis,
    Exercise,
    Finding,
    NotAttempted,
    Raised,
    Row,
    Verdict,
    judge,
    repeated,
    student,
)
from sevlab.lab.reader import Done, Progress, Reader, Result, check, exercise, progress, reader


def _answer(case: Any) -> int:
    half = case.number // 2
    return half + half


def made(**changes: Any) -> Exercise:
    base = Exercise(
        id="test.sum",
        title="A sum",
        minutes=1,
        level="core",
        kind="value",
        ask="{number}?",
        setup=lambda seed: SimpleNamespace(number=2 * seed),
        check=lambda case, answer: Finding([Row("sum", str(answer), str(case.number))], {"less": answer < case.number}),
        reference=_answer,
        hints=("Add.", "Twice."),
        diagnoses=(
            Diagnosis("less", lambda case, answer, found: found.facts["less"] and {"by": case.number - answer}, "It is {by} more."),
            Diagnosis("small", lambda case, answer, found: answer < 3, "Never said: the first that fits speaks."),
        ),
    )
    return replace(base, **changes)


CASE = SimpleNamespace(number=14)


def test_the_first_diagnosis_that_fits_speaks_and_its_places_are_filled() -> None:
    assert judge(made(), CASE, 2).says == "It is 12 more."


def test_where_to_look_has_its_places_filled_too_and_without_facts_stays_as_it_is() -> None:
    one, other = made().diagnoses
    looking = made(diagnoses=(one._replace(look="row {by}"), other._replace(fits=lambda *_: True, look="row {by}")))
    assert judge(looking, CASE, 2).look == "row 12"
    assert judge(looking, CASE, 99).look == "row {by}"


def test_where_none_fits_the_table_alone_speaks() -> None:
    found = judge(made(), CASE, 20)

    assert (found.outcome, found.says, found.rows[0].ok) == (NOT_YET, "", False)


@pytest.mark.parametrize("answer", [None, ..., (1, ...), ()])
def test_what_was_not_attempted_is_not_judged(answer: Any) -> None:
    assert judge(made(check=lambda case, answer: 1 // 0), CASE, answer).outcome == NOT_ATTEMPTED


def test_a_fresh_check_uses_three_other_machines() -> None:
    seen: list[int] = []

    def look(case: Any, answer: Any) -> Finding:
        seen.append(case.number)
        return Finding([Row("sum", str(student(answer, case.number)), str(case.number))])

    assert judge(made(kind="fresh", check=look, diagnoses=()), CASE, lambda n: n, 7).outcome == PASSED
    assert len(set(seen)) == 3 and 14 not in seen
    assert judge(made(kind="fresh", check=look, diagnoses=()), CASE, lambda n: 14, 7).outcome == NOT_YET


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), OSError(22, "no")])
def test_what_the_readers_code_raises_is_its_own_outcome(error: BaseException) -> None:
    def bad(n: int) -> int:
        raise error

    found = judge(made(check=lambda case, answer: Finding([Row("x", str(student(answer, 1)), "1")])), CASE, bad)
    assert found.outcome == RAISED and type(error).__name__ in found.says and "of bad: raise error" in found.says


def test_a_mistake_of_ours_is_not_blamed_on_the_reader() -> None:
    with pytest.raises(ZeroDivisionError):
        judge(made(check=lambda case, answer: 1 // 0), CASE, 2)


class Odd:
    """An answer with an opinion on being compared and shown."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compare me not")

    __hash__ = None  # type: ignore[assignment]
    __repr__ = __str__ = lambda self: 1 // 0  # type: ignore[assignment,return-value]


class Wordless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


UNREAD = {
    "==": Odd(), "digits": 10**5000, "list": [Odd()], "function": lambda n: Odd(), "array": np.zeros(4), "dict": {"sum": Odd()},
}  # fmt: skip


@pytest.mark.parametrize("answer", UNREAD.values(), ids=list(UNREAD))
def test_an_answer_that_no_check_can_read_is_told_so_and_is_no_traceback(answer: Any) -> None:
    def look(case: Any, answer: Any) -> Finding:
        return Finding([Row("sum", str(student(answer, 1) if callable(answer) else answer), "1", bool(answer == 1))])

    for one in (made(check=look, diagnoses=()), made(wants=lambda answer: f"{bool(answer == 3)} {answer}")):
        said = judge(one, CASE, answer)
        assert said.outcome == NOT_YET and (said.diagnosis == "unreadable" or said.says.startswith("False <function"))


def test_bytes_in_another_wrapping_are_bytes() -> None:
    same = made(check=lambda case, answer: Finding([Row("x", str(hash(answer)), str(hash(b"abc")))]))
    assert judge(same, CASE, bytearray(b"abc")).outcome == judge(same, CASE, memoryview(b"abc")).outcome == PASSED


def test_an_error_that_has_no_words_is_named_all_the_same() -> None:
    def bad(n: int) -> int:
        raise Wordless

    found = judge(made(check=lambda case, answer: Finding([Row("x", str(student(answer, 1)), "1")])), CASE, bad)
    assert found.outcome == RAISED and found.says.startswith("Wordless: its text raised RuntimeError")


@pytest.mark.parametrize("seed", [-1, "seven", None, 1.5, b"x"])
def test_a_seed_that_is_none_is_refused_where_it_is_set(seed: Any) -> None:
    mine = Reader(1234)
    with pytest.raises(ValueError, match="whole number from 0 on"):
        mine.seed = seed
    assert mine.seed == 1234


def test_an_answer_that_checks_itself_is_the_readers_own_error_and_ends() -> None:
    calls: list[int] = []

    def again(host: Host, vm: Any) -> Any:
        calls.append(1)
        return check("tweak.replay", again)

    found = check("tweak.replay", again)
    assert found.outcome == RAISED and "its answer cannot check itself" in found.says and len(calls) == 1
    assert check("tweak.replay", again).outcome == RAISED


def test_a_function_that_gives_nothing_was_not_attempted_unless_it_need_not() -> None:
    with pytest.raises(NotAttempted):
        student(lambda: None)
    assert student(lambda: None, answers=False) is None
    with pytest.raises(Raised):
        student(lambda: 1 // 0)


def test_the_solution_is_the_reference_answers_own_source() -> None:
    assert made().solution == ["half = case.number // 2", "answer = half + half"]


def test_an_unknown_exercise_is_refused_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"lab launch has launch\.digest"):
        find("launch.nothing")
    with pytest.raises(LookupError, match="the labs are tour, launch"):
        of_lab("nothing")


def test_a_journal_is_repeated_on_a_new_machine() -> None:
    host = Host(seed=3)
    host.process("qemu").open("/dev/kvm")
    twin = repeated(host)

    assert twin is not host and twin.n == host.n and "qemu" in twin.processes


# ------------------------------------------------------------- the reader


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "progress", Progress())
    monkeypatch.setattr(reader, "cases", {})


@pytest.mark.usefixtures("fresh")
class TestReader:
    def test_a_check_says_what_was_found_as_text(self) -> None:
        case = exercise("launch.digest")
        import hashlib

        result = check("launch.digest", hashlib.sha256(case.a + case.b + case.c).digest())

        assert not result and result.outcome == NOT_YET
        assert repr(result).startswith("launch.digest · Predict the digest: ≠ not yet\n  That is the order of the addresses.")
        assert "differs" in repr(result) and "0 of " in repr(result) and repr(result) == result.describe()

    def test_a_cell_of_the_table_is_one_short_line(self) -> None:
        long = Verdict(NOT_YET, "", [Row("a\nword " * 99, "x" * 5000, "y")])
        told = Result(find("launch.digest"), long, Done(), lambda: []).describe()
        assert max(map(len, told.splitlines())) < 300 and "xxx…" in told and "a word a" in told

    def test_hints_come_one_at_a_time_and_the_solution_after_the_last(self) -> None:
        result = check("launch.digest", bytes(32))
        with pytest.raises(LookupError, match="2 are left"):
            result.solution()

        hints = [result.hint(), result.hint()]
        with pytest.raises(LookupError):
            result.hint()
        lines = [result.solution() for _ in range(4)]

        assert len(set(hints)) == 2 and lines[-1] == "answer = running.digest()"
        with pytest.raises(LookupError, match="you have seen them"):
            result.solution()
        assert "hint 2 of 2" in repr(check("launch.digest", bytes(32)))

    def test_what_passed_once_stays_passed(self) -> None:
        one = find("launch.policy")
        check("launch.policy", 0x18000009)
        result = check("launch.policy", 0)

        assert not result and ("launch.policy", PASSED, "✓") in reader.progress.dots("launch") and one.lab == "launch"
        assert progress().of("launch.policy").tries == 2

    def test_progress_goes_to_a_file_and_back(self, tmp_path: Any) -> None:
        check("launch.policy", 0x18000009)
        progress().save(tmp_path / "mine.json")
        other = Progress()
        other.load(tmp_path / "mine.json")

        assert vars(other.of("launch.policy")) == vars(progress().of("launch.policy"))
        (tmp_path / "bad.json").write_text('{"format": "x"}')
        with pytest.raises(ValueError, match="is no sevlab progress"):
            other.load(tmp_path / "bad.json")

    def test_an_opened_exercise_gives_what_it_promises_and_no_more(self) -> None:
        case = exercise("launch.measure")

        assert (
            len(case.tik) == 16 and "policy" in dir(case) and repr(case).startswith("launch.measure · The number that proves it: –")
        )
        with pytest.raises(AttributeError, match="gives host, tik"):
            _ = case.measure

    def test_a_look_through_the_xray_marks_the_submission(self) -> None:
        case = exercise("launch.digest")
        answer = case.host.xray.digest(case.vm.handle)

        assert "1 look through the x-ray on this machine: the submission is marked." in repr(check("launch.digest", answer))

    def test_the_cards_link_selects_in_the_widget_it_was_given(self) -> None:
        widget = SimpleNamespace(selected=None)
        result = check("launch.digest", bytes(32), look=widget)
        result.look()

        assert widget.selected == "LAUNCH_UPDATE_DATA in the trace"
        with pytest.raises(LookupError, match="no widget was given"):
            check("launch.digest", bytes(32)).look()


def test_another_seed_is_another_case() -> None:
    one, two = Reader(7), Reader(8)
    digest = find("launch.digest")

    assert one.case(digest) is one.case(digest)
    assert one.case(digest).a != two.case(digest).a or one.case(digest).loads != two.case(digest).loads


def test_a_result_of_nothing_is_false() -> None:
    assert not Result(made(), judge(made(), CASE, ...), Done(), list)
