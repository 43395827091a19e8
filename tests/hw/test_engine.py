"""The memory engine: published answers, a reference written block by block, and what an attacker may count on."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hw.engine_reference import ReferenceEngine, xor
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sevlab import bulk
from sevlab.crypto import Stream
from sevlab.hw import chips
from sevlab.hw.dram import Dram
from sevlab.hw.engine import Engine, NoKey, tweak_constants
from sevlab.trace import Trace

KEY = bytes(range(16))
OTHER = bytes(range(100, 116))
MIB = 1 << 20
SIZE = 2 * MIB
XEX_NAPLES = dataclasses.replace(chips.NAPLES, mode="XEX")  # a 7401P: the constants of Naples, the other mode
ALL_CHIPS = (chips.NAPLES, XEX_NAPLES, chips.ROME, chips.MILAN)


def engine_of(chip: chips.Chip, size: int = SIZE, seed: int = 7) -> Engine:
    return Engine(chip, Stream(seed), Dram(size), Trace())


def pair_of(chip: chips.Chip, size: int = SIZE) -> tuple[Engine, ReferenceEngine]:
    """The engine and its reference, with the same two keys."""
    engine = engine_of(chip, size)
    constants = {bit: value.to_bytes(16, "little") for bit, value in tweak_constants(chip, Stream(7)).items()}
    reference = ReferenceEngine(constants, chip.mode, size)
    for asid, key in ((1, KEY), (9, OTHER)):
        engine.install(asid, key)
        reference.keys[asid] = key
    return engine, reference


def pattern(n: int, start: int = 0) -> bytes:
    """Bytes that are nowhere the same twice in a row of blocks."""
    return hashlib.shake_256(start.to_bytes(8, "little")).digest(n)


# ------------------------------------------------------------- vectors

# Key 00..0f under the constants of an EPYC 7251, as published with SEVurity (Wilke, Wichelmann, Morbitzer, Eisenbarth,
# 2020, host-kernels/16b-oracle, plaintext_gpa_database.c); the ciphertexts are vectors handed on with the specification.
MEMORY_VECTORS = [
    (0x1000, "b09230c2", "0" * 32, "1f1c7c424fddc1d134bc3ac5c2dd3f0c", "af8e4c80ff4ff113842e0a07724f0fce"),
    (0x1010, "32b708fa", "0" * 32, "3f0efe17d23e1bfcc007e5d669f0b316", "0db9f6ede0891306f2b0ed2c5b47bbec"),
    (0x7FFFE0, "5dd4dc53", b"sevlab plaintext".hex(), "e9dc043bd6ffd5c21858c464df8fe8bd", "b408d8688b2b0991458c1837825b34ee"),
    (0x12345670, "e44661d5", KEY.hex(), "618772c10e0d2b29ea62dff2a6074159", "85c11314ea4b4afc0e24be274241208c"),
]


@pytest.mark.parametrize(("hpa", "tweak", "plain", "xe", "xex"), MEMORY_VECTORS)
def test_a_block_under_the_published_constants_is_the_published_block(hpa: int, tweak: str, plain: str, xe: str, xex: str) -> None:
    """Origin: SEVurity's constants (see MEMORY_VECTORS)."""
    for chip, secret in ((chips.NAPLES, xe), (XEX_NAPLES, xex)):
        engine = engine_of(chip, 0x12346000)
        engine.install(1, KEY)
        engine.write(1, hpa, bytes.fromhex(plain))
        assert engine.tweak(hpa).hex() == 4 * tweak
        assert engine.dram.read(hpa, 16).hex() == secret
        engine.dram.write(hpa, bytes.fromhex(plain))
        engine.encrypt(1, hpa, 16)
        assert engine.dram.read(hpa, 16).hex() == secret
        assert engine.read(1, hpa, 16).hex() == plain


def test_ciphertext_moved_on_an_xe_engine_reads_as_the_text_and_the_difference_of_the_addresses() -> None:
    """Origin: the move identity of SEVurity, section 3, with its constants."""
    engine = engine_of(chips.NAPLES, 0x800000)
    engine.install(1, KEY)
    engine.write(1, 0x1000, b"sevlab plaintext")
    engine.dram.write(0x7FFFE0, engine.dram.read(0x1000, 16))
    assert engine.read(1, 0x7FFFE0, 16).hex() == "9e239afd8c24cce1812785ff992394e5"
    assert engine.read(1, 0x7FFFE0, 16) == xor(b"sevlab plaintext", engine.tweak(0x1000 ^ 0x7FFFE0))


def test_ciphertext_moved_on_an_xex_engine_needs_the_difference_of_the_addresses_first() -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    engine.write(1, 0x1000, b"sevlab plaintext")
    moved = engine.dram.read(0x1000, 16)
    delta = engine.tweak(0x1000 ^ 0x1FFFE0)
    engine.dram.write(0x1FFFE0, moved)
    assert engine.read(1, 0x1FFFE0, 16) != xor(b"sevlab plaintext", delta)
    engine.dram.write(0x1FFFE0, xor(moved, delta))
    assert engine.read(1, 0x1FFFE0, 16) == xor(b"sevlab plaintext", delta)


# ------------------------------------------------------------- against the reference

BORDERS = st.sampled_from([0, 0x10, 0xFF0, 0x1000, 0x3F000, 0x3FFF0, 0x40000, 0x7F000, 0x80000, 0xC0000, 0x100000])
ADDRESSES = st.one_of(
    st.builds(lambda border, offset: max(0, border + offset), BORDERS, st.integers(-40, 40)), st.integers(0, SIZE - 0x40000)
)
SIZES = st.one_of(st.integers(0, 300), st.sampled_from([0x1000, 0x1010, 0x2000, 0x3FF0, 0x10000]), st.integers(0, 0x3000))
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["read", "write", "encrypt", "decrypt", "seal"]), st.sampled_from([0, 1, 9]), ADDRESSES, SIZES),
    min_size=1,
    max_size=8,
)


def play(engine: Engine, reference: ReferenceEngine, script: list[tuple[str, int, int, int]]) -> None:
    for number, (what, asid, hpa, n) in enumerate(script):
        if what == "read":
            assert engine.read(asid, hpa, n) == reference.read(asid, hpa, n)
        elif what == "write":
            data = pattern(n, number)
            engine.write(asid, hpa, data)
            reference.write(asid, hpa, data)
        elif asid:
            hpa, n = hpa & -16, n & -16
            if what == "seal":
                digest = hashlib.sha256()
                expected = hashlib.sha256(reference.memory[hpa : hpa + n]).digest()
                engine.seal(asid, hpa, n, digest)
                reference.encrypt(asid, hpa, n)
                assert digest.digest() == expected
            else:
                getattr(engine, what)(asid, hpa, n)
                getattr(reference, what)(asid, hpa, n)
    assert bytes(engine.dram.view(0, SIZE)) == bytes(reference.memory)


@pytest.mark.parametrize("chip", ALL_CHIPS, ids=lambda chip: f"{chip.name}-{chip.mode}")
@settings(max_examples=40)
@given(script=OPERATIONS)
@example(script=[("write", 1, 0x3FFF1, 0x20), ("encrypt", 9, 0x3FFF0, 0x20), ("read", 9, 0x3FFFF, 2)])
def test_every_access_is_what_the_reference_does(chip: chips.Chip, script: list[tuple[str, int, int, int]]) -> None:
    play(*pair_of(chip), script)


@pytest.mark.parametrize("chip", [chips.NAPLES, chips.ROME], ids=lambda chip: chip.mode)
@settings(max_examples=15)
@given(script=OPERATIONS)
def test_the_same_holds_where_the_library_has_no_xts_to_stand_in(chip: chips.Chip, script: list[tuple[str, int, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "xts_contexts", lambda key: None)
        engine, reference = pair_of(chip)
    assert not engine._slots[1].streamed
    play(engine, reference, script)


@pytest.mark.parametrize("chip", [chips.NAPLES, chips.ROME], ids=lambda chip: chip.mode)
@pytest.mark.parametrize(("hpa", "n"), [(0, 0xC0000), (0x3F000, 0x82000), (0x5A30, 0x90010), (0x80000, 0x40000)])
def test_a_long_range_over_several_chunks_is_what_the_reference_does(chip: chips.Chip, hpa: int, n: int) -> None:
    engine, reference = pair_of(chip)
    data = pattern(n)
    for first in (hpa, 0x100000, hpa):  # there, elsewhere and back: tables that are kept must not go stale
        engine.write(1, first, data)
        assert engine.read(1, first, n) == data
    reference.write(1, hpa, data)
    assert engine.dram.read(hpa, n) == bytes(reference.memory[hpa : hpa + n])
    assert engine.read(1, hpa + 1, n - 2) == data[1:-1]


@pytest.mark.parametrize("chip", [chips.NAPLES, chips.ROME], ids=lambda chip: chip.mode)
def test_scattered_frames_in_one_call_are_each_at_their_own_address(chip: chips.Chip) -> None:
    engine, reference = pair_of(chip)
    data = pattern(SIZE)
    engine.dram.write(0, data)
    reference.memory[:] = data
    pfns = [(7 * i + 3) % 256 for i in range(70)]
    engine.crypt_frames(1, pfns, encrypt=True)
    for pfn in pfns:
        reference.encrypt(1, pfn * 4096, 4096)
    assert bytes(engine.dram.view(0, SIZE)) == bytes(reference.memory)
    engine.crypt_frames(1, pfns[::-1], encrypt=False)
    assert bytes(engine.dram.view(0, SIZE)) == data


def test_many_pages_do_not_wear_out_the_tables_that_are_kept() -> None:
    engine = engine_of(chips.ROME, 16 * MIB)
    engine.install(1, KEY)
    for page in range(2500):
        engine.write(1, page * 4096, pattern(4096, page))
    for small in range(0, 9000 * 16, 16):
        engine.read(1, small, 16)
    for page in range(0, 2500, 97):
        assert engine.read(1, page * 4096, 4096) == pattern(4096, page)
        assert engine.read(1, page * 4096 + 8, 8) == pattern(4096, page)[8:16]


# ------------------------------------------------------------- refusals


@pytest.mark.parametrize("access", ["read", "write", "encrypt", "decrypt", "seal", "remove", "frames"])
def test_a_slot_without_a_key_is_refused(access: str) -> None:
    engine = engine_of(chips.ROME)
    calls = {
        "read": lambda: engine.read(4, 0, 16),
        "write": lambda: engine.write(4, 0, bytes(16)),
        "encrypt": lambda: engine.encrypt(4, 0, 16),
        "decrypt": lambda: engine.decrypt(4, 0, 16),
        "seal": lambda: engine.seal(4, 0, 16, hashlib.sha256()),
        "remove": lambda: engine.remove(4),
        "frames": lambda: engine.crypt_frames(4, [1], encrypt=True),
    }
    with pytest.raises(NoKey, match="key slot 4 has no key"):
        calls[access]()
    assert engine.dram.read(0, 4096) == bytes(4096)


def test_a_removed_key_is_gone() -> None:
    engine = engine_of(chips.ROME)
    engine.install(4, KEY)
    engine.remove(4)
    assert not engine.has(4)
    with pytest.raises(NoKey):
        engine.read(4, 0, 16)


@pytest.mark.parametrize("asid", [0, -1, 16, 510])
def test_a_slot_that_the_chip_has_not_is_refused(asid: int) -> None:
    with pytest.raises(ValueError, match="naples has key slots 1 to 15"):
        engine_of(chips.NAPLES).install(asid, KEY)


@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_a_key_of_another_length_is_refused_and_the_slot_stays_as_it_was(length: int) -> None:
    engine = engine_of(chips.ROME)
    with pytest.raises(ValueError, match="16 bytes"):
        engine.install(1, bytes(length))
    assert not engine.has(1)


@pytest.mark.parametrize(("hpa", "n"), [(8, 16), (0, 8), (0x1001, 0x1000), (0x1000, 0xFFF)])
@pytest.mark.parametrize("access", ["encrypt", "decrypt", "seal"])
def test_parts_of_blocks_are_refused_where_memory_is_changed_in_place(access: str, hpa: int, n: int) -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    with pytest.raises(ValueError, match="16-byte blocks"):
        engine.seal(1, hpa, n, hashlib.sha256()) if access == "seal" else getattr(engine, access)(1, hpa, n)
    assert bytes(engine.dram.view(0, 0x3000)) == bytes(0x3000)


@pytest.mark.parametrize(("hpa", "n"), [(SIZE, 16), (SIZE - 16, 32), (-16, 16), (-16, 32), (1 << 46, 16), (SIZE - 0x1000, 0x2000)])
def test_a_range_outside_dram_is_refused_and_nothing_is_touched(hpa: int, n: int) -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    calls = [
        lambda: engine.read(1, hpa, n),
        lambda: engine.write(1, hpa, bytes(n)),
        lambda: engine.encrypt(1, hpa, n),
        lambda: engine.seal(1, hpa, n, hashlib.sha256()),
        lambda: engine.read(0, hpa, n),
        lambda: engine.write(0, hpa, bytes(n)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not inside"):
            call()
    assert bytes(engine.dram.view(0, SIZE)) == bytes(SIZE)


@pytest.mark.parametrize("n", [-1, -3, -16, -400])
def test_a_negative_length_is_refused(n: int) -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    for hpa in (0x1000, 0x1005):
        with pytest.raises(ValueError, match="not inside"):
            engine.read(1, hpa, n)


def test_no_bytes_at_all_are_an_access_that_changes_nothing() -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    for hpa in (0, 5, SIZE):
        assert engine.read(1, hpa, 0) == b""
        engine.write(1, hpa, b"")
    engine.encrypt(1, 0x1000, 0)
    assert bytes(engine.dram.view(0, SIZE)) == bytes(SIZE)


def test_a_frame_that_comes_twice_or_lies_outside_is_refused() -> None:
    engine = engine_of(chips.ROME)
    engine.install(1, KEY)
    with pytest.raises(ValueError, match="twice"):
        engine.crypt_frames(1, [1, 2, 1], encrypt=True)
    for pfns in ([0, SIZE >> 12], [-1, 3]):
        with pytest.raises(ValueError, match="not inside"):
            engine.crypt_frames(1, pfns, encrypt=True)
    engine.crypt_frames(1, [], encrypt=True)
    assert bytes(engine.dram.view(0, SIZE)) == bytes(SIZE)
