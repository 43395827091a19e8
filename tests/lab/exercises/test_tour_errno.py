"""tour.errno: what counts is what a machine that repeats the journal refuses, and each diagnosis is spoken to whom it fits."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from sevlab import Host, vmm
from sevlab.abi.kvm import KVM_CREATE_VM, KVM_RUN, KVM_SEV_INIT
from sevlab.kvm import designs
from sevlab.lab.attempt import attempt
from sevlab.lab.exercises import find
from sevlab.lab.exercises.tour_errno import paired, refused
from sevlab.lab.grading import NOT_ATTEMPTED, NOT_YET, PASSED, RAISED, judge, repeated

EXERCISE = find("tour.errno")


def given(answer: Any, seed: int = 7) -> Any:
    return judge(EXERCISE, EXERCISE.setup(seed), answer, seed)


def five(host: Any, *, busy: Callable[[Any], Any] | None = None, drop: int = 5) -> list[OSError]:
    qemu = host.process("qemu")
    plain = vmm.steps.create_vm(qemu, plain=True)
    calls: list[Callable[[], Any]] = [
        lambda: vmm.steps.launch_start(plain, 1),
        lambda: qemu.ioctl(99, KVM_CREATE_VM, 0),
        lambda: qemu.ioctl(plain.kvm, KVM_RUN, 0),
        lambda: qemu.fork().ioctl(plain.fd, KVM_RUN, 0),
        (lambda: busy(host)) if busy else (lambda: vmm.steps.create_vm(host.process("other", cgroup="/closed"))),
    ]
    return [attempt(call).error for call in calls[:drop]]


def twice(host: Any) -> Any:
    return vmm.steps.create_vm(host.process("young")).sev_op(KVM_SEV_INIT)


def test_the_three_machines_never_run_the_old_kernel_alone() -> None:
    for seed in range(3):
        kernels = {EXERCISE.setup(seed + more).kernel for more in (1009, 2027, 4051)}
        assert designs.LINUX_6_12 in kernels


def test_five_refusals_that_the_journal_bears_out_pass() -> None:
    assert given(five).outcome == PASSED


def test_an_error_of_pythons_own_is_no_refusal() -> None:
    found = given(lambda host: [*five(host, drop=4), OSError(errno.EBUSY, "busy")])

    assert (found.outcome, found.diagnosis) == (NOT_YET, "invented") and "refused with EBUSY" in found.says


def test_what_another_machine_refused_is_not_this_ones_refusal() -> None:
    def elsewhere(host: Any) -> list[OSError]:
        with Host(seed=1, memory=1 << 30, cgroups={"/closed": {"sev": 0}}) as other:
            return five(other)

    assert given(elsewhere).diagnosis == "invented"


def test_a_second_init_is_no_ebusy_on_a_new_kernel() -> None:
    found = given(lambda host: five(host, busy=twice))

    assert found.diagnosis == "twice" and "linux-6.12" in found.says


def test_one_rung_twice_is_pointed_at_by_both_entries() -> None:
    def again(host: Any) -> list[OSError]:
        errors = five(host, drop=4)
        return [*errors, attempt(host.processes["qemu"].ioctl, 98, KVM_CREATE_VM, 0).error]

    found = given(again)
    assert found.diagnosis == "same" and "Entries 8 and 12 are" in found.says


@pytest.mark.parametrize("answer", [5, "five", [OSError(errno.EIO, "")], {"ENOTTY": 1}])
def test_who_gives_no_function_is_asked_for_one(answer: Any) -> None:
    assert given(answer).diagnosis == "wants"


@pytest.mark.parametrize("value", [7, "EIO", [], [1, 2], [None] * 5, {}])
def test_nonsense_from_the_function_is_a_table_and_no_accident(value: Any) -> None:
    found = given(lambda host: value)

    assert (found.outcome, found.diagnosis) == (NOT_YET, "") and not any(row.ok for row in found.rows[1:])


def test_a_function_without_a_body_or_with_an_error_of_its_own_is_named_as_what_it_is() -> None:
    assert given(lambda host: ...).outcome == NOT_ATTEMPTED
    assert given(lambda host: host.process("a").ioctl(99, KVM_RUN, 0)).outcome == RAISED


def test_a_journal_that_cannot_be_repeated_is_said_so() -> None:
    def opaque(host: Any) -> list[OSError]:
        errors = five(host)
        host.gate.run("a function of nobody's", 1 << 63, lambda: None, (), {})
        return errors

    found = given(opaque)
    assert found.outcome == NOT_YET and "cannot be repeated" in found.rows[0].you


def test_entries_of_a_repeated_machine_are_those_of_the_first() -> None:
    case = EXERCISE.setup(7)
    errors = five(case.host)
    mine, theirs = refused(case.host), refused(repeated(case.host))

    assert mine == theirs and [one.call for one in mine][:2] == ["KVM_SEV_LAUNCH_START", "KVM_CREATE_VM"]
    assert None not in paired(errors, theirs) and paired(errors * 2, theirs)[5:] == [None] * 5
