"""A helper with the guest's key, made by its own VMM or by another."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EIO
from typing import Any

import pytest

from sevlab import Host, designs, vmm
from sevlab.abi import boot, ovmf
from sevlab.abi.kvm import KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN
from sevlab.hw.isa import hlt, load, program, store

SIZE = 1 << 20
PRIVATE, SHARED = 0x1000, 0x2000
SECRET = b"my diary, page 1"
HELPER = boot.TOP - 2 * boot.PAGE


@program
async def keeper() -> None:
    await store(PRIVATE, SECRET, c=True)
    while True:
        await hlt()


@program
async def helper() -> None:
    while True:
        await store(SHARED, await load(PRIVATE, 16, c=True), c=False)
        await hlt()


@pytest.fixture
def host() -> Iterator[Host]:
    """6.1, and nothing left at the end."""
    host = Host(seed=7, memory=1 << 30)
    yield host
    host.close()
    assert host.asids.used() == {}
    assert host.pages.pinned() == 0
    assert host.kernel.vms == {} and host.psp.guests == {}


def image() -> bytes:
    """A firmware of two pages: the helper, measured like everything else, and the guest's own first program on top."""
    table = [ovmf.reset_block(boot.RESET_BLOCK), ovmf.secret_area(*boot.SECRET_AREA), ovmf.hash_area(*boot.HASH_AREA)]
    return helper.image() + ovmf.with_table(keeper.image(), table)


def launched(host: Host, **named: Any) -> vmm.Vm:
    host.register(helper)
    vm = vmm.launch(host, firmware=image(), program=keeper, memory=SIZE, **named)
    vm.finish()
    assert vm.run().reason == KVM_EXIT_HLT
    return vm


def test_the_helper_reads_what_the_guest_keeps_private(host: Host) -> None:
    vm = launched(host)
    mirror = vmm.mirror(vm, start=HELPER)
    assert mirror.run().reason == KVM_EXIT_HLT
    assert vm.read(SHARED, 16) == SECRET
    assert vm.read(PRIVATE, 16) != SECRET


def test_a_mirror_in_another_process_outlives_the_guests_own(host: Host) -> None:
    vm = launched(host, shared=True)
    mirror = vmm.mirror(vm, host.process("helper"), start=HELPER)
    vm.process.kill()
    assert mirror.run().reason == KVM_EXIT_HLT
    assert mirror.read(SHARED, 16) == SECRET


def test_closing_the_mirror_leaves_the_guest_its_memory(host: Host) -> None:
    vm = launched(host)
    before = set(vm.process.fds)
    mirror = vmm.mirror(vm, start=HELPER)
    mirror.run()
    mirror.close()
    assert set(vm.process.fds) == before
    assert vm.read(SHARED, 16) == SECRET
    assert vm.run().reason == KVM_EXIT_HLT


def test_closing_the_guest_first_keeps_the_key_for_the_mirror(host: Host) -> None:
    vm = launched(host, shared=True)
    mirror = vmm.mirror(vm, host.process("helper"), start=HELPER)
    vm.close()
    assert len(host.asids.used()) == 1
    assert mirror.run().reason == KVM_EXIT_HLT
    mirror.close()
    assert host.asids.used() == {}


def test_where_the_host_put_its_own_bytes_there_is_no_program(host: Host) -> None:
    vm = launched(host)
    vm.write(0x8000, helper.image())
    assert vmm.mirror(vm, start=0x8000).run().reason == KVM_EXIT_SHUTDOWN
    assert vm.read(SHARED, 16) == bytes(16)


def test_without_vcpus_it_only_shares_the_key(host: Host) -> None:
    vm = launched(host)
    mirror = vmm.mirror(vm, vcpus=0)
    assert mirror.vcpus == []
    assert mirror.status().handle == vm.handle


def test_a_sealed_guest_that_is_measured_takes_no_new_vcpus(host: Host) -> None:
    vm = launched(host, policy=5)
    before = set(vm.process.fds)
    with pytest.raises(OSError) as no:
        vmm.mirror(vm)
    assert no.value.errno == EIO
    assert set(vm.process.fds) == before
    assert vm.run().reason == KVM_EXIT_HLT


def test_memory_of_one_process_is_not_anothers(host: Host) -> None:
    vm, other = launched(host), host.process("helper")
    with pytest.raises(ValueError, match="private to"):
        vmm.mirror(vm, other)
    assert len(other.fds) == 3


def test_a_mirror_has_no_mirror(host: Host) -> None:
    mirror = vmm.mirror(launched(host))
    with pytest.raises(OSError) as no:
        vmm.mirror(mirror)
    assert "is_mirroring" in no.value.why  # type: ignore[attr-defined]


def test_a_mirror_cannot_be_asked_to_finish_or_measure(host: Host) -> None:
    mirror = vmm.mirror(launched(host))
    for command in (mirror.finish, lambda: mirror.sev_op(6)):
        with pytest.raises(OSError):
            command()


def test_on_5_13_it_works_for_a_plain_guest_too() -> None:
    with Host(seed=7, memory=1 << 30, design=designs.LINUX_5_13) as host:
        vm = launched(host)
        mirror = vmm.mirror(vm, start=HELPER)
        assert mirror.run().reason == KVM_EXIT_HLT
        assert vm.read(SHARED, 16) == SECRET
        with pytest.raises(OSError):
            mirror.status()
