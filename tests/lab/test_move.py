"""Lab `move`: each scene's machine does what the text says, and each answer follows the machine."""

from __future__ import annotations

from typing import Any

from sevlab import Host, guest, lab, vmm
from sevlab.lab import move as answers
from sevlab.lab.move import cost, count, counts, dead_calls
from sevlab.vmm import steps
from sevlab.vmm.mirror import bare
from sevlab.vmm.move import take


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
        asked, ended = lab.attempt(old.vcpus[0].registers), lab.attempt(new.run)
        n = host.n
        said = answers.goes_on(asked, ended)
        assert said.says == "no" and "EIO" in str(said.evidence) and host.n == n  # what a card says only looks
    with Host(seed=7, memory=1 << 30) as host:
        old = counting(host)
        before = counts(old, 3)
        new = vmm.move(old, to=host.process("qemu-2"))
        ended = new.run()
        assert answers.goes_on(lab.attempt(old.vcpus[0].registers), ended).says == "yes"
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


# ------------------------------------------------------------- the number


def test_the_kernel_looks_up_number_0_and_finds_the_device_once_it_is_there() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        new = vmm.move(counting(host), to=host.process("qemu-2"))
        refusal = lab.attempt(new.status)
        assert refusal.errno_name == "EBADF" and answers.looked_up(new).says == "0"
        new.process.dup2(new.sev, 0)
        assert new.status().state == 3


def test_before_a_move_it_is_the_number_that_was_given() -> None:
    with Host(seed=7, memory=1 << 30) as host:
        vm = counting(host)
        assert answers.looked_up(vm).says == str(vm.sev)
