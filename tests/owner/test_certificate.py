"""One certificate and one signature: every rule has its sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sevlab import owner
from sevlab.abi import cert
from sevlab.abi.cert import SevCert

Make = Callable[..., dict[str, bytes]]
EMPTY = {"sig1_usage": cert.USAGE_INVALID, "sig1_algo": cert.ALGO_INVALID, "sig1": b""}


def spoilt(data: bytes, at: int, value: int | None = None) -> bytes:
    """A copy with one byte changed."""
    changed = bytearray(data)
    changed[at] = changed[at] ^ 1 if value is None else value
    return bytes(changed)


def changed(data: bytes, **fields: object) -> bytes:
    """A copy of a SEV certificate with some fields changed, unsigned again by that."""
    return SevCert.unpack(data).replace(**fields).pack()


def failing(verdict: owner.ChainVerdict) -> set[tuple[str, str]]:
    """The edges that were found wrong."""
    return {(edge.signer, edge.subject) for edge in verdict.edges if edge.ok is False}


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("pdh", {"version": 2}, "the PDH certificate has version 2: there is only version 1"),
        ("pek", {"version": 0}, "the PEK certificate has version 0: there is only version 1"),
        ("pdh", {"algo": cert.ALGO_ECDSA_SHA256}, "the PDH's algorithm is 0x2 (ECDSA-SHA256), it should be ECDH-SHA256"),
        ("oca", {"algo": cert.ALGO_ECDH_SHA256}, "the OCA's algorithm is 0x3 (ECDH-SHA256), it should be ECDSA-SHA256"),
        ("cek", {"algo": 0x77}, "the CEK's algorithm is 0x77 (unknown), it should be ECDSA-SHA256"),
        ("pek", {"usage": 0x1777}, "the file given as PEK is no PEK: its usage is 0x1777 (unknown), not 0x1002"),
        ("pdh", {"curve": cert.CURVE_P256}, "the PDH's curve is 1: SEV platforms use 2 (P-384)"),
        ("pdh", {"qx": cert.le72(5)}, "the PDH's public key is no point of P-384"),
        ("pdh", {"qx": b"\xff" * 72}, "the PDH's public key is no point of P-384"),
        ("pdh", {"sig1_algo": 0}, "a signature slot of the PDH is half filled: usage 0x1000 and algorithm 0 go together"),
        ("pdh", {"sig2_usage": 0}, "a signature slot of the PDH is half filled: usage 0x1000 and algorithm 0 go together"),
        ("pdh", {"sig1_usage": cert.USAGE_OCA}, "neither slot of the PDH holds a signature of the PEK by ECDSA-SHA256"),
        ("pdh", {"sig1_algo": cert.ALGO_ECDSA_SHA384}, "neither slot of the PDH holds a signature of the PEK by ECDSA-SHA256"),
        ("pdh", EMPTY, "the PDH is unsigned: both signature slots are empty (usage 0x1000)"),
        ("oca", {"sig1": bytes(512)}, "the OCA does not sign itself: its file was changed"),
        ("oca", {"sig1": b"\xff" * 512}, "the OCA does not sign itself: its file was changed"),
        ("oca", {"api_minor": 25}, "the OCA does not sign itself: its file was changed"),
    ],
)  # fmt: skip
def test_every_rule_about_a_platforms_certificate_has_its_sentence(
    name: str, fields: dict[str, object], reason: str, make_platform: Make
) -> None:
    files = make_platform()
    files[name] = changed(files[name], **fields)

    assert owner.verify_chain(files).reason == reason


@pytest.mark.parametrize(
    ("name", "at", "value", "reason"),
    [
        ("ark", 0x00, 2, "the ARK certificate has version 2: there is only version 1"),
        ("ask", 0x24, 0x77, "the file given as ASK is no ASK: its usage is 0x77 (unknown), not 0x13"),
        ("ark", 0x14, 0xFF, "the ARK does not sign itself: its file was changed: it names ff"),
        ("ask", 0x14, 0xFF, "the ASK was not signed by this ARK: it names ff"),
        ("ark", 0x3D, 0x08, "the ARK file cannot be read: an AMD certificate has 2048 or 4096 bits, this one 2048 and 4096"),
        ("ark", 0x3D, 0x00, "the ARK file cannot be read: an AMD certificate has 2048 or 4096 bits, this one 0 and 4096"),
        ("ask", 0x28, 1, "the ASK was not signed by this ARK"),
        ("ark", 0x440, None, "the ARK does not sign itself: its file was changed"),
        ("ask", 1599, None, "the ASK was not signed by this ARK"),
        ("cek", 0x41C, None, "the CEK was not signed by this ASK: it was changed, or belongs to another product line"),
    ],
)
def test_every_rule_about_amds_certificates_has_its_sentence(
    name: str, at: int, value: int | None, reason: str, make_platform: Make
) -> None:
    files = make_platform()
    files[name] = spoilt(files[name], at, value)

    assert owner.verify_chain(files).reason.startswith(reason)


def test_of_two_matching_slots_both_must_be_right(make_platform: Make) -> None:
    files = make_platform()
    files["pdh"] = changed(files["pdh"], sig2_usage=cert.USAGE_PEK, sig2_algo=cert.ALGO_ECDSA_SHA256, sig2=b"\1" * 512)

    assert failing(owner.verify_chain(files)) == {("pek", "pdh")}


def test_a_pek_that_only_its_owner_signed_is_refused(make_platform: Make) -> None:
    files = make_platform()
    files["pek"] = changed(files["pek"], sig2_usage=cert.USAGE_INVALID, sig2_algo=0, sig2=b"")
    verdict = owner.verify_chain(files)

    assert verdict.reason == "neither slot of the PEK holds a signature of the CEK by ECDSA-SHA256"
    assert failing(verdict) == {("cek", "pek")}


# ------------------------------------------------------------- two things wrong at once


def test_a_certificates_own_fault_is_told_before_its_signatures(make_platform: Make) -> None:
    files = make_platform()
    files["pek"] = changed(files["pek"], curve=cert.CURVE_P256, sig1=b"", sig2=b"")

    assert owner.verify_chain(files).reason == "the PEK's curve is 1: SEV platforms use 2 (P-384)"


def test_a_half_filled_slot_is_told_before_the_wrong_signature_beside_it(make_platform: Make) -> None:
    files = make_platform()
    files["pdh"] = changed(files["pdh"], sig1=b"\1" * 512, sig2_algo=cert.ALGO_ECDSA_SHA256)

    assert owner.verify_chain(files).reason.startswith("a signature slot of the PDH is half filled")
