"""Slots over time, folded from rows; the story of the fifteen keys and the sixteen guests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets.slots import MIRROR, USED, WAITING, Fold, Slots, When

GROUPS = [("SEV-ES", 1, 5), ("SEV", 6, 15)]


def slots(**keywords):
    return Slots(15, GROUPS, **keywords)


def fold(host, **keywords):
    made = slots(**keywords)
    assert Fold(made).add(host.trace.rows())
    return made


def test_a_closed_guest_s_slot_is_waiting_and_not_free(machine):
    host = machine()
    host.take(6, vm=1)
    host.give(6, vm=1)

    found = fold(host)

    assert found.tally() == {USED: 0, WAITING: 1, "free": 14}
    assert [(bar.what, bar.start.n, bar.end and bar.end.n) for bar in found.bars] == [(USED, 1, 2), (WAITING, 2, None)]


def test_one_flush_serves_all_waiting_slots_of_both_kinds(machine):
    host = machine()
    for asid in (1, 6, 7):
        host.take(asid, vm=asid)
    for asid in (1, 6):
        host.give(asid, vm=asid)
    host.flush(2)

    found = fold(host)

    assert found.tally() == {USED: 1, WAITING: 0, "free": 14}
    assert [(flush.freed, flush.error) for flush in found.flushes] == [(2, "")]


def test_a_failed_flush_frees_nothing_and_says_why(machine):
    host = machine()
    host.take(6, vm=1)
    host.give(6, vm=1)
    host.flush(0, errno=5)

    found = fold(host)

    assert found.tally()[WAITING] == 1
    assert found.flushes[0].error == "EIO"


def test_the_sawtooth_fifteen_guests_all_closed_none_free_one_flush_all_free(machine):
    host = machine()
    for asid in range(1, 16):
        host.take(asid, vm=asid)
    for asid in range(1, 16):
        host.give(asid, vm=asid)
    found = fold(host)
    assert found.tally() == {USED: 0, WAITING: 15, "free": 0}

    assert found.flush(When(99, 99)) == 15
    assert found.tally()["free"] == 15


# ------------------------------------------------------------- refusals


def refused(host, vm=9, errno=16, command=0, pid=9, cgroup="/tenant-b", vm_type=0):
    host.entry(
        ("ProcessMade", {"pid": pid, "process": "qemu", "cgroup": cgroup}),
        ("VmMade", {"vm": vm, "vm_type": vm_type, "pid": pid}),
        ("SevCommand", {"vm": vm, "id": command, "errno": errno, "error": 0}),
    )


def test_a_limit_is_named_as_the_cause(machine):
    host = machine()
    host.take(6, vm=1, cgroup="/tenant-b")
    refused(host)

    [refusal] = fold(host, limits={"/tenant-b sev": 1}).refusals

    assert (refusal.who, refusal.answer, refusal.cause) == ("qemu", "EBUSY", "limit of /tenant-b")


def test_a_limit_above_is_named_too(machine):
    host = machine()
    host.take(6, vm=1, cgroup="/t/a")
    refused(host, cgroup="/t/b")

    [refusal] = fold(host, limits={"/t/b sev": 5, "/t sev": 1}).refusals

    assert refusal.cause == "limit of /t"


def test_no_slot_of_the_kind_is_a_cause_of_its_own(machine):
    host = machine()
    for asid in range(1, 6):
        host.take(asid, vm=asid)
    refused(host, command=1)
    refused(host, vm=10, command=0)

    es, plain = fold(host).refusals

    assert es.cause == "no slot free"
    assert plain.cause == ""  # ten are free: the trace does not say why


def test_asking_twice_is_a_cause_of_its_own(machine):
    host = machine()
    host.take(6, vm=9)
    refused(host)

    assert fold(host).refusals[0].cause == "it has one already"


def test_a_flush_that_failed_in_the_same_entry_is_the_cause(machine):
    host = machine()
    host.entry(("AsidsFlushed", {"freed": 0, "errno": 5}), ("SevCommand", {"vm": 9, "id": 0, "errno": 16, "error": 0}))

    assert fold(host).refusals[0].cause == "the flush failed"


@pytest.mark.parametrize(
    "row",
    [{"vm": 9, "id": 0, "errno": 0, "error": 0}, {"vm": 9, "id": 2, "errno": 22, "error": 0}],
    ids=["granted", "another command"],
)
def test_what_is_no_refused_launch_leaves_no_cross(machine, row):
    host = machine()
    host.entry(("SevCommand", row))

    assert fold(host).refusals == []


# ------------------------------------------------------------- names, mirrors, moves


def test_a_vm_has_its_process_s_name_and_a_number_when_there_are_more(machine):
    host = machine()
    host.entry(("ProcessMade", {"pid": 3, "process": "qemu", "cgroup": "/"}))
    for vm in (1, 2):
        host.entry(
            ("VmMade", {"vm": vm, "vm_type": 0, "pid": 3}), ("AsidTaken", {"asid": 5 + vm, "es": 0, "vm": vm, "cgroup": "/"})
        )

    assert [bar.name for bar in fold(host).bars] == ["qemu", "qemu 2"]


def test_the_notebook_s_names_come_first(machine):
    host = machine()
    host.take(6, vm=1)
    made = slots()

    Fold(made, names={1: "vm-a"}).add(host.trace.rows())

    assert made.bars[0].name == "vm-a"


def test_a_mirror_is_a_bar_inside_and_takes_no_slot(machine):
    host = machine()
    host.take(6, vm=1)
    host.entry(("ContextCopied", {"mirror": 2, "owner": 1, "asid": 6}))

    found = fold(host)

    assert [(bar.slot, bar.what, bar.key) for bar in found.bars] == [(6, USED, "VM 1"), (6, MIRROR, "VM 2")]
    assert found.tally()[USED] == 1


def test_a_mirror_that_goes_leaves_the_slot_in_use(machine):
    host = machine()
    host.take(6, vm=1)
    host.entry(("ContextCopied", {"mirror": 2, "owner": 1, "asid": 6}))
    host.entry(("MirrorGone", {"mirror": 2, "owner": 1}))

    found = fold(host)

    assert [(bar.key, bar.end and bar.end.n) for bar in found.bars] == [("VM 1", None), ("VM 2", 3)]


def test_a_move_hands_the_slot_and_the_charge_to_another_tenant(machine):
    host = machine()
    host.take(6, vm=1, cgroup="/a")
    host.entry(("ContextMoved", {"dst": 2, "src": 1, "asid": 6, "cgroup": "/b"}))

    found = fold(host)

    assert [(bar.key, bar.end and bar.end.n) for bar in found.bars] == [("VM 1", 2), ("VM 2", None)]
    assert {label: steps[-1][1] for label, steps in found.levels.items()} == {"/a sev": 0, "/b sev": 1}
    assert found.tally() == {USED: 1, WAITING: 0, "free": 14}


def test_a_move_of_a_mirror_moves_the_mirror(machine):
    host = machine()
    host.take(6, vm=1)
    host.entry(("ContextCopied", {"mirror": 2, "owner": 1, "asid": 6}))
    host.entry(("ContextMoved", {"dst": 3, "src": 2, "asid": 6, "cgroup": ""}))

    found = fold(host)

    assert [(bar.key, bar.what, bar.end and bar.end.n) for bar in found.bars] == [
        ("VM 1", USED, None),
        ("VM 2", MIRROR, 3),
        ("VM 3", MIRROR, None),
    ]


def test_the_firmware_s_handle_is_noted_at_its_slot(machine):
    host = machine()
    host.take(6, vm=1)
    host.entry(("AsidsChanged", {"first": 6, "count": 1, "state": 3, "handle": 4}))

    assert fold(host).bars[0].note == "handle 4"


def test_rows_of_another_host_are_left_out(machine):
    host = machine()
    host.take(6, vm=1)
    made = slots()

    assert not Fold(made, host=1).add(host.trace.rows())
    assert made.bars == []


# ------------------------------------------------------------- laws

STEPS = st.lists(st.tuples(st.sampled_from(["take", "give", "flush", "fail"]), st.integers(1, 15)), max_size=60)


@given(STEPS)
def test_every_slot_is_in_exactly_one_state_and_the_past_does_not_change(steps):
    made, state, history = slots(), dict.fromkeys(range(1, 16), "free"), []
    for n, (what, slot) in enumerate(steps, 1):
        if what == "take" and state[slot] == "free":
            made.take(slot, f"vm {n}", When(n, n), group="/t")
            state[slot] = USED
        elif what == "give" and state[slot] == USED:
            made.give_back(slot, When(n, n))
            state[slot] = WAITING
        elif what == "flush":
            assert made.flush(When(n, n)) == list(state.values()).count(WAITING)
            state = {slot: "free" if was == WAITING else was for slot, was in state.items()}
        elif what == "fail":
            made.flush(When(n, n), "EIO")
        history.append({name: list(state.values()).count(name) for name in (USED, WAITING, "free")})
        assert made.tally() == history[-1]

    for n, tally in enumerate(history, 1):
        past = made.at(n)
        assert past.tally() == tally
        charged = {label: steps[-1][1] for label, steps in past.levels.items()}
        assert sum(charged.values()) == tally[USED]


@pytest.mark.parametrize("slot", [0, 16])
def test_a_slot_outside_every_group_has_no_kind(slot):
    assert slots().kind(slot) == ""


@pytest.mark.parametrize("slot", [0, -1, 4, 10**9])
def test_a_slot_that_there_is_not_cannot_be_taken(slot):
    slots = Slots(3, [("all", 1, 3)])
    with pytest.raises(ValueError, match=f"no slot {slot}; there are 3"):
        slots.take(slot, "vm-a", When(0, 0))
    assert slots.bars == []
