"""Memory by the gigabyte, and tables that must equal their formula."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlab import bulk
from sevlab.bulk import CHUNK, PAGE, Key, Memory, Tweak, words_of

KEY = bytes(range(16))
MIB = 1 << 20
CONSTANTS = {bit: int.from_bytes(hashlib.sha256(b"constant %d" % bit).digest()[:16], "little") for bit in range(4, 48)}


def resident() -> int:
    """Bytes of this process that lie in real memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# ------------------------------------------------------------- memory


def test_memory_is_zero_until_it_is_written_and_writing_one_place_costs_one_page() -> None:
    memory = Memory(64 << 30)
    before = resident()
    for at in range(0, 64 << 30, 1 << 27):
        memory.view[at] = 1
    grown = resident() - before
    assert grown < 512 * 3 * PAGE + 8 * MIB  # 512 pages, and their page tables; with huge pages it would be a gigabyte
    assert memory.view[PAGE] == 0 and memory.view[(64 << 30) - 1] == 0


def test_memory_has_room_behind_it_for_ciphers_that_want_some() -> None:
    memory = Memory(PAGE)
    assert memory.size == PAGE
    assert len(memory.view) >= PAGE + 16
    assert len(Memory(100).view) >= 116


@pytest.mark.parametrize(("at", "n"), [(5, 0), (0, 1), (4095, 2), (100, 200_000), (PAGE, 1 << 18), (PAGE + 1, 1 << 18), (0, MIB)])
def test_zeroing_clears_a_range_and_nothing_beside_it(at: int, n: int) -> None:
    memory = Memory(MIB)
    memory.view[:MIB] = b"\xff" * MIB
    memory.zero(at, n)
    assert bytes(memory.view[:MIB]) == b"\xff" * at + bytes(n) + b"\xff" * (MIB - at - n)


def test_zeroing_a_long_run_gives_it_back_to_the_system() -> None:
    memory = Memory(64 * MIB)
    memory.view[: 64 * MIB] = b"\1" * (64 * MIB)
    before = resident()
    memory.zero(0, 64 * MIB)
    assert before - resident() > 60 * MIB


# ------------------------------------------------------------- the tweak and its tables


def plain_tweak(hpa: int) -> int:
    value = 0
    for bit, constant in CONSTANTS.items():
        if hpa >> bit & 1:
            value ^= constant
    return value


@given(st.integers(0, (1 << 48) - 1))
def test_the_tweak_is_the_xor_of_the_constants_of_the_address_s_bits(hpa: int) -> None:
    assert Tweak(CONSTANTS, xex=True).at(hpa) == plain_tweak(hpa)


def test_an_address_without_constants_has_no_tweak() -> None:
    assert Tweak({}, xex=True).at(0xFFFF_FFF0) == 0
    assert Tweak(CONSTANTS, xex=True).at(15) == 0


RANGES = st.tuples(
    st.one_of(st.integers(0, 1 << 16), st.sampled_from([CHUNK // 16 - 1, CHUNK // 16, 3 * CHUNK // 16 - 256, (1 << 36) // 16])),
    st.one_of(st.integers(1, 600), st.sampled_from([256, 4096, 12288, CHUNK // 16, 3 * CHUNK // 16 + 1])),
)


@pytest.mark.parametrize("xts", [True, False])
@settings(max_examples=60)
@given(ranges=st.lists(RANGES, min_size=1, max_size=6))
def test_a_table_is_the_formula_at_every_block_whatever_was_asked_before(xts: bool, ranges: list[tuple[int, int]]) -> None:
    tweak = Tweak(CONSTANTS, xex=True)
    key = Key(KEY, xts=xts)
    if key.streamed is not xts:
        pytest.skip("this library's XTS cannot stand in for ECB")
    memory = Memory(4 * CHUNK)
    for block, blocks in ranges:
        hpa, n = 16 * block, 16 * blocks
        memory.view[:n] = bytes(n)
        tweak.crypt(key, True, hpa, n, memory, 0)
        for at in {0, n - 16, n // 32 * 16, min(n - 16, -hpa % CHUNK), min(n - 16, -hpa % PAGE)}:
            t = plain_tweak(hpa + at).to_bytes(16, "little")
            middle = key.encrypt(t)
            assert bytes(memory.view[at : at + 16]) == bytes(a ^ b for a, b in zip(middle, t, strict=True))
        tweak.crypt(key, False, hpa, n, memory, 0)
        assert bytes(memory.view[:n]) == bytes(n)


@pytest.mark.parametrize("xex", [True, False])
@pytest.mark.parametrize("n", [16, 4096, 4112, CHUNK, CHUNK + 48])
def test_both_forms_of_the_cipher_agree_and_a_source_is_as_good_as_the_place_itself(xex: bool, n: int) -> None:
    text = hashlib.shake_256(b"text").digest(n)
    found = set()
    for xts in (True, False):
        for encrypt in (True, False):
            tweak, key = Tweak(CONSTANTS, xex=xex), Key(KEY, xts=xts)
            here, there = Memory(n), Memory(n)
            here.view[:n] = text
            tweak.crypt(key, encrypt, 0x7000, n, here, 0)
            tweak.crypt(key, encrypt, 0x7000, n, there, 0, words_of(text))
            assert here.view[:n] == there.view[:n]
            found.add((encrypt, bytes(here.view[:n])))
    assert len(found) == 2


@pytest.mark.parametrize("xex", [True, False])
@pytest.mark.parametrize("xts", [True, False])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 130])
def test_scattered_frames_are_what_they_are_one_by_one(xex: bool, xts: bool, count: int) -> None:
    tweak, key = Tweak(CONSTANTS, xex=xex), Key(KEY, xts=xts)
    together, single = Memory(MIB), Memory(MIB)
    for memory in (together, single):
        memory.view[:MIB] = hashlib.shake_256(b"frames").digest(MIB)
    pfns = [(37 * i + 11) % 256 for i in range(count)]
    tweak.crypt_frames(key, True, pfns, together)
    for pfn in pfns:
        tweak.crypt(key, True, pfn * PAGE, PAGE, single, pfn * PAGE)
    assert together.view == single.view
    tweak.crypt_frames(key, False, pfns, together)
    assert bytes(together.view[:MIB]) == hashlib.shake_256(b"frames").digest(MIB)


@pytest.mark.parametrize("length", [0, 8, 15, 17, 32])
def test_a_memory_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Key(bytes(length))


def test_where_xts_fails_its_test_the_key_works_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "xts_contexts", lambda key: None)
    assert not Key(KEY).streamed
