"""The live pictures of lens and map: what they hold, where they are taken, and what the flush does."""

from __future__ import annotations

import pytest

from sevlab import Host, chips, lab, vmm
from sevlab.lab import tour

pytest.importorskip("anywidget")
pytest.importorskip("sevlab_widgets", reason="sevlab is not installed here (make setup)")


@pytest.fixture
def host():
    with Host(chip="naples", seed=7, memory=1 << 30) as host:
        yield host


@pytest.fixture
def vm(host):
    vm = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!",), policy=1, name="vm-a")
    vm.run()
    return vm


def test_a_delta_opens_with_the_bytes_of_the_entry_that_was_named(host, vm):
    before = host.n
    host.dram.write(host.npt(vm).translate(0x4000) + 64, b"one block of 16.")
    lens = lab.lens(host, vm, 0x4000, held=before, view="delta").widget

    assert lens.chosen["view"] == "delta" and "vm-a" not in lens.held  # a closed eye holds nothing
    assert lens.changed(2) == {4} and f"entry {before}" in lens.says()


def test_a_page_that_is_taken_from_the_map_comes_into_the_lens(host, vm):
    lens = lab.lens(host, vm, 0x4000, 128, xray=True)
    lens.widget.press("hold", "")
    lab.pagemap(host, vm, on_enter=lens.aim).widget.got_enter("", 0x200)

    assert "gpa 0x200000" in lens.widget.describe() and not lens.widget.held


def test_only_a_machine_with_caches_can_be_flushed(host, vm):
    cached = Host("rome", seed=7, memory=1 << 30, caches=True)
    other = lab.empty_guest(cached)
    other.write(0x1000, b"a line in the cache")
    lens = lab.lens(cached, other, 0x1000, 128).widget
    host_line, bus = (next(i for i, eye in enumerate(lens.eyes) if eye.name == name) for name in ("host line", "the bus"))
    assert lens.sights[host_line].dirty == {0} and lens.sights[bus].data[:6] != b"a line"
    lens.press("flush", "")

    assert lens.sights[host_line].why == "holds nothing of it" and lens.sights[bus].data[:6] == b"a line"
    assert [row["what"] for row in cached.journal][-1] == "wbinvd"
    assert "flush" not in lab.lens(host, vm, 0x4000).widget.moves


def test_a_machine_that_never_was_says_so_over_its_lens_and_its_map():
    host = Host(chips.imaginary("ECB"), seed=7, memory=1 << 30)
    vm = vmm.launch(host, program=tour.notepad, args=(b"x",), policy=1)

    assert "an engine without a tweak" in lab.lens(host, vm, 0x4000).widget.imaginary
    assert "an engine without a tweak" in lab.pagemap(host).widget.imaginary


def test_the_other_machine_s_bus_is_the_same_whatever_moment_this_one_is_looked_at(host, vm):
    other = Host("rome", seed=8, memory=1 << 30)
    theirs = vmm.launch(other, program=tour.notepad, args=(b"my pin is 4711!!",), policy=None)
    theirs.run()
    lens = lab.lens(host, vm, 0x4000, 64, elsewhere={"there": (other, theirs)}).widget
    lens.got_seek("", 3)

    assert lens.sights[-1].data[:16] == b"my pin is 4711!!" and lens.sights[1].data is None
