"""The seam `pinning`: a slot that comes and goes, and memory that must not move meanwhile (seed of 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EBUSY, ENOTTY
from typing import Any

import pytest

from sevlab import Host, designs, vmm
from sevlab.abi.kvm import KVM_MEMORY_ENCRYPT_REG_REGION, kvm_enc_region
from sevlab.hw.isa import hlt, load, program, store
from sevlab.hw.pages import MOVED, STALE
from sevlab.vmm import ram

BAR = 0x4000_0000
LINE = b"a line in a BAR."
OUT = 0x6000

POSTED = designs.replace(designs.LINUX_6_1, name="6.1, pinning as posted", pinning=designs.PIN_SLOTS)
MERGED = designs.LINUX_6_1


@program
async def keeper() -> None:
    """Keep a line in the BAR; after a while, say what stands there."""
    await store(0x4000_0000, b"a line in a BAR.")
    await hlt()
    line = await load(0x4000_0000, 16)
    await store(0x6000, line, c=False)
    await hlt()


@pytest.fixture(params=[POSTED, MERGED], ids=["posted", "merged"])
def guest(request: pytest.FixtureRequest) -> Iterator[tuple[Host, Any, ram.RamBlock, vmm.Slot]]:
    """A guest that has written its line into a BAR of four pages, on both kernels."""
    with Host(design=request.param, seed=7) as host:
        vm = vmm.launch(host, program=keeper)
        vm.finish()
        block = ram.add_block(vm, 0x4000)
        slot = ram.show(vm, block, BAR)
        ram.tell(vm, block, True)
        vm.run()
        yield host, vm, block, slot


def merged(host: Host) -> bool:
    return host.design.pinning is designs.REG_REGION


def test_memory_in_sight_of_the_guest_is_pinned_on_both(guest: Any) -> None:
    host, vm, block, _ = guest
    assert host.compact(vm.process, block.hva) == []
    with pytest.raises(OSError) as no:
        vm.process.mm.move(block.hva)

    assert no.value.errno == EBUSY


def test_a_slot_taken_away_and_given_back_loses_its_line_only_where_the_kernel_unpinned_it(guest: Any) -> None:
    host, vm, block, slot = guest
    ram.hide(vm, slot)
    moved = host.compact(vm.process, block.hva)
    states = [(host.pages.state(old >> 12), host.pages.state(new >> 12)) for _, old, new in moved]
    ram.show(vm, block, BAR)
    vm.run()

    assert states == ([] if merged(host) else [(MOVED, STALE)])
    assert (vm.read(OUT, 16) == LINE) is merged(host)


def test_a_slot_that_nobody_touched_meanwhile_keeps_its_line_on_both(guest: Any) -> None:
    _, vm, block, slot = guest
    ram.hide(vm, slot)
    ram.show(vm, block, BAR)
    vm.run()

    assert vm.read(OUT, 16) == LINE


def test_the_bytes_of_a_moved_page_are_the_same_on_the_bus_and_yet_noise_to_the_guest(guest: Any) -> None:
    host, vm, block, slot = guest
    before = host.probe(host.hpa(vm.process, block.hva), 16)
    ram.hide(vm, slot)
    moved = host.compact(vm.process, block.hva)
    ram.show(vm, block, BAR)

    assert host.probe(host.hpa(vm.process, block.hva), 16) == before
    if moved:
        asid = host.kernel.vm_of(vm.process, vm.fd).sev.asid
        assert host.xray.read(asid, moved[0][1], 16) == LINE  # where it was, the key still opens what was left behind
        assert host.xray.read(asid, moved[0][2], 16) != LINE


def test_smram_hidden_in_part_and_shown_elsewhere_is_the_same_story(guest: Any) -> None:
    host, vm, block, slot = guest
    ram.hide(vm, slot)
    elsewhere = ram.show(vm, block, 0x5000_0000)
    host.compact(vm.process, block.hva)
    ram.hide(vm, elsewhere)
    ram.show(vm, block, BAR)
    vm.run()

    assert vm.read(OUT, 16) == LINE  # it was in sight, and pinned, while the host compacted


def test_the_posted_kernel_has_no_call_to_register_memory() -> None:
    with Host(design=POSTED, seed=1) as host:
        vm = vmm.launch(host, program=keeper)
        region = kvm_enc_region(addr=vm.slots[0].hva, size=0x1000)
        with pytest.raises(OSError) as no:
            vm.process.ioctl(vm.fd, KVM_MEMORY_ENCRYPT_REG_REGION, region)

        assert no.value.errno == ENOTTY


def test_a_slot_older_than_the_key_is_never_pinned_by_the_posted_kernel() -> None:
    with Host(design=POSTED, seed=1) as host:
        vm = vmm.launch(host, program=keeper)
        pins = [host.pages.pins(host.hpa(vm.process, slot.hva) >> 12) for slot in vm.slots if slot.gpa]

        assert pins == [0]  # the list is made when the key is, and the firmware's slot is older


def test_a_pin_that_fails_is_silent_on_the_posted_kernel() -> None:
    with Host(design=POSTED, seed=1, memory=80 << 20) as host:
        vm = vmm.launch(host, program=keeper)
        block = ram.add_block(vm, 256 << 20)
        ram.show(vm, block, BAR)

        assert any("failed to pin slot" in line for line in host.dmesg)


def test_a_moved_slot_keeps_its_old_pins_and_a_deleted_one_gives_them_back() -> None:
    with Host(design=POSTED, seed=1) as host:
        vm = vmm.launch(host, program=keeper)
        before = host.pages.pinned()
        block = ram.add_block(vm, 0x4000)
        slot = ram.show(vm, block, BAR)
        during = host.pages.pinned()
        ram.hide(vm, slot)

        assert (during - before, host.pages.pinned()) == (4, before)


def test_no_limit_is_asked_by_the_posted_kernel_and_one_is_by_the_merged() -> None:
    for design, refused in ((POSTED, False), (MERGED, True)):
        with Host(design=design, seed=1) as host:
            process = host.process("qemu", memlock=48 << 20)
            vm = vmm.launch(host, program=keeper, process=process)
            block = ram.add_block(vm, 64 << 20)
            ram.show(vm, block, BAR)
            try:
                ram.tell(vm, block, True)
                answer = False
            except OSError:
                answer = True

            assert answer is refused


def test_everything_is_unpinned_when_the_vm_goes(guest: Any) -> None:
    host, vm, _, _ = guest
    vm.process.kill()

    assert host.pages.pinned() == 0
