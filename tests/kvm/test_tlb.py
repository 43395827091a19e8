"""Who ran last where: when a processor forgets the translations of a key slot."""

from __future__ import annotations

from errno import EINVAL
from typing import Any

import pytest

from sevlab import Host, vmm
from sevlab.hw.isa import hlt, program
from sevlab.kvm.tlb import CPUS, TlbFlushed


@program
async def halting() -> None:
    """Halt, for ever and again."""
    while True:
        await hlt()


def launched(host: Host, **kw: Any) -> vmm.Vm:
    vm = vmm.launch(host, program=halting, memory=1 << 20, **kw)
    vm.finish()
    return vm


def flushes(host: Host) -> list[tuple[int, int]]:
    return [(row["vcpu"], row["cpu"]) for row in host.trace.rows(TlbFlushed)]


@pytest.fixture
def host() -> Any:
    with Host(seed=1) as made:
        yield made


def test_a_vcpu_that_comes_back_to_where_nobody_else_ran_needs_no_flush(host: Host) -> None:
    vm = launched(host)
    for _ in range(3):
        vm.run()

    assert flushes(host) == [(0, 0)]


def test_two_vcpus_of_one_vm_on_one_processor_flush_at_every_turn(host: Host) -> None:
    vm = launched(host, vcpus=2)
    vm.vcpus[1].started = True
    for _ in range(2):
        for vcpu in vm.vcpus:
            vcpu.enter()

    assert flushes(host) == [(0, 0), (1, 0), (0, 0), (1, 0)]


def test_a_vcpu_that_was_elsewhere_meanwhile_flushes_although_nobody_used_its_slot_here(host: Host) -> None:
    vm = launched(host)
    for cpu in (0, 1, 0):
        vm.process.setaffinity(cpu)
        vm.run()

    assert flushes(host) == [(0, 0), (0, 1), (0, 0)]


def test_a_mirror_shares_the_slot_and_so_the_rule(host: Host) -> None:
    vm = launched(host)
    helper = vmm.mirror(vm)
    for one in (vm, helper, vm):
        one.run()

    assert len(flushes(host)) == 3


def test_a_stranger_has_another_slot_and_disturbs_nobody(host: Host) -> None:
    vm, other = launched(host), launched(host)
    for one in (vm, other, vm, other):
        one.run()

    assert len(flushes(host)) == 2


def test_an_ordinary_vm_has_no_slot_to_look_after(host: Host) -> None:
    vm = vmm.launch(host, program=halting, policy=None, memory=1 << 20)
    vm.run()

    assert flushes(host) == []


def test_the_next_tenant_of_a_slot_begins_with_a_flush(host: Host) -> None:
    vm = launched(host)
    vm.run()
    vm.process.kill()
    host.kernel.last_run.forget(0)

    assert host.kernel.last_run._last == {}


@pytest.mark.parametrize("cpu", [-1, CPUS, 1 << 20])
def test_a_processor_that_is_not_there_is_refused(host: Host, cpu: int) -> None:
    process = host.process("one")
    with pytest.raises(OSError) as no:
        process.setaffinity(cpu)

    assert (no.value.errno, process.task.cpu) == (EINVAL, 0)


def test_a_child_runs_where_its_parent_does(host: Host) -> None:
    process = host.process("one")
    process.setaffinity(5)

    assert process.fork().task.cpu == 5
