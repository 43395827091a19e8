"""What a host does to a whole guest: another's key, the order of a launch, the sealed registers (firmware.md 6.5)."""

from __future__ import annotations

from typing import Any

import pytest
from attack_rig import CHIPS, blackboard

from sevlab import Host, guest, vmm
from sevlab.abi.kvm import KVM_EXIT_SHUTDOWN
from sevlab.guest.pagetable import PRESENT, ROOT, TABLE
from sevlab.hw.npt import NestedFault
from sevlab.hw.paging import walk
from sevlab.hw.vmcb import Vmcb
from sevlab.vmm import steps

PAGE = 4096


def victim(host: Host) -> Any:
    """A guest with page tables of its own, running."""
    vm = vmm.launch(host, program=guest.diary, name="victim")
    vm.finish()
    vm.run()
    return vm


def control(host: Host, vm: Any) -> Vmcb:
    """The control block of a VM's first vCPU: the hypervisor's own memory, in a plain SEV guest."""
    return host.kernel.vm_of(vm.process, vm.fd).vcpus[0].vmcb


def attacker(host: Host) -> Any:
    vm = vmm.launch(host, program=guest.hello, name="attacker")
    vm.finish()
    return vm


# -------------------------------------------------------------------- a foreign ASID


@pytest.mark.parametrize("chip", CHIPS)
def test_a_program_under_a_foreign_key_is_noise_and_its_processor_shuts_down(chip: str) -> None:
    with Host(chip, seed=3, memory=1 << 30) as host:
        target, mine = victim(host), attacker(host)
        control(host, mine).asid = control(host, target).asid
        assert mine.run().reason == KVM_EXIT_SHUTDOWN
        assert "no program in the page" in control(host, mine).why


@pytest.mark.parametrize("chip", CHIPS)
def test_a_page_table_walk_under_a_foreign_key_speaks_the_victims_words_one_by_one(chip: str) -> None:
    with Host(chip, seed=3, memory=1 << 30) as host:
        target, mine = victim(host), attacker(host)
        block, theirs = control(host, mine), control(host, target)
        block.asid = theirs.asid
        host.npt(mine).remap(ROOT, host.npt(target).translate(ROOT))
        block.save.cr3 = ROOT
        block.npt.fault = lambda gfn: None  # the hypervisor wants to see each fault

        with pytest.raises(NestedFault) as fault:
            walk(host.soc, block, 0x5000)
    word = ROOT + PAGE | 1 << host.chip.c_bit | TABLE
    assert fault.value.table
    assert fault.value.gpa == word & (1 << 48) - PAGE & ~(1 << host.chip.c_bit), "bits 12 to 47 of what the victim keeps there"


@pytest.mark.parametrize("chip", CHIPS)
def test_without_the_victims_number_the_same_walk_says_what_noise_says(chip: str) -> None:
    with Host(chip, seed=3, memory=1 << 30) as host:
        target, mine = victim(host), attacker(host)
        block = control(host, mine)
        host.npt(mine).remap(ROOT, host.npt(target).translate(ROOT))
        secret = host.probe(host.npt(target).translate(ROOT), 16)
        noise = blackboard(host, mine).opened(host.npt(target).translate(ROOT), secret)
        block.save.cr3 = ROOT
        assert host.soc.engine.read(block.asid, host.npt(mine).translate(ROOT), 16) == noise
        assert int.from_bytes(noise[:8], "little") != ROOT + PAGE | 1 << host.chip.c_bit | TABLE | PRESENT


def test_the_hosts_own_number_is_no_guests() -> None:
    with Host("rome", seed=3, memory=1 << 30) as host:
        mine = attacker(host)
        control(host, mine).asid = 0
        mine.run()
        assert control(host, mine).why == "ASID 0 is the host's"


# ------------------------------------------------------------------ the order of a launch

ONE, TWO = b"first block 16 b" * 256, b"second block, 16" * 256


def launched(host: Host, places: tuple[int, int], texts: tuple[bytes, bytes] = (ONE, TWO)) -> Any:
    """Two pages measured in the order given, each where `places` says."""
    process = host.process(f"vmm-{len(host.processes)}", memlock=16 << 20)
    vm = steps.create_vm(process)
    steps.add_memory(vm, 0, 1 << 20)
    steps.launch_start(vm, 1)
    for gpa, text in zip(places, texts, strict=True):
        vm.write(gpa, text)
        steps.update_data(vm, gpa, PAGE)
    steps.launch_measure(vm)
    return vm


@pytest.mark.parametrize("chip", CHIPS)
def test_two_pages_that_change_places_are_the_same_launch_to_the_owner_and_another_guest(chip: str) -> None:
    with Host(chip, seed=3, memory=1 << 30) as host:
        honest, permuted = launched(host, (0x1000, 0x2000)), launched(host, (0x2000, 0x1000))
        digests = [host.xray.digest(vm.handle) for vm in (honest, permuted)]
        engines = [blackboard(host, vm) for vm in (honest, permuted)]
        seen = [
            engine.opened(hpa := host.npt(vm).translate(0x1000), host.probe(hpa, PAGE))
            for vm, engine in zip((honest, permuted), engines, strict=True)
        ]
    assert digests[0] == digests[1]
    assert seen == [ONE, TWO]


def test_sixteen_bytes_are_the_smallest_piece_and_the_digest_does_not_see_where_one_ends() -> None:
    with Host("rome", seed=3, memory=1 << 30) as host:
        whole = launched(host, (0x1000, 0x2000))
        process = host.process("slow", memlock=16 << 20)
        vm = steps.create_vm(process)
        steps.add_memory(vm, 0, 1 << 20)
        steps.launch_start(vm, 1)
        blocks = [(ONE + TWO)[at : at + 16] for at in range(0, 2 * PAGE, 16)]
        for number, block in enumerate(blocks):
            gpa = 0x8000 + 16 * (len(blocks) - 1 - number)  # each block somewhere else than it was
            vm.write(gpa, block)
            steps.update_data(vm, gpa, 16)
        assert host.xray.digest(vm.handle) == host.xray.digest(whole.handle)


def test_the_order_in_which_pages_are_measured_is_seen() -> None:
    with Host("rome", seed=3, memory=1 << 30) as host:
        one, other = launched(host, (0x1000, 0x2000)), launched(host, (0x2000, 0x1000), (TWO, ONE))
        assert host.xray.digest(one.handle) != host.xray.digest(other.handle)


# ---------------------------------------------------------------- the sealed registers


def sealed(chip: str, **registers: int) -> bytes:
    """The save area of an ES guest as the bus carries it after its launch, its registers set first. Same seed, same key."""
    with Host(chip, seed=8, memory=1 << 30) as host:
        process = host.process("vmm", memlock=16 << 20)
        vm = steps.create_vm(process, es=True)
        steps.add_memory(vm, 0, 1 << 20)
        steps.add_vcpus(vm, 1)
        steps.reset_vcpus(vm)
        regs, sregs = vm.vcpus[0].registers()
        for name, value in registers.items():
            setattr(regs, name, value)
        vm.vcpus[0].set_registers(regs, sregs)
        steps.launch_start(vm, 5)
        steps.update_vmsas(vm)
        hpa = host.kernel.vm_of(process, vm.fd).vcpus[0].vmsa_pfn * PAGE
        return host.probe(hpa, PAGE)


def changed(one: bytes, other: bytes) -> list[int]:
    return [at for at in range(0, PAGE, 16) if one[at : at + 16] != other[at : at + 16]]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    ("register", "block"),
    [("rip", 0x170), ("rsp", 0x1D0), ("rax", 0x1F0), ("rcx", 0x300), ("rbx", 0x310), ("rbp", 0x320), ("rsi", 0x330), ("rdi", 0x330),
     ("r8", 0x340), ("r9", 0x340), ("r15", 0x370)],
)  # fmt: skip
def test_a_register_of_a_sealed_vcpu_shows_in_its_own_block_and_in_no_other(chip: str, register: str, block: int) -> None:
    assert changed(sealed(chip), sealed(chip, **{register: 0x1234})) == [block]


@pytest.mark.parametrize("chip", CHIPS)
def test_the_same_registers_at_the_same_place_are_the_same_ciphertext(chip: str) -> None:
    assert sealed(chip, rax=7) == sealed(chip, rax=7)
    assert sealed(chip, rax=7) != sealed(chip, rax=8)
