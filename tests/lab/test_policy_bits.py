"""The policy word as a table."""

from __future__ import annotations

import pytest

from sevlab.abi.sev import POLICY_BITS
from sevlab.lab import policy_bits
from sevlab.lab.policy import MEANING


def test_every_bit_that_means_something_is_explained() -> None:
    assert set(MEANING) == set(POLICY_BITS)


@pytest.mark.parametrize(("policy", "names"), [(0, []), (1, ["NODBG"]), (0x18000009, ["NODBG", "NOSEND"]), (5, ["NODBG", "ES"])])
def test_a_bit_that_is_set_shows_as_one(policy: int, names: list[str]) -> None:
    rows = [line.split() for line in policy_bits(policy).text.splitlines()[2:8]]

    assert [row[2] for row in rows if row[1] == "1"] == names


def test_the_upper_half_is_the_oldest_firmware() -> None:
    assert policy_bits(0x18000009).text.splitlines()[-1].endswith("firmware 0.24 or newer")
    assert policy_bits(0x37010001).text.splitlines()[-1].endswith("firmware 1.55 or newer")


def test_reserved_bits_that_are_set_are_seen() -> None:
    assert "6-15   1" in policy_bits(0x40).text
