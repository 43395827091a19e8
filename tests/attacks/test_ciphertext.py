"""Ciphertext put back, moved and swapped: what the guest reads then, to the byte, on each chip (firmware.md 6.5)."""

from __future__ import annotations

import hashlib

import pytest
from attack_rig import LINE, OTHER, blackboard

from sevlab.hw import pages
from sevlab.lab.tweak import Box, moved, xor

PAGE = 4096
FAR = 0x5_4321_0000 & (1 << 32) - 1  # a frame far from the guest's: many address bits differ


def frame(box: Box) -> int:
    return box.hpa() & -PAGE


# ------------------------------------------------------------------------- replay


def test_an_old_block_put_back_at_its_own_address_is_the_old_text_again(box: Box) -> None:
    box.write(OTHER)
    old = box.bus()
    box.write(LINE)
    assert box.read() == LINE

    box.host.dram.write(box.hpa(), old)
    assert box.read() == OTHER
    assert box.vm.run().name == "HLT", "nobody told the guest"


def test_a_page_put_back_is_all_of_its_past(box: Box) -> None:
    yesterday = bytes(range(256)) * 16
    box.write(yesterday)
    old = box.bus(PAGE)
    box.write(bytes(PAGE))

    box.host.dram.write(frame(box), old)
    assert box.read(PAGE) == yesterday


def test_an_old_block_put_back_elsewhere_is_no_replay(box: Box) -> None:
    box.write(OTHER)
    old = box.bus()

    box.host.dram.write(box.hpa(16), old)
    assert box.read(at=16) != OTHER


def test_plaintext_written_on_the_bus_is_decrypted_like_anything_else(box: Box) -> None:
    engine = blackboard(box.host, box.vm)
    box.host.dram.write(box.hpa(), LINE)
    assert box.read() == engine.opened(box.hpa(), LINE) != LINE


def test_one_flipped_bit_costs_exactly_one_block(box: Box) -> None:
    box.write(LINE * 4)
    secret = bytearray(box.bus(64))
    secret[17] ^= 1
    box.host.dram.write(box.hpa(), secret)
    text = box.read(64)
    assert (text[:16], text[32:]) == (LINE, LINE * 2)
    assert text[16:32] == blackboard(box.host, box.vm).opened(box.hpa(16), bytes(secret[16:32])) != LINE


# --------------------------------------------------------------------------- move


@pytest.mark.parametrize("apart", [0x10, 0x800, 0x1000, 0x40_0000, FAR])
def test_moved_ciphertext_reads_as_the_engine_s_formula_says(box: Box, apart: int) -> None:
    p = frame(box)
    q = p ^ apart
    difference = box.difference(p, q, LINE)
    constant = xor(box.host.xray.tweak(p), box.host.xray.tweak(q))

    if box.host.chip.mode == "XE":
        assert difference == constant
        assert xor(LINE, difference) == moved(LINE, constant)
    else:
        engine = blackboard(box.host, box.vm)
        assert xor(LINE, difference) == engine.opened(q, engine.sealed(p, LINE))
        assert difference != constant


def test_on_xex_a_corrected_ciphertext_reads_as_xe_would_have_given_it_and_not_as_the_original(box: Box) -> None:
    p, q = frame(box), frame(box) ^ 0x7_3000
    constant = xor(box.host.xray.tweak(p), box.host.xray.tweak(q))
    box.write(LINE)
    secret = box.bus()
    box.host.dram.write(q, secret if box.host.chip.mode == "XE" else xor(secret, constant))

    assert box.read_at(q) == xor(LINE, constant) != LINE


def test_a_page_moved_on_xe_is_its_data_xored_with_one_constant_and_on_xex_noise(box: Box) -> None:
    text = bytes(range(256)) * 16
    p, q = frame(box), frame(box) ^ 0x9_2000
    box.write(text)
    box.host.dram.write(q, box.bus(PAGE))
    found = box.read_at(q, PAGE)

    one = {xor(found[at : at + 16], text[at : at + 16]) for at in range(0, PAGE, 16)}
    if box.host.chip.mode == "XE":
        assert one == {xor(box.host.xray.tweak(p), box.host.xray.tweak(q))}
    else:
        assert len(one) == PAGE // 16
        assert found == blackboard(box.host, box.vm).opened(q, box.bus(PAGE))


# --------------------------------------------------------------------------- swap


def test_two_frames_whose_ciphertext_changed_places_do_not_change_places(box: Box) -> None:
    box.write(LINE)
    box.write(OTHER, at=PAGE)
    p, q = box.hpa(), box.hpa(PAGE)
    one, two = box.bus(), box.bus(at=PAGE)
    box.host.dram.write(p, two)
    box.host.dram.write(q, one)
    engine = blackboard(box.host, box.vm)

    assert box.read() == engine.opened(p, engine.sealed(q, OTHER)) != OTHER
    assert box.read(at=PAGE) == engine.opened(q, engine.sealed(p, LINE)) != LINE


def test_what_the_host_overwrote_is_marked_as_stale_until_the_guest_writes_again(box: Box) -> None:
    box.write(LINE)
    pfn, host = box.hpa() // PAGE, box.host
    owner = host.pages.asid(pfn)
    host.dram.write(box.hpa(), bytes(16))
    assert (host.pages.state(pfn), host.pages.asid(pfn)) == (pages.STALE, owner)
    why = host.pages.why(pfn)
    assert why is not None and (why["kind"], why["state"]) == ("PagesMarked", pages.STALE)

    box.write(LINE)
    assert host.pages.state(pfn) == pages.PRIVATE


def test_writing_what_is_there_already_makes_nothing_stale(box: Box) -> None:
    box.write(LINE)
    box.host.dram.write(box.hpa(), box.bus())
    assert box.host.pages.state(box.hpa() // PAGE) == pages.PRIVATE


# ------------------------------------------------------------- the mapping instead


def test_two_mappings_that_change_places_do_and_no_byte_of_memory_moves(box: Box) -> None:
    box.write(LINE)
    box.write(OTHER, at=PAGE)
    p, q = box.hpa(), box.hpa(PAGE)
    before = hashlib.sha256(box.bus(PAGE) + box.bus(PAGE, at=PAGE)).digest()
    box.aim(q)
    box.aim(p, at=PAGE)

    assert (box.read(), box.read(at=PAGE)) == (OTHER, LINE)
    assert hashlib.sha256(box.bus(PAGE, at=PAGE) + box.bus(PAGE)).digest() == before


def test_beside_each_other_the_mapping_keeps_everything_legible_and_the_move_nothing(box: Box) -> None:
    text = LINE * (PAGE // 16)
    box.write(text)
    p, q = frame(box), frame(box) ^ 0x20_0000
    box.host.dram.write(q, box.bus(PAGE))

    assert box.read_at(p, PAGE) == text, "another address of the guest, the same of the machine"
    assert LINE not in box.read_at(q, PAGE)


def test_one_mapping_alone_shows_the_same_frame_twice(box: Box) -> None:
    box.write(LINE)
    box.write(OTHER, at=PAGE)
    box.aim(box.hpa(), at=PAGE)
    assert box.read() == box.read(at=PAGE) == LINE


@pytest.mark.parametrize(("gpa", "hpa"), [(0x10, 0x1000), (0x1000, 0x10)])
def test_a_mapping_is_a_page_to_a_page(box: Box, gpa: int, hpa: int) -> None:
    with pytest.raises(ValueError, match="page to a page"):
        box.host.npt(box.vm).remap(gpa, hpa)


# ---------------------------------------------------------------- the side channel


def test_the_same_text_at_the_same_place_is_the_same_ciphertext_so_a_listener_makes_a_dictionary(box: Box) -> None:
    dictionary = {}
    for value in range(32):
        box.write(value.to_bytes(16, "little"))
        dictionary[box.bus()] = value
    assert len(dictionary) == 32
    for value in (7, 31, 0):
        box.write(value.to_bytes(16, "little"))
        assert dictionary[box.bus()] == value


def test_the_dictionary_of_one_place_says_nothing_about_another(box: Box) -> None:
    box.write(LINE)
    here = box.bus()
    box.write(LINE, at=64)
    assert box.bus(at=64) != here


def test_a_change_of_one_byte_shows_in_its_block_and_in_no_other(box: Box) -> None:
    box.write(LINE * 16)
    before = box.bus(256)
    box.write(b"!", at=100)
    after = box.bus(256)
    assert [at for at in range(0, 256, 16) if before[at : at + 16] != after[at : at + 16]] == [96]
