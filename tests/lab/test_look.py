"""A card's "look at:" leads to what it names, in the pictures that stand above the exercises of a lab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sevlab import Host, designs, lab
from sevlab.abi.ghcb import Ghcb
from sevlab.abi.kvm import kvm_sev_launch_start
from sevlab.abi.sev import Cmd
from sevlab.lab import es, launch
from sevlab.lab.asids import slot_in
from sevlab.lab.exercises import find
from sevlab.lab.exercises.asids_hostile import DEEDS
from sevlab.lab.look import first_of, ledger_of, line_of, look_at, plug_of, rung_of
from sevlab.lab.move import V11
from sevlab.lab.reader import Reader, reader
from sevlab.lab.two_tenants import carried

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[Reader]:
    """A reader who has not begun; the one there was, afterwards."""
    pytest.importorskip("sevlab_widgets")
    before = dict(reader.cases), dict(reader.progress.done)
    reader.cases.clear()
    yield reader
    reader.cases, reader.progress.done = dict(before[0]), dict(before[1])


def followed(id: str, change: Any, look: Any) -> str:
    """The words on the card of a wrong answer, whose link was followed."""
    case = reader.case(find(id))
    result = lab.check(id, *_parts(change(case, find(id).reference(case))), look=look)
    assert not result
    result.look()
    return result.verdict.look


def _parts(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


# ------------------------------------------------------------- asids


def test_a_slot_reused_too_early_is_selected_where_it_waits_on_the_machine_that_played_the_script() -> None:
    board = lab.timeline(lab.exercise("asids.next").host)
    words = followed("asids.next", lambda case, _: case.play(reuse=True), slot_in(board))

    bar = board.widget.bar(board.widget.selected)
    assert words == f"slot {bar.slot} in the timeline" and bar.what == "waiting" and bar.name.startswith("guest ")
    assert board.widget.title == "the script, as the machine played it"


def test_a_reader_who_has_played_sees_the_machine_that_he_has_and_is_told_what_it_has_not() -> None:
    case = lab.exercise("asids.next")
    board = lab.timeline(case.host)
    look = slot_in(board)
    from sevlab.lab.tenants import tenant

    tenant(case.host)
    look("slot 3 in the timeline")
    assert board.widget.bar(board.widget.selected).what == "in use" and board.widget.title == "key slots"
    with pytest.raises(LookupError, match="nobody has had slot 5 yet"):
        look("slot 5 in the timeline")


def test_a_flush_for_one_kind_leads_to_the_flush() -> None:
    board = lab.timeline(lab.exercise("asids.next").host)
    followed("asids.next", lambda case, _: case.play(own_kind=True), slot_in(board))
    assert board.widget.selected == "flush 0"


def test_the_last_call_of_that_name_is_selected_in_the_trace() -> None:
    case = lab.exercise("asids.hostile")
    tape = lab.lanes(case.host)
    for _ in range(2):
        case.host.mailbox(Cmd.DF_FLUSH)
    followed("asids.hostile", lambda case, good: good | {DEEDS[0]: 14, DEEDS[1]: 15}, line_of(tape))

    lines, at = tape.widget.lines, tape.widget.selected
    assert lines[at].label == "DF_FLUSH" and not any(line.label == "DF_FLUSH" for line in lines[at + 1 :])
    with pytest.raises(LookupError, match="nobody has made that call"):
        line_of(tape)("the last PEK_GEN in the trace")


def test_the_ledger_shows_the_cgroup_and_once_there_are_any_its_events() -> None:
    case = lab.exercise("asids.cgroups")
    view = lab.topology(case.host)
    look = ledger_of(view)
    followed("asids.cgroups", lambda case, good: case.play(charged=True), look)
    assert view.widget.selected == "ledger /t sev"

    from sevlab.lab.tenants import tenant

    for path in case.launches:
        lab.attempt(tenant, case.host, cgroup=path)
    look("/t in the ledger")
    assert view.widget.selected == "ledger /t sev events"
    with pytest.raises(LookupError, match="no cgroup /nowhere"):
        look("/nowhere in the ledger")


# ------------------------------------------------------------- move


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x <- x": "EBUSY"}, "both are one VM"),
        ({"dead <- SEV": "EINVAL", "plain <- dead": "EIO"}, "the destination is an SEV guest already"),
        ({"plain with 2 vCPUs <- SEV with 4": "EINVAL"}, "not equally many vCPUs"),
    ],
)
def test_a_wrong_errno_leads_to_the_rung_that_says_it(change: dict[str, str], words: str) -> None:
    rungs = lab.ladder("MOVE_ENC_CONTEXT_FROM")
    followed("move.errno", lambda case, good: good | change, rung_of(rungs))
    column, _, number = rungs.widget.selected.partition("/")
    assert column == "0" and words in rungs.widget.columns[0].rungs[int(number)].words


@pytest.mark.parametrize(
    ("change", "row"),
    [({"V11": [(1, 1), (1, 1), (1, 1)]}, "ledger /a sev"), ({"6.1, b full": "0"}, "ledger /b sev")],
)
def test_who_pays_is_shown_in_the_ledger_of_v11_s_machine(change: dict[str, Any], row: str) -> None:
    v11 = carried(V11)
    view = lab.topology(v11.host, before=v11.n, act=False)
    followed("move.cgroup", lambda case, good: good | change, ledger_of(view))
    assert view.widget.selected == row
    assert row.removeprefix("ledger ") in [line.name for line in view.widget.ledger if not line.changed]


def test_a_ladder_of_another_call_has_no_such_rung() -> None:
    with pytest.raises(LookupError, match="no such rung"):
        rung_of(lab.ladder("LAUNCH_START"))("the rung: both are one VM")


def test_a_device_opened_again_is_selected_by_its_number_and_a_number_that_is_none_by_its_process() -> None:
    case = lab.exercise("move.fd0")
    view = lab.topology(case.host)
    fd = case.new.process.open("/dev/sev", "r+")
    result = lab.check("move.fd0", "done", look=plug_of(view))
    result.look()
    assert result.verdict.look == f"fd {fd} of qemu-2"
    assert view.widget.selected == f"qemu-2:{fd}"

    plug_of(view)("fd 77 of qemu-2")
    assert view.widget.selected == "qemu-2"
    with pytest.raises(LookupError, match="no process 'nobody'"):
        plug_of(view)("fd 0 of nobody")


# ------------------------------------------------------------- tour and launch


def test_who_made_the_key_leads_to_the_command_that_made_it() -> None:
    tape = lab.lanes(lab.exercise("tour.parties").host)
    words = followed("tour.parties", lambda case, right: right | {"made": "kernel"}, line_of(tape))

    assert words == "LAUNCH_START in the trace" and tape.widget.lines[tape.widget.selected].label == "LAUNCH_START"


@pytest.mark.parametrize(
    ("wrong", "field", "rung"),
    [(lambda right: right & 0xFFFF, None, "the owner wants newer firmware"), (lambda right: right & ~1, "policy", None)],
)
def test_a_policy_leads_to_the_field_or_to_the_rung_that_reads_it(wrong: Any, field: str | None, rung: str | None) -> None:
    told = lab.layout(kvm_sev_launch_start(policy=1), {})
    rungs = lab.ladder("LAUNCH_START")
    told.widget.selected = None
    followed("launch.policy", lambda case, right: wrong(right), launch.in_policy(told, rungs))

    at = rungs.widget.selected
    assert told.widget.selected == field
    assert rung == (at and rungs.widget.columns[0].rungs[int(at.partition("/")[2])].words)


def test_a_forgery_under_another_key_leads_to_the_tik_of_zeros() -> None:
    keys = lab.keytree(only=launch.LEFT, session=False)
    followed("launch.zero", lambda case, right: (lambda *_: bytes(48), right[1]), launch.in_keys(keys))

    assert keys.widget.selected == "TIK"


def test_a_place_that_no_picture_of_the_lab_shows_is_an_error() -> None:
    told, rungs = lab.layout(kvm_sev_launch_start(policy=1), {}), lab.ladder("LAUNCH_START")
    with pytest.raises(LookupError, match="no such rung"):
        launch.in_policy(told, rungs)("the rung: it rains")
    with pytest.raises(LookupError, match="no picture above"):
        launch.in_policy(told, rungs)("the weather")


# ------------------------------------------------------------- es


def test_the_cards_of_lab_es_lead_to_pictures_of_its_scenes() -> None:
    desk = Host("rome", seed=7)
    vm = es.parked(desk, 2)
    tape = lab.lanes(desk, kinds=es.STARTED)
    request = Ghcb(sw_exit_code=0x72, rax=0xD).mark("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2", "rax", "rcx")
    places = {
        "es.decode": look_at({"the request of scene 3": (page := es.vouched(Ghcb(rbx=1)), "rbx")}),
        "es.missing": look_at({"the ladder of scene 4": (rungs := es.checks(request, designs.LINUX_6_1), "0/3")}),
        "es.boot": first_of(tape, "SipiDelivered"),
        "es.ghost": look_at({"the states of scene 6": (vcpus := lab.machine(desk, only="mp_state"), "mp_state/AP_RESET_HOLD")}),
    }
    for id, look in places.items():
        look(find(id).look)

    assert page.widget.find(page.widget.selected) == page.widget.selected == "rbx"
    assert rungs.widget.columns[0].rungs[int(rungs.widget.selected.removeprefix("0/"))].state == "refused"
    assert tape.widget.lines[tape.widget.selected].kind == "SipiDelivered"
    state = next(state for state in vcpus.widget.diagrams[0].states if vcpus.widget.selected == f"mp_state/{state.name}")
    assert es.states(vm).count(state.name) == 1


def test_a_machine_on_which_nobody_was_started_has_no_such_line() -> None:
    with pytest.raises(LookupError, match="nothing of that kind has happened"):
        first_of(lab.lanes(Host("rome", seed=7)), "SipiDelivered")("the first SIPI of an AP in scene 5")
