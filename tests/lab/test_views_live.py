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


PICTURES = {
    "lens": lambda host, vm: lab.lens(host, vm, 0x4000, 128),
    "pages": lambda host, vm: lab.pagemap(host, vm),
    "machine memory": lambda host, vm: lab.pagemap(host),
    "slots": lambda host, vm: lab.timeline(host),
    "trace": lambda host, vm: lab.lanes(host),
    "states": lambda host, vm: lab.machine(host),
    "house": lambda host, vm: lab.topology(host),
}


@pytest.mark.parametrize("name", PICTURES)
def test_reset_leads_to_the_making_of_the_host_and_no_further(host, vm, name):
    second = Host(chip="rome", seed=8, memory=1 << 30, trace=host.trace)
    theirs = vmm.launch(second, program=tour.notepad, args=(b"x",), policy=1, name="vm-b")
    for machine, guest, made in ((host, vm, 1), (second, theirs, second.gate.made)):
        said = []
        widget = PICTURES[name](machine, guest).widget
        widget.post = lambda fields, *rest, said=said, **more: said.append(fields) or 0
        widget.got_seek("view-1", 0)
        widget.full()

        assert widget.entry == made and [one for one in said if one["kind"] == "error"] == []
        assert said[-1] == {"kind": "sought", "n": second.n, "oldest": made, "entry": made}
        widget.close()


def test_before_the_guest_was_made_its_pictures_say_so(host, vm):
    lens, pages = lab.lens(host, vm, 0x4000).widget, lab.pagemap(host, vm).widget
    assert pages.chrome()["empty"] == ""
    lens.entry = pages.entry = 1

    assert lens.chrome()["title"] == "gpa 0x4000 → nothing: vm-a is not there"
    assert pages.chrome()["empty"] == "No memory yet. The first memory slot draws itself here."


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


def test_what_a_hostile_host_can_do_in_a_lens_is_done_and_is_in_the_journal(host, vm):
    lens = lab.lens(host, vm, 0x4000, 128, xray=True).widget
    guest, bus = (next(i for i, eye in enumerate(lens.eyes) if eye.name == name) for name in ("vm-a", "the bus"))
    first, second, n = lens.block_of(bus, 0), lens.block_of(bus, 2), host.n
    lens.got_press("", "swap")
    lens.to(2)
    lens.got_act("", lens.selected)
    assert (lens.block_of(bus, 0), lens.block_of(bus, 2)) == (second, first) and host.n == n + 2

    for block in (0, 2):
        lens.to(block)
        lens.got_press("", "put back", str(n))
    assert (lens.block_of(bus, 0), lens.block_of(bus, 2)) == (first, second)
    assert lens.block_of(guest, 0) == b"my pin is 4711!!"

    hpa = host.npt(vm).translate(0x4000)
    lens.got_press("", "remap", f"{hpa + 4096:#x}")
    assert host.npt(vm).translate(0x4000) == hpa + 4096 and host.dram.read(hpa, 16) == first


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("put back", "1", "LookupError: vm-a is not there."),
        ("put back", "early", "LookupError: gpa 0x4000 has no page after entry "),
        ("put back", "100000", "IndexError: "),
        ("remap", "0x104010", "ValueError: a mapping is a page to a page"),
    ],
)
def test_what_a_lens_cannot_do_is_a_sentence_and_no_byte_moves(host, vm, name, value, why):
    said: list[str] = []
    lens = lab.lens(host, vm, 0x4000, 128).widget
    lens.post = lambda fields, *rest, **more: said.append(fields.get("say", "")) or 0
    before, n = host.dram.read(host.npt(vm).translate(0x4000), 128), host.n
    early = next(row["n"] for row in host.trace.rows() if row["kind"] == "VmMade")
    lens.got_press("", name, str(early) if value == "early" else value)

    assert why in "".join(said)
    assert (host.dram.read(host.npt(vm).translate(0x4000), 128), host.n) == (before, n)


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
