"""A new VMM under a running guest: it counts on without a gap; with the ioctl alone it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from errno import EBADF, EBUSY, EINVAL, EIO, ENOMEM
from typing import Any

import pytest

from sevlab import Host, designs, vmm
from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_EXIT_SHUTDOWN,
    KVM_SET_USER_MEMORY_REGION,
    kvm_userspace_memory_region,
)
from sevlab.guest.programs import SHARED_GPA, counter
from sevlab.hw.isa import hlt, inp, out, program, store
from sevlab.vmm import steps
from sevlab.vmm.mirror import bare, share_memory
from sevlab.vmm.move import take

SIZE = 1 << 20


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Hosts that a test has made: at its end every process is killed, and nothing may be left."""
    made: list[Host] = []
    yield made
    for host in made:
        host.close()
        assert host.asids.used() == {}
        assert host.pages.pinned() == 0
        assert host.kernel.vms == {} and host.psp.guests == {}


@pytest.fixture
def make(hosts: list[Host]) -> Any:
    def make(design: designs.Design = designs.LINUX_6_1, **named: Any) -> Host:
        hosts.append(Host(seed=7, design=design, memory=1 << 30, **named))
        return hosts[-1]

    return make


def launched(host: Host, guest: Any = counter, **named: Any) -> vmm.Vm:
    vm = vmm.launch(host, program=guest, memory=SIZE, **({"shared": True} | named))
    vm.finish()
    return vm


def counts(vm: vmm.Vm, times: int) -> list[int]:
    """Wake the guest, and read what it says, so many times."""
    said = []
    for _ in range(times):
        assert vm.run().reason == KVM_EXIT_HLT
        said.append(int.from_bytes(vm.read(SHARED_GPA, 8), "little"))
    return said


@program
async def listener() -> None:
    """Write what the port said to shared memory: the answer is in kvm_run when the VMM is replaced."""
    await store(0x2000, await inp(0x60), c=False)
    await out(0x3F8, b"A")
    while True:
        await hlt()


@program
async def two_processors() -> None:
    while True:
        await hlt()


# ------------------------------------------------------------------ it goes on


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_1_FIXED], ids=lambda design: design.name)
def test_a_guest_counts_on_while_its_vmm_is_replaced_and_the_old_one_killed(make: Any, design: designs.Design) -> None:
    host = make(design)
    old = launched(host)
    assert counts(old, 3) == [0, 1, 2]
    new = vmm.move(old, to=host.process("qemu-2"))
    old.process.kill()
    assert counts(new, 3) == [3, 4, 5]


def test_no_byte_of_memory_moves(make: Any) -> None:
    host = make()
    old = launched(host)
    counts(old, 2)
    frames = [host.hpa(old.process, slot.hva) for slot in old.slots]
    raw = host.probe(frames[0] + 0x1000, 64)
    new = vmm.move(old, to=host.process("qemu-2"))
    assert [host.hpa(new.process, slot.hva) for slot in new.slots] == frames
    assert host.probe(frames[0] + 0x1000, 64) == raw


def test_it_can_be_done_again_and_again(make: Any) -> None:
    host = make()
    vm, said = launched(host), []
    for number in range(4):
        said += counts(vm, 2)
        old, vm = vm, vmm.move(vm, to=host.process(f"upgrade-{number}"))
        old.process.kill()
    assert said + counts(vm, 1) == list(range(9))


def test_within_one_process_too(make: Any) -> None:
    host = make()
    old = launched(host, shared=False)
    counts(old, 2)
    assert counts(vmm.move(old, to=old.process), 2) == [2, 3]


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_a_sealed_guest_needs_no_register_carried(make: Any, design: designs.Design) -> None:
    host = make(design)
    old = launched(host, policy=5, legacy=True)
    assert counts(old, 3) == [0, 1, 2]
    new = vmm.move(old, to=host.process("qemu-2"))
    old.process.kill()
    assert counts(new, 2) == [3, 4]


def test_an_answer_that_is_still_in_kvm_run_is_not_lost(make: Any) -> None:
    host = make()
    old = launched(host, listener)
    asked = old.vcpus[0].enter()
    assert asked.name == "IO"
    old.process.write(old.vcpus[0].run_hva + asked.detail.data_offset, b"\x7e")
    new = vmm.move(old, to=host.process("qemu-2"))
    old.process.kill()
    assert new.run().reason == KVM_EXIT_HLT
    assert new.read(0x2000, 1) == b"\x7e"
    assert bytes(new.console) == b"A"


def test_what_the_vmm_itself_remembers_goes_along(make: Any) -> None:
    host = make()
    old = launched(host, two_processors, vcpus=2)
    old.run()
    old.console += b"booted"
    new = vmm.move(old, to=host.process("qemu-2"))
    assert [vcpu.started for vcpu in new.vcpus] == [vcpu.started for vcpu in old.vcpus] == [True, False]
    assert (bytes(new.console), new.policy, new.handle, new.measurement) == (b"booted", 1, old.handle, old.measurement)


# ------------------------------------------------------------------ it is lost


def test_with_the_ioctl_alone_the_guest_is_lost(make: Any) -> None:
    """Key, slot and pins are there; memory and registers are not, and nobody can fetch them any more."""
    host = make()
    old = launched(host)
    counts(old, 3)
    new = bare(old, host.process("qemu-2"))
    take(new, old)
    steps.add_vcpus(new, 1)
    with pytest.raises(OSError) as no:
        old.vcpus[0].registers()
    assert no.value.errno == EIO
    assert new.run().reason != KVM_EXIT_HLT
    new.close()


def test_with_memory_but_no_registers_it_begins_anew(make: Any) -> None:
    host = make()
    old = launched(host)
    counts(old, 3)
    new = bare(old, host.process("qemu-2"))
    share_memory(new, old)
    steps.add_vcpus(new, 1)
    take(new, old)
    assert counts(new, 2) == [0, 1]


def test_registers_carried_to_a_copy_of_the_memory_find_no_program(make: Any) -> None:
    host = make()
    old = launched(host)
    counts(old, 3)
    to = host.process("qemu-2")
    new = bare(old, to)
    for number, slot in enumerate(old.slots):
        hva = to.mmap(slot.size)
        to.write(hva, old.process.read(slot.hva, slot.size))
        new.ioctl(KVM_SET_USER_MEMORY_REGION, kvm_userspace_memory_region(number, 0, slot.gpa, slot.size, hva))
    steps.add_vcpus(new, 1)
    new.vcpus[0].set_registers(*old.vcpus[0].registers())
    take(new, old)
    assert new.run().reason == KVM_EXIT_SHUTDOWN


def test_as_posted_the_new_vcpus_have_no_key(make: Any) -> None:
    host = make(replace(designs.LINUX_6_1, move=designs.MOVE_V11))
    old = launched(host)
    counts(old, 3)
    new = vmm.move(old, to=host.process("qemu-2"))
    assert new.run().reason != KVM_EXIT_HLT


def test_a_typed_guest_never_runs_again_as_it_is(make: Any) -> None:
    host = make(designs.LINUX_6_12)
    old = launched(host)
    counts(old, 1)
    new = vmm.move(old, to=host.process("qemu-2"))
    with pytest.raises(OSError) as no:
        new.run()
    assert no.value.errno == EINVAL
    assert "need_init" in no.value.why  # type: ignore[attr-defined]

    host = make(replace(designs.LINUX_6_12, quirks=designs.MENDED))
    old = launched(host)
    counts(old, 1)
    assert counts(vmm.move(old, to=host.process("qemu-2")), 1) == [1]


def test_the_first_question_to_the_firmware_is_ebadf_as_it_is(make: Any) -> None:
    for design, works in ((designs.LINUX_6_1, False), (designs.LINUX_6_1_FIXED, True)):
        host = make(design)
        new = vmm.move(launched(host), to=host.process("qemu-2"))
        if works:
            assert new.status().state == 3
        else:
            with pytest.raises(OSError) as no:
                new.status()
            assert no.value.errno == EBADF


# ------------------------------------------------------------------ it is refused, and the guest stays where it was


def test_private_memory_cannot_be_mapped_by_another_process(make: Any) -> None:
    host = make()
    vm, to = launched(host, shared=False), host.process("qemu-2")
    counts(vm, 2)
    with pytest.raises(ValueError, match="shared=True"):
        vmm.move(vm, to=to)
    assert len(to.fds) == 3
    assert counts(vm, 2) == [2, 3]


def test_a_full_cgroup_refuses_and_everything_is_as_before(make: Any) -> None:
    host = make(cgroups={"/a": {"sev": 1}, "/full": {"sev": 0}})
    vm = launched(host, process=host.process("qemu", cgroup="/a"))
    counts(vm, 2)
    to = host.process("qemu-2", cgroup="/full")
    with pytest.raises(OSError) as no:
        vmm.move(vm, to=to)
    assert (no.value.errno, no.value.step) == (EBUSY, "MOVE_ENC_CONTEXT_FROM")  # type: ignore[attr-defined]
    assert len(to.fds) == 3
    assert counts(vm, 2) == [2, 3]


def test_a_kernel_without_it_refuses_and_the_guest_goes_on(make: Any) -> None:
    host = make(designs.LINUX_5_13)
    vm, to = launched(host), host.process("qemu-2")
    counts(vm, 2)
    with pytest.raises(OSError) as no:
        vmm.move(vm, to=to)
    assert no.value.errno == EINVAL
    assert len(to.fds) == 3
    assert counts(vm, 1) == [2]


def test_the_moved_vm_cannot_be_moved_from_twice(make: Any) -> None:
    host = make()
    old = launched(host)
    vmm.move(old, to=host.process("qemu-2"))
    third = host.process("qemu-3")
    with pytest.raises(OSError) as no:
        vmm.move(old, to=third)
    assert no.value.errno == EIO
    assert len(third.fds) == 3


def test_a_dead_process_takes_no_guest(make: Any) -> None:
    host = make()
    vm, to = launched(host), host.process("qemu-2")
    to.kill()
    with pytest.raises(OSError):
        vmm.move(vm, to=to)
    assert counts(vm, 1) == [0]


def test_the_new_process_needs_no_limit_for_pins_that_it_takes_over(make: Any) -> None:
    host = make()
    vm, to = launched(host), host.process("qemu-2", memlock=0)
    new = vmm.move(vm, to=to)
    vm.process.kill()
    assert counts(new, 1) == [0]
    with pytest.raises(OSError) as no:
        steps.add_memory(new, 1 << 30, 0x1000)
    assert no.value.errno == ENOMEM
