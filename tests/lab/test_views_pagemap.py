"""A guest's pages by gpa, and the machine's by hpa: what the map is told, in words and live."""

from __future__ import annotations

import pytest

from sevlab import Host, lab, vmm
from sevlab.hw import pages as states
from sevlab.lab import tour
from sevlab.lab.views_pagemap import NAMES, guest_pages


@pytest.fixture
def sealed():
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=1, name="vm-a")
    vm.finish()
    vm.run()
    return host, vm


def kernel_vm(host, vm):
    return host.kernel.vm_of(vm.process, vm.fd)


def by_gfn(host, vm):
    found = {}
    for first, count, *rest in guest_pages(kernel_vm(host, vm), host.pages):
        found |= {gfn: tuple(rest) for gfn in range(first, first + count)}
    return found


def test_every_state_of_a_page_has_a_name():
    assert sorted(NAMES) == list(range(len(states.NAMES)))


def test_a_guest_s_pages_are_those_its_frames_have(sealed):
    host, vm = sealed
    rows = by_gfn(host, vm)

    hpa = host.npt(vm).translate(0x4000)
    assert rows[4] == (host.pages.state(hpa >> 12), host.pages.asid(hpa >> 12), host.pages.pins(hpa >> 12))
    assert rows[4][0] == states.PRIVATE and rows[4][1] == kernel_vm(host, vm).sev.asid


def test_a_page_nobody_touched_is_not_there():
    host = Host(chip="naples", seed=7)
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=None)  # nothing of it is pinned

    with pytest.raises(OSError, match="never touched"):
        host.npt(vm).translate(0x1F00000)
    assert 0x1F00 not in by_gfn(host, vm)


def test_a_page_pointed_elsewhere_is_drawn_where_it_points(sealed):
    host, vm = sealed
    assert by_gfn(host, vm)[4][0] == states.PRIVATE

    host.npt(vm).remap(0x4000, host.npt(vm).translate(0x1F00000))
    assert by_gfn(host, vm)[4] == by_gfn(host, vm)[0x1F00]
    assert by_gfn(host, vm)[4][0] == states.HOST


def test_the_words_count_each_page_once(sealed):
    host, vm = sealed
    said = repr(lab.pagemap(host, vm))

    counted = sum(state == states.PRIVATE for state, *_ in by_gfn(host, vm).values())
    assert f"private  {counted:,} pages" in said and "memory of vm-a" in said


def test_a_look_is_no_entry_and_leaves_no_row(sealed):
    host, vm = sealed
    n, seq = host.n, host.trace.seq

    repr(lab.pagemap(host, vm)), repr(lab.pagemap(host))
    assert (host.n, host.trace.seq) == (n, seq)


def test_the_live_map_follows_the_guest_now_and_at_any_entry(sealed):
    pytest.importorskip("sevlab_widgets")
    host, vm = sealed
    live = lab.pagemap(host, vm).widget
    assert live.page(4).startswith("Page 0x4 at 0x4000: P private, slot")

    n = host.n
    vm.run()  # it clears the bit of that page, and stores there once more
    vm.run()
    live.counts()
    assert live.page(4).startswith("Page 0x4 at 0x4000: S shared")

    live.entry = n
    live.counts()
    assert live.page(4).startswith("Page 0x4 at 0x4000: P private")
    live.close()


def test_enter_is_told_an_address(sealed):
    pytest.importorskip("sevlab_widgets")
    host, vm = sealed
    told = []
    live = lab.pagemap(host, vm, on_enter=told.append).widget

    live.got_enter("view", 4)
    assert told == [0x4000]
    live.close()


def test_without_a_guest_it_is_the_machine(sealed):
    host, _ = sealed

    assert repr(lab.pagemap(host)).startswith("machine memory · naples")
