"""The small guests to begin with, each on a whole machine."""

from __future__ import annotations

import pytest

from sevlab import Host, guest, vmm
from sevlab.abi.kvm import KVM_EXIT_IO, kvm_run_io
from sevlab.guest.programs import GREETING, PRIVATE_GPA, SECRET, SHARED_GPA
from sevlab.vmm.vm import Vm

KINDS = {"SEV": 1, "SEV-ES": 5}


def _asid(host: Host, vm: Vm) -> int:
    return host.kernel.vm_of(vm.process, vm.fd).sev.asid


@pytest.mark.parametrize("policy", KINDS.values(), ids=KINDS)
def test_hello_is_read_by_everybody_and_the_secret_by_nobody(host: Host, policy: int) -> None:
    vm = vmm.launch(host, program=guest.hello, policy=policy)
    vm.run()

    assert vm.read(SHARED_GPA, len(GREETING)) == GREETING
    assert vm.read(PRIVATE_GPA, 16) != SECRET == host.xray.read(_asid(host, vm), host.npt(vm).translate(PRIVATE_GPA), 16)


@pytest.mark.parametrize("policy", KINDS.values(), ids=KINDS)
def test_counter_counts_the_times_it_is_woken(host: Host, policy: int) -> None:
    vm = vmm.launch(host, program=guest.counter, policy=policy)

    for expected in range(4):
        vm.run()
        assert vm.read(SHARED_GPA, 8) == expected.to_bytes(8, "little")


def test_counter_may_begin_elsewhere_and_is_then_another_program_to_measure(host: Host) -> None:
    vm = vmm.launch(host, program=guest.counter, args=(41,))
    vm.run()
    vm.run()

    assert vm.read(SHARED_GPA, 8) == (42).to_bytes(8, "little")
    assert guest.counter.image(41) != guest.counter.image()


def test_echo_gives_back_what_it_reads_until_a_zero(host: Host) -> None:
    vm = vmm.launch(host, program=guest.echo_io)
    said, heard = iter(b"hey\0"), b""
    while (exit := vm.vcpus[0].enter()).reason == KVM_EXIT_IO:
        io: kvm_run_io = exit.detail
        at = vm.vcpus[0].run_hva + io.data_offset
        if io.direction:
            heard += vm.process.read(at, 1)
        else:
            vm.process.write(at, bytes([next(said)]))

    assert exit.name == "HLT" and heard == b"hey"


def test_echo_asks_the_hypervisor_and_so_ends_in_an_es_guest_without_a_handler(host: Host) -> None:
    vm = vmm.launch(host, program=guest.echo_io, policy=5)

    with pytest.raises(OSError):
        vm.run()


@pytest.mark.parametrize("page", list(guest.catalogue()), ids=lambda row: row[1].name)
def test_every_program_of_the_catalogue_is_found_by_its_page(
    host: Host, page: tuple[bytes, guest.Program, tuple[object, ...]]
) -> None:
    bytes_, program, args = page

    assert host.soc.programs.find(bytes_) == (program, args)


def test_the_pages_of_the_catalogue_differ() -> None:
    rows = list(guest.catalogue())

    assert len({page for page, _, _ in rows}) == len(rows)
