"""What survives INIT: sealed by the chip, readable by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psp.machine import Machine

from sevlab.abi.sev import NV_LEN, Status
from sevlab.psp.rules import Refused
from sevlab.psp.store import EMPTY, Flash, Keys, seal, unseal

CUK = bytes(range(32))
KEYS = Machine().up().psp.keys


def test_what_is_sealed_is_found_again() -> None:
    area = seal(KEYS, CUK)

    assert len(area) == NV_LEN
    assert repr(unseal(area, CUK)) == repr(KEYS)


@pytest.mark.parametrize("kept", [{"oca"}, {"oca", "pek"}, set()])
def test_keys_that_are_absent_stay_absent(kept: set[str]) -> None:
    keys = Keys(1, **{kind: getattr(KEYS, kind) for kind in kept}, pdhs_made=77)

    assert repr(unseal(seal(keys, CUK), CUK)) == repr(keys)


def test_an_area_of_ones_holds_nothing() -> None:
    assert unseal(EMPTY, CUK) == Keys()


@given(st.integers(0, 8 * NV_LEN - 1))
@settings(max_examples=50)
def test_any_one_bit_changed_is_noticed(bit: int) -> None:
    area = bytearray(seal(KEYS, CUK))
    area[bit // 8] ^= 1 << bit % 8

    with pytest.raises(Refused) as no:
        unseal(bytes(area), CUK)
    assert no.value.status is Status.SECURE_DATA_INVALID


@pytest.mark.parametrize("area", [bytes(NV_LEN), EMPTY[:-1] + b"\0", b"\0" + EMPTY[1:]])
def test_what_no_chip_wrote_is_refused(area: bytes) -> None:
    with pytest.raises(Refused):
        unseal(area, CUK)


def test_another_chip_cannot_read_it() -> None:
    with pytest.raises(Refused):
        unseal(seal(KEYS, CUK), bytes(32))


def test_no_private_key_and_no_certificate_lies_open_in_the_area() -> None:
    area = seal(KEYS, CUK)

    for key in (KEYS.oca, KEYS.pek, KEYS.pdh):
        assert key is not None
        assert key.d.to_bytes(48, "big") not in area
        assert key.cert.qx[:48] not in area


def test_two_contents_share_no_key_stream() -> None:
    assert seal(KEYS, CUK)[:16] != seal(KEYS._replace(owner=1), CUK)[:16]
    assert seal(KEYS, CUK) == seal(KEYS, CUK)


@pytest.mark.parametrize("size", [0, 1, NV_LEN - 1, NV_LEN + 1])
def test_a_flash_of_another_size_is_no_flash(size: int) -> None:
    with pytest.raises(ValueError, match="32768 bytes"):
        Flash(bytes(size))


def test_counters_never_go_back() -> None:
    ahead, behind = Keys(ocas_made=3, pdhs_made=1), Keys(ocas_made=1, peks_made=2, pdhs_made=1)

    assert behind.counting(ahead) == ahead.counting(behind) == Keys(ocas_made=3, peks_made=2, pdhs_made=1)
