"""How the firmware judges certificates, on real chips' and on spoilt ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from psp.machine import Machine, off_curve, owner_cert, owner_oca

from sevlab.abi.cert import SevCert, le72
from sevlab.abi.sev import Status
from sevlab.psp.identity import signed
from sevlab.psp.rules import Refused
from sevlab.psp.validate import accept_owner, good_key, validate

KEYS = Machine().up().psp.keys
assert KEYS.oca and KEYS.pek and KEYS.pdh
OCA, PEK, PDH = KEYS.oca.cert, KEYS.pek.cert, KEYS.pdh.cert
CEK = Machine().psp.identity.cek.cert


def refuses(check: Callable[..., None], *certs: SevCert) -> Status:
    with pytest.raises(Refused) as no:
        check(*certs)
    return no.value.status


@pytest.mark.parametrize("chip", ["naples", "rome"])
def test_the_chain_of_a_real_chip_is_good_in_every_link(shared: Path, chip: str) -> None:
    """Origin: certificates of two real chips, public test data of virtee/sev."""
    oca, pek, pdh, cek = (
        SevCert.unpack((shared / "data/certs" / chip / f"{kind}.cert").read_bytes()) for kind in ("oca", "pek", "pdh", "cek")
    )

    for cert, parent in ((oca, oca), (pek, oca), (pek, cek), (pdh, pek)):
        validate(cert, parent)
    assert refuses(validate, pdh, oca) is Status.INVALID_CERTIFICATE


@pytest.mark.parametrize(("cert", "parent"), [(OCA, OCA), (PEK, OCA), (PEK, CEK), (PDH, PEK)])
def test_our_own_chain_is_good_in_every_link(cert: SevCert, parent: SevCert) -> None:
    validate(cert, parent)


@pytest.mark.parametrize(
    ("cert", "parent"), [(OCA, PEK), (OCA, CEK), (PEK, PDH), (PEK, PEK), (PDH, OCA), (PDH, CEK), (CEK, OCA), (CEK, CEK)]
)
def test_a_parent_that_signed_nothing_here_is_refused(cert: SevCert, parent: SevCert) -> None:
    assert refuses(validate, cert, parent) is Status.INVALID_CERTIFICATE


def test_either_slot_will_do() -> None:
    swapped = PEK.replace(
        sig1_usage=PEK.sig2_usage,
        sig1_algo=PEK.sig2_algo,
        sig1=PEK.sig2,
        sig2_usage=PEK.sig1_usage,
        sig2_algo=PEK.sig1_algo,
        sig2=PEK.sig1,
    )

    validate(swapped, OCA)
    validate(swapped, CEK)


@pytest.mark.parametrize("half", [{"sig2_usage": 0x1000}, {"sig2_algo": 0}, {"sig1_usage": 0x1000}, {"sig1_algo": 0}])
def test_a_slot_that_is_half_empty_is_a_bad_signature(half: dict[str, int]) -> None:
    assert refuses(validate, PEK.replace(**half), OCA) is Status.BAD_SIGNATURE


@pytest.mark.parametrize("byte", [0, 47, 72, 119])
def test_a_changed_signature_is_a_bad_one(byte: int) -> None:
    slot = bytearray(PDH.sig1)
    slot[byte] ^= 1

    assert refuses(validate, PDH.replace(sig1=bytes(slot)), PEK) is Status.BAD_SIGNATURE


@pytest.mark.parametrize("field", ["api_major", "api_minor", "reserved", "usage", "algo", "version"])
def test_a_changed_body_is_a_bad_signature_before_it_is_anything_else(field: str) -> None:
    assert refuses(validate, PDH.replace(**{field: 9}), PEK) is Status.BAD_SIGNATURE


def test_when_both_slots_name_the_parent_both_must_be_right() -> None:
    both = PDH.replace(sig2_usage=PDH.sig1_usage, sig2_algo=PDH.sig1_algo, sig2=PDH.sig1)
    validate(both, PEK)

    assert refuses(validate, both.replace(sig2=bytes(512)), PEK) is Status.BAD_SIGNATURE


def test_an_owner_may_sign_a_pek_and_no_pdh() -> None:
    oca = owner_oca()

    validate(signed(PEK, 1, oca), oca.cert)
    assert refuses(validate, signed(PDH, 1, oca), oca.cert) is Status.INVALID_CERTIFICATE


@pytest.mark.parametrize("bad", [off_curve(), {"curve": 0}, {"curve": 1}, {"qx": le72(0), "qy": le72(0)}, {"qx": b"\xff" * 72}])
def test_a_signing_key_that_is_none_is_an_invalid_certificate(bad: dict[str, bytes]) -> None:
    assert not good_key(OCA.replace(**bad))
    assert refuses(validate, PEK, OCA.replace(**bad)) is Status.INVALID_CERTIFICATE


@pytest.mark.parametrize("bad", [off_curve(), {"curve": 1}, {"version": 2}])
def test_a_well_signed_certificate_of_what_is_no_key_is_an_invalid_certificate(bad: dict[str, bytes]) -> None:
    assert KEYS.pek is not None

    assert refuses(validate, signed(PDH.replace(**bad), 1, KEYS.pek), PEK) is Status.INVALID_CERTIFICATE


def test_an_owners_certificate_is_taken_whoever_signed_it() -> None:
    cert = owner_cert()

    accept_owner(cert)
    accept_owner(cert.replace(sig1_usage=0x1002, sig1_algo=2, sig1=b"\x55" * 512))
    accept_owner(PDH)  # another platform's will do too


@pytest.mark.parametrize(
    "bad", [{"version": 0}, {"version": 2}, {"usage": 0x1002}, {"algo": 2}, {"algo": 0x103}, {"curve": 1}, off_curve()]
)
def test_an_owners_certificate_that_is_no_dh_key_is_refused(bad: dict[str, int]) -> None:
    assert refuses(accept_owner, owner_cert().replace(**bad)) is Status.INVALID_CERTIFICATE
