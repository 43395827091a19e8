"""Where the kernel must flush, it does: a host whose cache lines are modelled behaves as one whose are not (kvm.md D4, D6).

And where a kernel forgets, the damage is what the cache's rules say it is.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from sevlab import Host, designs, guest, owner, vmm
from sevlab.abi.kvm import KVM_MEMORY_ENCRYPT_UNREG_REGION, KVM_SEV_DBG_DECRYPT, kvm_enc_region, kvm_sev_dbg
from sevlab.hw.cache import LinesWritten
from sevlab.kvm import sev_launch
from sevlab.vmm import steps

CHIPS = ["naples", "rome", "milan"]
PAGE = 4096
TEXT = b"this page is measured, then sealed. " * 113 + b"the end."
MEMORY = 1 << 30


def loaded(host: Host, policy: int = 0) -> Any:
    """One page, written by the VMM, measured and sealed."""
    process = host.process("vmm", memlock=16 << 20)
    vm = steps.create_vm(process)
    steps.add_memory(vm, 0, 1 << 20)
    steps.launch_start(vm, policy)
    vm.write(0x1000, TEXT[:PAGE].ljust(PAGE, b"."))
    steps.update_data(vm, 0x1000, PAGE)
    return vm


@pytest.mark.parametrize("chip", CHIPS)
def test_the_digest_and_the_ciphertext_are_the_same_with_caches_and_without(chip: str) -> None:
    found = []
    for caches in (False, True):
        with Host(chip, seed=6, memory=MEMORY, caches=caches) as host:
            vm = loaded(host)
            hpa = host.hpa(vm.process, vm.hva(0x1000))
            found.append((host.xray.digest(vm.handle), host.probe(hpa, PAGE)))
    assert found[0] == found[1]


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("es", [False, True])
def test_a_whole_launch_with_its_secret_is_the_same_with_caches_and_without(chip: str, es: bool) -> None:
    found = []
    for caches in (False, True):
        with Host(chip, seed=6, memory=MEMORY, caches=caches) as host:
            pdh = host.chain()["pdh"]
            session = owner.new_session(pdh, 5 if es else 1, seed=4)
            vm = vmm.launch(host, firmware=guest.firmware_image(), policy=5 if es else 1, session=session)
            found.append((vm.measurement, host.xray.digest(vm.handle)))
    assert found[0] == found[1]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_debugger_reads_the_same_bytes_with_caches_and_without(chip: str) -> None:
    for caches in (False, True):
        with Host(chip, seed=6, memory=MEMORY, caches=caches) as host:
            vm = loaded(host)
            into = vm.process.mmap(PAGE)
            vm.process.write(into, b"?" * PAGE)
            for start, n in ((0, PAGE), (7, 100)):
                vm.sev_op(KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(vm.hva(0x1000) + start, into + start, n))
                assert vm.process.read(into + start, n) == TEXT[:PAGE].ljust(PAGE, b".")[start : start + n]


def test_a_kernel_that_forgets_to_flush_measures_what_was_there_before_and_leaks_the_page_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sev_launch, "flush", lambda kernel, pin: None)
    with Host("rome", seed=6, memory=MEMORY, caches=True) as host:
        vm = loaded(host)
        hpa = host.hpa(vm.process, vm.hva(0x1000))
        assert host.xray.digest(vm.handle) == hashlib.sha256(bytes(PAGE)).digest()
        assert TEXT[:64] not in host.probe(hpa, PAGE)
        host.soc.wbinvd()
        assert host.probe(hpa, 64) == TEXT[:64]


def test_on_a_coherent_chip_the_same_forgetful_kernel_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sev_launch, "flush", lambda kernel, pin: None)
    with Host("milan", seed=6, memory=MEMORY, caches=True) as host:
        vm = loaded(host)
        assert host.xray.digest(vm.handle) == hashlib.sha256(TEXT[:PAGE].ljust(PAGE, b".")).digest()
        host.soc.wbinvd()
        assert TEXT[:64] not in host.probe(host.hpa(vm.process, vm.hva(0x1000)), PAGE)


@pytest.mark.parametrize(("design", "safe"), [(designs.LINUX_5_13, False), (designs.LINUX_6_1, True)], ids=["5.13", "6.1"])
def test_pages_that_leave_a_guest_without_a_writeback_are_overwritten_later(design: Any, safe: bool) -> None:
    """CVE-2022-0171: memory that nobody registered goes back to the host while a guest's lines of it are dirty."""
    with Host("rome", design, seed=6, memory=MEMORY, caches=True) as host:
        vm = vmm.launch(host, program=guest.hello, memory=1 << 20)
        vm.finish()
        slot = vm.slots[0]
        vm.ioctl(KVM_MEMORY_ENCRYPT_UNREG_REGION, kvm_enc_region(slot.hva, slot.size))
        vm.run()
        vm.process.munmap(slot.hva, slot.size)

        other = host.process("innocent")
        hva = other.mmap(1 << 20)
        for page in range(256):
            other.write(hva + page * PAGE, b"mine alone")
        before = {page: host.hpa(other, hva + page * PAGE) for page in range(256)}
        host.soc.clflush(0, MEMORY)
        host.soc.wbinvd()
        kept = [host.probe(hpa, 10) == b"mine alone" for hpa in before.values()]
    assert all(kept) is safe


def test_unregistering_a_region_leaves_no_dirty_line() -> None:
    with Host("rome", seed=6, memory=MEMORY, caches=True) as host:
        vm = vmm.launch(host, program=guest.hello, memory=1 << 20)
        vm.finish()
        vm.run()
        assert host.soc.caches is not None and host.soc.caches.dirty()
        slot = vm.slots[0]
        vm.ioctl(KVM_MEMORY_ENCRYPT_UNREG_REGION, kvm_enc_region(slot.hva, slot.size))
        gone = host.soc.caches.dirty()
        assert gone == 0 and host.trace.rows(LinesWritten)


def test_the_end_of_a_vm_writes_its_lines_back_before_its_key_goes() -> None:
    with Host("rome", seed=6, memory=MEMORY, caches=True) as host:
        vm = vmm.launch(host, program=guest.hello, memory=1 << 20)
        vm.finish()
        vm.run()
        vm.process.kill()
        assert [row for row in host.trace.rows() if row["kind"] == "LinesLost"] == []
