"""The engine's laws: what holds for every key, address and length."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hw.engine_reference import xor
from hypothesis import given
from hypothesis import strategies as st

from sevlab.crypto import Stream
from sevlab.hw import chips
from sevlab.hw.dram import Dram
from sevlab.hw.engine import Encrypted, Engine, KeyInstalled, KeyRemoved, tweak_constants
from sevlab.trace import Trace

KEY = bytes(range(16))
OTHER = bytes(range(100, 116))
MIB = 1 << 20
SIZE = 2 * MIB
XEX_NAPLES = dataclasses.replace(chips.NAPLES, mode="XEX")  # a 7401P: the constants of Naples, the other mode
ALL_CHIPS = (chips.NAPLES, XEX_NAPLES, chips.ROME, chips.MILAN)


def engine_of(chip: chips.Chip, size: int = SIZE, seed: int = 7) -> Engine:
    return Engine(chip, Stream(seed), Dram(size), Trace())


def pattern(n: int, start: int = 0) -> bytes:
    """Bytes that are nowhere the same twice in a row of blocks."""
    return hashlib.shake_256(start.to_bytes(8, "little")).digest(n)


HPAS = st.integers(0, (1 << 47) - 1)


@pytest.mark.parametrize("chip", ALL_CHIPS, ids=lambda chip: f"{chip.name}-{chip.mode}")
@given(addresses=st.lists(st.tuples(HPAS, HPAS), min_size=1, max_size=20))
def test_the_tweak_is_linear_in_the_address(chip: chips.Chip, addresses: list[tuple[int, int]]) -> None:
    engine = engine_of(chip, 4096)
    for p, q in addresses:
        assert xor(engine.tweak(p), engine.tweak(q)) == xor(engine.tweak(p ^ q), engine.tweak(0))
        assert engine.tweak(p) == engine.tweak(p & -16)
    assert engine.tweak(0) == bytes(16)


@pytest.mark.parametrize("chip", ALL_CHIPS, ids=lambda chip: f"{chip.name}-{chip.mode}")
def test_no_two_addresses_of_a_large_host_share_a_tweak(chip: chips.Chip) -> None:
    """Full rank: the constants of all address bits below 64 GiB are independent over GF(2)."""
    span: list[int] = []
    for bit, value in tweak_constants(chip, Stream(7)).items():
        for row in sorted(span, reverse=True):
            value = min(value, value ^ row)
        assert value or bit >= 36
        if value:
            span.append(value)
    assert len(span) == (44 if chip.tweak_bytes == 16 else 32)


def test_naples_has_the_published_constants_whatever_the_seed_and_its_unmeasured_ones_from_the_seed() -> None:
    one, two = tweak_constants(chips.NAPLES, Stream(1)), tweak_constants(chips.NAPLES, Stream(2))
    assert [one[bit] for bit in range(4, 32)] == [two[bit] for bit in range(4, 32)]
    assert one[32] != two[32]
    assert one[32].to_bytes(16, "little") == one[32].to_bytes(16, "little")[:4] * 4


def test_rome_has_fresh_constants_at_each_boot_and_the_same_for_the_same_seed() -> None:
    one, two = tweak_constants(chips.ROME, Stream(1)), tweak_constants(chips.ROME, Stream(2))
    assert not set(one.values()) & set(two.values())
    assert one == tweak_constants(chips.ROME, Stream(1))


@pytest.mark.parametrize("chip", ALL_CHIPS, ids=lambda chip: f"{chip.name}-{chip.mode}")
def test_the_same_text_at_one_address_is_the_same_ciphertext_again_and_nowhere_else(chip: chips.Chip) -> None:
    engine = engine_of(chip)
    engine.install(1, KEY)
    engine.install(2, OTHER)
    seen = set()
    for asid, hpa in ((1, 0x1000), (1, 0x1010), (1, 0x2000), (2, 0x1000)):
        engine.write(asid, hpa, bytes(16))
        seen.add(engine.dram.read(hpa, 16))
    assert len(seen) == 4
    engine.write(1, 0x1000, b"something else..")
    engine.write(1, 0x1000, bytes(16))
    assert engine.dram.read(0x1000, 16) in seen  # what the ciphertext side channel lives on


def test_an_old_page_put_back_is_the_old_text_because_nothing_is_fresh() -> None:
    engine = engine_of(chips.MILAN)
    engine.install(1, KEY)
    engine.write(1, 0x5000, b"balance: 1000 ...")
    old = engine.dram.read(0x5000, 32)
    engine.write(1, 0x5000, b"balance: 0    ...")
    engine.dram.write(0x5000, old)
    assert engine.read(1, 0x5000, 17) == b"balance: 1000 ..."


def test_the_c_bit_is_no_part_of_the_address() -> None:
    for chip in ALL_CHIPS:
        engine = engine_of(chip)
        engine.install(1, KEY)
        marked = 0x7000 | 1 << chip.c_bit
        assert engine.tweak(marked) == engine.tweak(0x7000)
        engine.write(1, marked, b"sixteen bytes ..")
        assert engine.read(1, 0x7000, 16) == b"sixteen bytes .."
        assert engine.read(0, marked, 16) == engine.dram.read(0x7000, 16)
        engine.decrypt(1, marked, 16)
        assert engine.dram.read(0x7000, 16) == b"sixteen bytes .."
        engine.seal(1, marked, 16, hashlib.sha256())
        engine.decrypt(1, 0x7000, 16)
        engine.encrypt(1, marked, 16)
        assert engine.read(1, marked, 16) == b"sixteen bytes .."


def test_slot_zero_passes_bytes_as_they_are() -> None:
    engine = engine_of(chips.ROME)
    engine.write(0, 0x1003, b"plain")
    assert engine.read(0, 0x1003, 5) == engine.dram.read(0x1003, 5) == b"plain"
    assert not engine.has(0)


def test_a_new_key_in_a_slot_turns_the_old_text_into_noise() -> None:
    engine = engine_of(chips.ROME)
    engine.install(3, KEY)
    engine.write(3, 0x2000, b"for one guest only")
    engine.install(3, OTHER)
    assert engine.read(3, 0x2000, 18) != b"for one guest only"
    engine.install(3, KEY)
    assert engine.read(3, 0x2000, 18) == b"for one guest only"


def test_sealing_in_two_pieces_is_sealing_at_once() -> None:
    text = pattern(0x50000)
    whole, pieces = engine_of(chips.ROME), engine_of(chips.ROME)
    digests = [hashlib.sha256(), hashlib.sha256()]
    for engine in (whole, pieces):
        engine.install(1, KEY)
        engine.dram.write(0x3000, text)
    whole.seal(1, 0x3000, len(text), digests[0])
    pieces.seal(1, 0x3000, 0x12340, digests[1])
    pieces.seal(1, 0x15340, len(text) - 0x12340, digests[1])
    assert digests[0].digest() == digests[1].digest() == hashlib.sha256(text).digest()
    assert whole.dram.read(0, 0x60000) == pieces.dram.read(0, 0x60000)


def test_nothing_outside_a_range_changes() -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    marks = pattern(SIZE)
    engine.dram.write(0, marks)
    engine.encrypt(1, SIZE - 0x50010, 0x50010)  # up to the last byte of DRAM: ciphers want room behind their output
    engine.encrypt(1, 0x1000, 0x1000)
    assert engine.dram.read(0, 0x1000) == marks[:0x1000]
    assert engine.dram.read(0x2000, SIZE - 0x52010) == marks[0x2000 : SIZE - 0x50010]
    assert engine.read(1, SIZE - 16, 16) == marks[-16:]


def test_keys_come_and_go_in_the_trace_and_the_key_itself_does_not() -> None:
    engine = engine_of(chips.ROME)
    engine.install(5, KEY)
    engine.encrypt(5, 0x1000, 0x2000)
    engine.remove(5)
    rows = engine.trace.rows()
    assert [row["kind"] for row in rows] == [event.__name__ for event in (KeyInstalled, Encrypted, KeyRemoved)]
    assert rows[1]["hpa"] == 0x1000 and rows[1]["size"] == 0x2000 and rows[1]["asid"] == 5
    assert all(KEY not in engine.trace.packed(event)[0] for event in (KeyInstalled, Encrypted, KeyRemoved))
