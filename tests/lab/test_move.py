"""Lab `move`: each scene's machine does what the text says, on both designs, and each answer follows the machine."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab import Host, designs, guest, lab, vmm
from sevlab.lab import move as answers
from sevlab.lab.move import NAIVE, V11, asked_afterwards, balance, cost, count, counts, dead_calls, into_a_full_tenant, opposite
from sevlab.vmm import steps
from sevlab.vmm.mirror import bare
from sevlab.vmm.move import take

BOTH = (V11, designs.LINUX_6_1)


def counting(host: Host, **named: Any) -> vmm.Vm:
    vm = vmm.launch(host, program=guest.counter, memory=1 << 20, name="qemu", **({"shared": True} | named))
    vm.finish()
    return vm


def test_with_the_ioctl_alone_the_count_does_not_go_on_and_properly_it_does() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        old = counting(host)
        assert counts(old, 3) == [0, 1, 2] and count(old) == 2
        new = bare(old, host.process("qemu-2"))
        take(new, old)
        steps.add_vcpus(new, 1)
        assert answers.goes_on(old, lab.attempt(new.run)).says == "no"
    with Host(seed=7, memory=1 << 30) as host:
        old = counting(host)
        before = counts(old, 3)
        new = vmm.move(old, to=host.process("qemu-2"))
        ended = new.run()
        assert answers.goes_on(old, ended).says == "yes"
        assert answers.gap(before, [count(new), *counts(new, 2)]).says == "it goes on with 3"


def test_a_guest_that_begins_again_is_said_to() -> None:
    assert answers.gap([0, 1], [0]).says == "it begins again with 0"


def test_a_move_costs_no_firmware_command_and_no_frame_whatever_the_size() -> None:
    small, large = cost(32 << 20), cost(1 << 30)
    for row in (small, large):
        assert (row["firmware commands"], row["frames changed"]) == (0, "no")
    assert small["pages pinned"] == "8,193" and large["pages pinned"] == "262,145"
    assert answers.longer([small, large]).says == "none"
    assert answers.longer([large | {"firmware commands": 3}]).says == "3"


def test_the_dead_source_says_eio_and_is_einval_as_a_source_and_nothing_is_left_behind() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        old = counting(host)
        vmm.move(old, to=host.process("qemu-2"))
        before = sorted(old.process.fds)
        calls = dead_calls(old)
        said = [line.split()[-1] for line in calls.text.splitlines()[2:]]
        assert said == ["EIO"] * 6 + ["EINVAL"]
        assert answers.refused_with(calls).says == "EINVAL"
        assert sorted(old.process.fds) == before


def test_a_full_tenant_refuses_and_the_guest_stays_where_it_was() -> None:
    two = answers.tenants(full=True)
    moved = lab.attempt(vmm.move, two.old, to=two.process)
    assert answers.sum_unchanged(two, moved).says == "EBUSY"
    assert two.current == (1, 1) and counts(two.old, 2) == [1, 2]
    two.host.close()


def test_a_tenant_with_room_is_charged() -> None:
    two = answers.tenants()
    moved = lab.attempt(vmm.move, two.old, to=two.process)
    assert answers.sum_unchanged(two, moved).says == "it succeeds" and two.current == (0, 1)
    two.host.close()


# ------------------------------------------------------------- the review


def test_on_v11_a_pays_to_the_end_and_on_6_1_b_does() -> None:
    rows = [balance(design) for design in BOTH]
    assert [list(row.values())[1:] for row in rows] == [
        ["a 1, b 0", "a 1, b 0", "a 1, b 0", "a 0, b 0"],
        ["a 1, b 0", "a 0, b 1", "a 0, b 1", "a 0, b 0"],
    ]
    assert answers.purse(rows).says == "a" and answers.purse(rows[::-1]).says == "b"


def test_on_v11_the_limit_is_not_asked() -> None:
    rows = [into_a_full_tenant(design) for design in BOTH]
    assert [row["MOVE says"] for row in rows] == ["0", "EBUSY"]
    assert answers.limit(rows).says == "it succeeds" and answers.limit(rows[::-1]).says == "EBUSY"


def test_on_v11_the_source_answers_with_the_registers_of_nobody() -> None:
    rows = [asked_afterwards(design) for design in BOTH]
    assert (rows[0]["GET_REGS after"], rows[0]["RUN after"]) == ("RSP 0x0", "FAIL_ENTRY")
    assert (rows[1]["GET_REGS after"], rows[1]["RUN after"]) == ("EIO", "EIO")
    assert answers.zombie(rows).says == "it answers" and answers.zombie(rows[::-1]).says == "EIO"


# ------------------------------------------------------------- two callers


def test_naive_locks_hang_in_some_schedules_and_every_one_is_drawn() -> None:
    found = opposite(NAIVE)
    assert answers.hangs(found).says == "in some schedules"
    drawn = answers.drawn(found).text
    assert drawn.startswith("B  hangs\n     1122 1212 1221")
    assert all(schedule in drawn.split() for schedule in found.every)
    assert [line.split()[-1] for line in answers.stuck(found).text.splitlines()[2:]] == ["2", "1"]
    assert answers.flags(found).says == "in some schedules"


def test_flags_that_are_tried_never_hang_and_then_nothing_is_stuck() -> None:
    found = opposite(designs.LINUX_6_1)
    assert answers.flags(found).says == answers.hangs(found).says == "never"
    assert "EBUSY" in answers.outcomes(found).text and "hangs" not in answers.drawn(found).text
    with pytest.raises(IndexError, match="hangs"):
        answers.stuck(found)


# ------------------------------------------------------------- the number


def test_the_kernel_looks_up_number_0_and_finds_the_device_once_it_is_there() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        new = vmm.move(counting(host), to=host.process("qemu-2"))
        refusal = lab.attempt(new.status)
        assert refusal.errno_name == "EBADF" and answers.looked_up(new, refusal).says == "0"
        assert "/dev/sev" in answers.descriptors(new).text
        new.process.dup2(new.sev, 0)
        assert new.status().state == 3


def test_before_a_move_it_is_the_number_that_was_given() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        vm = counting(host)
        assert answers.looked_up(vm, vm.status()).says == str(vm.sev)
