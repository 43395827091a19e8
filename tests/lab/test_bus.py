"""The memory bus, looked at and searched."""

from __future__ import annotations

from importlib import import_module

import pytest

from sevlab import Host, guest, vmm
from sevlab.abi import boot
from sevlab.lab import blocks, bus, legible, page_of, search


def test_what_was_loaded_is_noise_on_the_bus_and_what_was_not_is_legible(host: Host, vm: vmm.Vm) -> None:
    image = guest.firmware_image()

    assert bus(host, vm, vm.firmware.gpa, 4096) != image[:4096]
    assert bus(host, vm, boot.KERNEL, 4096) == guest.read_secret.image()


def test_a_look_across_pages_is_a_look_at_each(host: Host, vm: vmm.Vm) -> None:
    vm.write(0x1FF8, b"0123456789abcdef")

    assert bus(host, vm, 0x1FF8, 16) == b"0123456789abcdef"


def test_a_look_is_no_entry(host: Host, vm: vmm.Vm) -> None:
    before = host.trace.entry, vm.measurement
    bus(host, vm, 0, 16)
    search(host, b"12345678")

    assert (host.trace.entry, vm.measurement) == before


def test_where_the_guest_has_no_memory_there_is_nothing_to_see(host: Host, vm: vmm.Vm) -> None:
    with pytest.raises(ValueError, match="no memory at"):
        bus(host, vm, 1 << 40)


def test_a_search_finds_every_copy_and_no_other(host: Host, vm: vmm.Vm) -> None:
    for gpa in (0x3000, 0x5FFC, 0x10_0000):
        vm.write(gpa, b"a needle in the hay")

    found = search(host, b"a needle in the hay")
    assert len(found) == 3 and all(host.probe(hpa, 8) == b"a needle" for hpa in found)
    assert search(host, b"no such needle in it") == []


def test_a_needle_that_lies_across_two_pieces_of_memory_is_found(host: Host, vm: vmm.Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("sevlab.lab.bus"), "CHUNK", 0x2000)
    for gpa in range(0x2FF8, 0x8000, 0x1000):
        vm.write(gpa, b"across the edge!")

    assert len(search(host, b"across the edge!")) == 6


def test_a_short_needle_is_refused(host: Host) -> None:
    with pytest.raises(ValueError, match="7 bytes are found anywhere"):
        search(host, b"1234567")


def test_only_blocks_that_say_something_count() -> None:
    assert blocks(bytes(16) + b"A" * 16 + b"0123456789abcdef" + b"rest") == {b"0123456789abcdef"}


def test_no_block_of_the_image_is_on_the_bus_once_the_guest_has_run(host: Host, vm: vmm.Vm) -> None:
    kernel = guest.read_secret.image()
    assert legible(host, kernel) == len(blocks(kernel))  # the VMM put it there in clear

    vm.finish()
    vm.run()

    assert legible(host, kernel) == legible(host, guest.firmware_image()) == 0


def test_the_page_behind_a_guests_address_is_4096_machine_addresses(host: Host, vm: vmm.Vm) -> None:
    page = page_of(host, vm, 0xF123)

    assert len(page) == 4096 and page.start % 4096 == 0
    assert host.hpa(vm.process, vm.hva(0xF123)) in page
