"""Certificates: the bytes of real chains, and files that are none."""

from __future__ import annotations

from hashlib import sha384
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi import cert
from sevlab.abi.cert import (
    AMD_ROOTS,
    AmdCert,
    SevCert,
    ecdsa_numbers,
    ecdsa_slot,
    from_le72,
    le72,
    parse_amd_cert,
    parse_ca,
    parse_cert,
    rsa_slot,
)

CHIPS = ("naples", "rome")
# firmware.md 4.2: what real chains contain. The usage, the algorithm, the API of the firmware that made it, its signers.
ROLES = {
    "oca": (cert.USAGE_OCA, cert.ALGO_ECDSA_SHA256, {cert.USAGE_OCA}),
    "pek": (cert.USAGE_PEK, cert.ALGO_ECDSA_SHA256, {cert.USAGE_OCA, cert.USAGE_CEK}),
    "pdh": (cert.USAGE_PDH, cert.ALGO_ECDH_SHA256, {cert.USAGE_PEK}),
    "cek": (cert.USAGE_CEK, cert.ALGO_ECDSA_SHA256, {cert.USAGE_ASK}),
}


def the(shared: Path, chip: str, name: str) -> bytes:
    return (shared / "data/certs" / chip / f"{name}.cert").read_bytes()


# ----------------------------------------------- vectors: the chains of two real chips


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", ROLES)
def test_a_real_certificate_reads_as_its_role_and_packs_to_its_own_bytes(shared: Path, chip: str, name: str) -> None:
    data = the(shared, chip, name)
    parsed = parse_cert(data)
    assert isinstance(parsed, SevCert)
    usage, algo, signers = ROLES[name]

    assert (parsed.version, parsed.usage, parsed.algo, parsed.curve) == (1, usage, algo, cert.CURVE_P384)
    assert {signer for signer, _, _ in parsed.signatures} - {cert.USAGE_INVALID} == signers
    assert not any(parsed.pad) and max(parsed.public) < 1 << 384
    assert parsed.pack() == data and parsed.signed_bytes == data[:1044]


@pytest.mark.parametrize(("chip", "api"), [("naples", (0, 16)), ("rome", (0, 22))])
def test_a_real_pdh_carries_the_api_of_the_firmware_that_made_it(shared: Path, chip: str, api: tuple[int, int]) -> None:
    pdh = SevCert.unpack(the(shared, chip, "pdh"))

    assert (pdh.api_major, pdh.api_minor) == api


@pytest.mark.parametrize(("chip", "algo"), [("naples", cert.ALGO_RSA_SHA256), ("rome", cert.ALGO_RSA_SHA384)])
def test_a_real_cek_is_signed_by_an_ask_with_the_hash_of_its_size(shared: Path, chip: str, algo: int) -> None:
    cek = SevCert.unpack(the(shared, chip, "cek"))

    assert (cek.sig1_usage, cek.sig1_algo, cek.sig2_usage) == (cert.USAGE_ASK, algo, cert.USAGE_INVALID)
    assert cert.algo_hash(algo) == ("sha384" if chip == "rome" else "sha256")


@pytest.mark.parametrize(("chip", "bits", "size"), [("naples", 2048, 832), ("rome", 4096, 1600)])
def test_a_real_root_reads_as_its_product_line_and_packs_to_its_own_bytes(shared: Path, chip: str, bits: int, size: int) -> None:
    ark_data, ask_data = the(shared, chip, "ark"), the(shared, chip, "ask")
    ask, ark = parse_ca(ask_data + ark_data)
    root = AMD_ROOTS[chip.title()]

    assert (ark.bits, ark.size, ark.e) == (bits, size, 65537)
    assert (ark.header.key_id, ask.header.key_id) == (root.ark_id, root.ask_id)
    assert ark.header.certifying_id == ask.header.certifying_id == root.ark_id
    assert (ark.header.key_usage, ask.header.key_usage) == (cert.USAGE_ARK, cert.USAGE_ASK)
    assert (ark.pack(), ask.pack()) == (ark_data, ask_data)
    assert parse_cert(ark_data) == ark
    assert sha384(ark.signed_bytes).digest() == root.ark_sha384


@pytest.mark.parametrize(("chip", "exponent_hash"), [("naples", "sha256"), ("rome", "sha384")])
def test_a_real_ark_signs_itself(shared: Path, chip: str, exponent_hash: str) -> None:
    """RSA by hand: the trailer byte of EMSA-PSS stands where only the right key and byte order put it."""
    ark = parse_amd_cert(the(shared, chip, "ark"))
    encoded = pow(int.from_bytes(ark.signature, "little"), ark.e, ark.n).to_bytes(ark.bits // 8, "big")

    assert encoded[-1] == 0xBC and ark.hash == exponent_hash


def test_the_public_naples_ark_without_its_signature_is_read_and_says_so(shared: Path) -> None:
    """AMD's own ask_ark_naples.cert ends after the ARK's modulus: 832 + 576 bytes."""
    ask, ark = parse_ca(the(shared, "naples", "ask") + the(shared, "naples", "ark")[:576])

    assert ark.signature == b"" and ask.signature != b""
    assert len(ark.pack()) == 576 and ark.size == 832


# -------------------------------------------------------------------------- numbers


@given(st.integers(0, (1 << 384) - 1), st.integers(0, (1 << 384) - 1))
def test_a_signature_slot_gives_back_its_two_numbers(r: int, s: int) -> None:
    slot = ecdsa_slot(r, s)

    assert len(slot) == 512 and not any(slot[144:])
    assert ecdsa_numbers(slot) == (r, s) and from_le72(le72(r)) == r


def test_an_rsa_signature_is_stored_backwards() -> None:
    assert rsa_slot(bytes(range(256)))[:2] == b"\xff\xfe" and len(rsa_slot(bytes(256))) == 512


def test_a_fresh_certificate_has_two_empty_slots() -> None:
    assert [signature[:2] for signature in SevCert().signatures] == [(0x1000, 0), (0x1000, 0)]
    assert SevCert().version == 1 and len(SevCert().pack()) == 2084


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("length", [0, 64, 831, 833, 1408, 1599, 2083, 2085, 6252])
def test_a_file_of_another_size_is_no_certificate(length: int) -> None:
    with pytest.raises(ValueError, match=f"this file has {length}"):
        parse_cert(bytes(length))


def amd(bits: int, pubexp: int, body: int) -> bytes:
    return cert.AmdCertHeader(pubexp_bits=pubexp, modulus_bits=bits).pack() + bytes(body)


@pytest.mark.parametrize(
    ("bits", "pubexp"), [(0, 0), (1024, 1024), (3072, 3072), (2048, 4096), (2048, 17), (0xFFFFFFF8, 0xFFFFFFF8)]
)
def test_a_key_of_another_size_is_refused(bits: int, pubexp: int) -> None:
    with pytest.raises(ValueError, match="2048 or 4096 bits"):
        parse_amd_cert(amd(bits, pubexp, 1536))


@pytest.mark.parametrize("body", [0, 255, 256, 511, 513, 767])
def test_an_amd_certificate_that_is_cut_short_is_refused(body: int) -> None:
    with pytest.raises(ValueError, match="takes 832 bytes"):
        parse_amd_cert(amd(2048, 2048, body))


def test_a_coordinate_above_72_bytes_has_no_place() -> None:
    with pytest.raises(OverflowError):
        le72(1 << 576)


@given(st.binary(max_size=2200))
def test_any_bytes_are_a_certificate_or_a_value_error(data: bytes) -> None:
    for parse in (parse_cert, parse_amd_cert, parse_ca):
        try:
            parse(data)
        except ValueError:
            continue


@given(st.binary(min_size=832, max_size=832))
def test_any_amd_certificate_that_is_read_packs_to_the_bytes_it_was_read_from(body: bytes) -> None:
    data = body[:0x38] + (2048).to_bytes(4, "little") * 2 + body[0x40:]
    parsed = parse_amd_cert(data)

    assert isinstance(parsed, AmdCert) and parsed.pack() == data
