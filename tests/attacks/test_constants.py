"""The tweak's constants from what a guest reads: all that were published, by linear algebra over GF(2)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from attack_rig import MEMORY
from hypothesis import given
from hypothesis import strategies as st

from sevlab import Host, chips
from sevlab.hw.chips import NAPLES_TWEAKS
from sevlab.lab.tweak import Box, Underdetermined, solve_tweaks, tweak_of, xor

BITS = range(4, 32)
PUBLISHED = {bit: bytes.fromhex(NAPLES_TWEAKS[bit]) * 4 for bit in BITS}


def pairs_from(host: Host, count: int, seed: int = 5) -> list[tuple[int, bytes]]:
    """What a guest reads of a known line whose ciphertext was copied from frame to frame, wherever frames happen to be."""
    box, random = Box(host), Random(seed)
    found = []
    for _ in range(count):
        p, q = (random.randrange(1 << 28, 1 << 32) & -16 for _ in range(2))
        found.append((p ^ q, box.difference(p, q, b"a line one knows")))
    return found


def test_forty_copies_between_scattered_frames_give_all_28_published_constants() -> None:
    with Host("naples", seed=4, memory=MEMORY) as host:
        found = solve_tweaks(pairs_from(host, 40))
    assert found == PUBLISHED


def test_one_pair_that_differs_in_one_bit_is_that_bit_s_constant() -> None:
    with Host("naples", seed=4, memory=MEMORY) as host:
        assert Box(host).difference(1 << 30, 1 << 30 | 1 << 17) == PUBLISHED[17]


def test_constants_that_a_bios_update_has_changed_are_found_as_well_and_are_others() -> None:
    with Host(replace(chips.NAPLES, tweaks={}), seed=9, memory=MEMORY) as host:
        found = solve_tweaks(pairs_from(host, 40))
        assert found == {bit: host.xray.tweak(1 << bit) for bit in BITS}
    assert found != PUBLISHED


@pytest.mark.parametrize("chip", ["rome", "milan"])
def test_an_xex_engine_gives_no_linear_system(chip: str) -> None:
    with Host(chip, seed=4, memory=MEMORY) as host, pytest.raises(ValueError, match="contradict"):
        solve_tweaks(pairs_from(host, 40))


def test_too_few_pairs_say_which_constants_were_never_apart() -> None:
    with pytest.raises(Underdetermined, match="rank 2 of 3: t_4 and t_5 only ever appear together") as no:
        solve_tweaks([(0x30, bytes(16)), (0x40, b"\1" * 16)])
    assert (no.value.rank, no.value.wanted, no.value.together) == (2, 3, [4, 5])


def test_no_pairs_no_constants() -> None:
    assert solve_tweaks([]) == {}


def test_a_pair_read_wrongly_is_found_out_as_soon_as_another_one_depends_on_it() -> None:
    with pytest.raises(ValueError, match="contradict"):
        solve_tweaks([(0x10, b"\1" * 16), (0x20, b"\2" * 16), (0x30, b"\4" * 16)])


def test_two_lengths_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        xor(b"ab", b"a")


def test_an_address_with_a_bit_nobody_knows_has_no_tweak() -> None:
    with pytest.raises(KeyError):
        tweak_of(PUBLISHED, 1 << 40)


@given(st.dictionaries(st.integers(4, 40), st.binary(min_size=16, max_size=16), min_size=1), st.randoms(use_true_random=False))
def test_whatever_the_constants_enough_pairs_give_them_back(constants: dict[int, bytes], random: Random) -> None:
    bits = sorted(constants)
    masks = [1 << bits[0]] + [1 << low | 1 << high for low, high in pairwise(bits)]
    random.shuffle(masks)
    assert solve_tweaks((mask, tweak_of(constants, mask)) for mask in masks) == dict(sorted(constants.items()))
