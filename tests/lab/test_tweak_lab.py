"""Lab `tweak`: each scene's answer comes from the machine, and is another one where the machine is another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sevlab import Host, chips, designs, lab, vmm
from sevlab.hw.chips import NAPLES_TWEAKS
from sevlab.lab import tweak_lab as scenes
from sevlab.lab.picture import penguin
from sevlab.lab.tweak import Box, xor
from sevlab.plots.images import on_the_bus

LINE = b"sixteen bytes ok"
PAGE = 4096
PAGE_OF_TEXT = b"measure me and seal me. " * 170 + b"end of the page."


@pytest.fixture
def boxes() -> Iterator[Any]:
    made: list[Host] = []

    def make(chip: Any, **how: Any) -> Box:
        made.append(Host(chip, seed=3, memory=4 << 30, **how))
        return Box(made[-1])

    yield make
    for host in made:
        host.close()


ENGINES = {"ECB": (chips.imaginary("ECB"), "yes"), "XE": ("naples", "no"), "XEX": ("rome", "no")}


@pytest.mark.parametrize(("chip", "says"), ENGINES.values(), ids=ENGINES)
def test_only_an_engine_without_a_tweak_shows_the_picture(boxes: Any, chip: Any, says: str) -> None:
    assert scenes.recognised(on_the_bus(boxes(chip), penguin(width=64))).says == says


@pytest.mark.parametrize("chip", ["naples", "rome"])
def test_a_text_differs_from_itself_elsewhere_and_not_at_another_time(boxes: Any, chip: str) -> None:
    box = boxes(chip)
    box.write(LINE)
    first = box.bus()
    box.write(LINE, at=64)
    box.write(bytes(16))
    box.write(LINE)

    assert scenes.two_places(first, box.bus(at=64)).says == "no"
    assert scenes.two_times(first, box.bus()).says == "yes"


@pytest.mark.parametrize("chip", ["naples", "rome"])
def test_a_picture_that_moved_changes_the_blocks_that_it_changed(boxes: Any, chip: str) -> None:
    box, pictures = boxes(chip), (penguin(), penguin(shift=24))
    carried = [on_the_bus(box, picture) for picture in pictures]

    assert scenes.redrawn(pictures, carried).says == "those in which the picture did"
    assert scenes.redrawn((LINE, LINE), (LINE, LINE)).says == "none"
    assert scenes.redrawn(pictures, (carried[0], bytes(len(carried[0])))).says == "all"


@pytest.mark.parametrize(("chip", "says"), [("naples", "m ⊕ T(p) ⊕ T(q)"), ("rome", "noise")])
def test_copied_ciphertext_is_named_by_its_formula(boxes: Any, chip: str, says: str) -> None:
    box = boxes(chip)
    p, q = box.hpa(), box.hpa() ^ 0x2_0000
    found = xor(box.difference(p, q, LINE), LINE)

    assert scenes.read_at_q(box.host, p, q, LINE, found).says == says
    assert scenes.read_at_q(box.host, p, q, LINE, LINE).says == "m"
    assert scenes.read_at_q(box.host, p, q, LINE, xor(LINE, box.host.xray.tweak(q))).says == "m ⊕ T(q)"


def test_one_bit_is_one_constant_and_forty_pairs_are_all_of_them(boxes: Any) -> None:
    box = boxes("naples")
    assert scenes.linear(box.host, 17, box.difference(box.hpa(), box.hpa() ^ 1 << 17, LINE)).says == "the constant of that bit"
    found = lab.solve_tweaks(scenes.pairs(box, 40))

    assert {bit: found[bit][:4].hex() for bit in found} == NAPLES_TWEAKS
    assert sum("t_" in line for line in str(scenes.compared(found, NAPLES_TWEAKS)).splitlines()) == 28


def test_on_xex_one_bit_is_no_constant(boxes: Any) -> None:
    box = boxes("rome")
    assert scenes.linear(box.host, 17, box.difference(box.hpa(), box.hpa() ^ 1 << 17, LINE)).says == "noise"
    assert "contradict" in str(scenes.contradiction(scenes.pairs(box, 40)))
    assert str(scenes.contradiction(scenes.pairs(boxes("naples"), 40))) == "28 constants follow"


def test_mappings_that_change_places_take_their_text_along(boxes: Any) -> None:
    box, other = boxes("rome"), LINE[::-1]
    box.write(LINE)
    box.write(other, at=PAGE)
    p, q = box.hpa(), box.hpa(PAGE)
    assert scenes.places_changed(box.read(), box.read(at=PAGE), LINE, other).says == "its own line, as ever"
    box.aim(q)
    box.aim(p, at=PAGE)

    assert scenes.places_changed(box.read(), box.read(at=PAGE), LINE, other).says == "the line of the other page"
    assert scenes.places_changed(bytes(16), LINE, LINE, other).says == "noise"


@pytest.mark.parametrize(("chip", "says"), [("naples", "its text, xored with one constant"), ("rome", "noise")])
def test_compaction_moves_only_what_is_not_registered_and_costs_the_guest_its_text(boxes: Any, chip: str, says: str) -> None:
    box, text = boxes(chip), LINE * 256
    box.write(text)
    hva = box.vm.hva(0x10_0000)
    assert scenes.nothing_moved(box.host.compact(box.vm.process, hva)).says == "none"

    scenes.unregister(box.vm)
    assert scenes.nothing_moved(box.host.compact(box.vm.process, hva)).says == "all it was asked for"
    assert scenes.after_compaction(text, box.read(PAGE), "").says == says


def test_a_page_that_never_moved_reads_as_its_text() -> None:
    assert scenes.after_compaction(LINE, LINE, "XE").says == "its text"


@pytest.mark.parametrize("chip", ["naples", "rome"])
def test_the_firmwares_copy_keeps_the_text_and_a_copy_by_hand_does_not(boxes: Any, chip: str) -> None:
    box, text = boxes(chip), LINE * 256
    box.write(text)
    target = scenes.frame_of_ones_own(box.host)
    box.host.dram.write(target, box.bus(PAGE))
    source = box.hpa()
    assert scenes.copied("", text, box.read_at(target, PAGE)).says == "noise"

    assert scenes.firmware_copy(box.host, box.vm, source, target) == "SUCCESS"
    assert scenes.copied("", text, box.read_at(target, PAGE)).says == "its text"


def test_the_ledger_counts_pages_and_one_too_many_is_refused(boxes: Any) -> None:
    host = boxes("rome").host
    vm = vmm.steps.create_vm(host.process("tight", memlock=1 << 20))
    vmm.steps.add_memory(vm, 0, 1 << 19)

    assert "128" in str(scenes.ledger(host, {"it": vm}))
    assert scenes.too_many(lab.attempt(vmm.steps.add_memory, vm, 1 << 30, 1 << 20), host.dmesg).says == "ENOMEM"


def test_only_the_posted_kernel_loses_the_line_and_only_when_somebody_compacts() -> None:
    rows = [scenes.bar(design).row for design in (scenes.PIN_SLOTS, designs.LINUX_6_1)]
    quiet = [scenes.bar(design, scrub=False).row for design in (scenes.PIN_SLOTS, designs.LINUX_6_1)]

    assert scenes.bars(rows).says == "6.1, pins as posted"
    assert scenes.bars(quiet).says == "neither"
    assert [row["pins hidden"] for row in rows] == [0, 1]


def test_the_kernel_that_never_was_says_so_and_both_took_the_same_entries() -> None:
    posted, merged = (scenes.bar(design) for design in (scenes.PIN_SLOTS, designs.LINUX_6_1))

    assert "never existed" in posted.host.chip.banner and not merged.host.chip.banner
    assert posted.host.n == merged.host.n  # one scrubber is for both
    assert posted.frames[0] != posted.frames[1] and merged.frames[0] == merged.frames[1]
    assert str(scenes.frames(posted, merged)).count(f"{merged.frames[0]:#x}") == 2
    assert "no longer reads what it wrote" in repr(lab.pagemap(posted.host, posted.vm))
    assert "no longer reads" not in repr(lab.pagemap(merged.host, merged.vm))


def test_a_constant_that_is_not_four_times_the_same_is_noted() -> None:
    one = scenes.compared({4: b"abcd" * 4, 5: b"abcd" * 3 + b"zzzz"}, {4: b"abcd".hex(), 5: bytes(4).hex()})

    assert "61626364" in str(one) and "00000000" in str(one) and one.title.startswith("2 constants")


def test_a_box_shows_its_own_lines(boxes: Any) -> None:
    box = boxes("naples")
    box.write(LINE)
    said = repr(box.lens(64))

    assert LINE.decode() in said and "VMM" not in said
    assert LINE.decode() not in repr(box.lens(64, xray=False)) and LINE.decode() not in repr(box.lens(64, at=64))


@pytest.mark.parametrize(("chip", "digest", "bus"), [("rome", "zeros", "the page, in clear"), ("milan", "the page", "ciphertext")])
def test_a_forgotten_flush_costs_the_digest_and_then_the_secret_where_caches_are_not_coherent(
    chip: str, digest: str, bus: str
) -> None:
    with Host(chip, seed=3, memory=1 << 30, caches=True) as host:
        vm = lab.empty_guest(host)
        vm.write(0x1000, PAGE_OF_TEXT)
        assert scenes.load_without_flush(host, vm, 0x1000) == "SUCCESS"
        assert scenes.measured(host.xray.digest(vm.handle), PAGE_OF_TEXT).says == digest
        host.wbinvd()
        assert scenes.later(host, vm, 0x1000, PAGE_OF_TEXT).says == bus
