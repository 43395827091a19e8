"""Signatures and agreements: P-384, secp256k1 and RSA-PSS, against the standards and other people's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlab import crypto
from sevlab.crypto import (
    P384_N,
    P384_P,
    ecdh,
    ecdsa_sign,
    ecdsa_verify,
    kdf,
    on_p384,
    p384_public,
    p384_scalar,
    rfc6979_sign,
    rsa_pss_sign,
    rsa_pss_verify,
    secp256k1_public,
    sha256,
)


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# ------------------------------------------------------------- P-384, secp256k1

# RFC 6979, A.2.6: the key, and the signatures of "sample".
D = 0x6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D896D5724E4C70A825F872C9EA60D2EDF5
Q = (
    0xEC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13,
    0x8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720,
)
SIGNATURES = {
    "sha256": (
        0x21B13D1E013C7FA1392D03C5F99AF8B30C570C6F98D4EA8E354B63A21D3DAA33BDE1E888E63355D92FA2B3C36D8FB2CD,
        0xF3AA443FB107745BF4BD77CB3891674632068A10CA67E3D45DB2266FA7D1FEEBEFDC63ECCD1AC42EC0CB8668A4FA0AB0,
    ),
    "sha384": (
        0x94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46,
        0x99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8,
    ),
}


@pytest.mark.parametrize("hash", ["sha256", "sha384"])
@pytest.mark.parametrize("sign", [ecdsa_sign, rfc6979_sign])
def test_signatures_have_the_nonce_of_rfc_6979(sign: object, hash: str) -> None:
    """Origin: RFC 6979, A.2.6."""
    assert p384_public(D) == Q
    assert sign(D, b"sample", hash) == SIGNATURES[hash]  # type: ignore[operator]
    assert ecdsa_verify(Q, b"sample", *SIGNATURES[hash], hash)


def test_an_attestation_report_has_the_signature_that_others_computed() -> None:
    """Origin: the vectors handed on with the specification: the 52 signed bytes of a report, nonce by RFC 6979."""
    pek = 0x1D7011922BEA49570A142C9EF49E1F5C850FF30F06CA6598491D43923BD0B7AC4D7D5F50BED48381B48C41542250E50F
    digest = "38e06fff369183b985aa39a7f66ea84e97f9bcf0b54509e9f0dec69ba9cab4fc"
    message = unhex("303132333435363738393a3b3c3d3e3f" + digest + "05000000")
    assert ecdsa_sign(pek, message) == (
        0x54DC9CE389CD924DA3777371DF4A80B66BBF74F7DC669D714B5DDCA5EB8CEF0F4D2959C96CDEF7CFCE929465243D8D87,
        0x5701A8657DBC17DF1FC5969E248CA5F8A90E08AB0B9300537626AE3377DAC70E5286999DD7441029B5672EAF9C9F4A58,
    )


@settings(max_examples=10)
@given(d=st.integers(1, P384_N - 1), message=st.binary(max_size=80), hash=st.sampled_from(["sha256", "sha384"]))
def test_our_plain_signature_is_the_library_s(d: int, message: bytes, hash: str) -> None:
    r, s = ecdsa_sign(d, message, hash)
    assert (r, s) == rfc6979_sign(d, message, hash)
    assert ecdsa_verify(p384_public(d), message, r, s, hash)
    assert not ecdsa_verify(p384_public(d), message + b"!", r, s, hash)


def test_without_deterministic_nonces_in_the_library_the_signature_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*_: object, **__: object) -> None:
        raise TypeError("ECDSA() got an unexpected keyword argument")

    monkeypatch.setattr(crypto.ec, "ECDSA", old)
    assert ecdsa_sign(D, b"sample") == SIGNATURES["sha256"]


def test_a_signature_is_bound_to_message_key_and_hash() -> None:
    r, s = SIGNATURES["sha256"]
    assert not ecdsa_verify(Q, b"sample!", r, s)
    assert not ecdsa_verify(Q, b"sample", r, s, "sha384")
    assert not ecdsa_verify(Q, b"sample", s, r)
    assert not ecdsa_verify(p384_public(5), b"sample", r, s)


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (P384_N, 1), (1, P384_N), (-1, 1), (1 << 400, 1)])
def test_a_half_of_a_signature_outside_its_range_is_no_signature(r: int, s: int) -> None:
    assert not ecdsa_verify(Q, b"sample", r, s)


@pytest.mark.parametrize("point", [(0, 0), (Q[0], Q[1] ^ 1), (Q[0] + P384_P, Q[1]), (-Q[0], Q[1]), (1 << 500, 1)])
def test_a_point_off_the_curve_signs_nothing_and_agrees_on_nothing(point: tuple[int, int]) -> None:
    assert not on_p384(*point)
    assert not ecdsa_verify(point, b"sample", *SIGNATURES["sha256"])
    with pytest.raises(ValueError, match="not on P-384"):
        ecdh(D, point)


@pytest.mark.parametrize("d", [0, -1, P384_N, P384_N + 1])
def test_a_private_key_outside_its_range_is_refused(d: int) -> None:
    with pytest.raises(ValueError, match="between 1 and n - 1"):
        p384_public(d)
    with pytest.raises(ValueError, match="between 1 and n - 1"):
        ecdh(d, Q)


def test_a_hash_that_has_no_algorithm_number_is_refused() -> None:
    with pytest.raises(KeyError):
        ecdsa_sign(D, b"", "md5")


def test_both_ends_of_an_agreement_reach_the_same_secret() -> None:
    assert ecdh(D, p384_public(77)) == ecdh(77, Q)
    assert len(ecdh(1, p384_public(1))) == 48


def test_the_chip_s_own_keys_follow_from_its_fuses() -> None:
    """Origin: the vectors handed on with the specification: CEK and GET_ID of a chip whose fuses are 00..1f."""
    fuses = bytes(range(32))
    d = p384_scalar(kdf(sha256(fuses), "sev-chip-endorsement-key", size=56))
    assert d == 0xE86960358461467FE5F0A27B40E5AE1A262C61EA152B8D1C08ADCF876F62474ECF5956954A220627F626B6FE77EEAB4
    assert p384_public(d)[0] == 0x74DB39783B48981269814228627BFECCCEFD07873F3A87A9C7C529C82328C39D625AD35A74DD006D7AA5867711F5ECAF
    x, y = secp256k1_public(int.from_bytes(fuses, "big"))
    assert (x.to_bytes(32, "big") + y.to_bytes(32, "big")).hex() == (
        "6d6caac248af96f6afa7f904f550253a0f3ef3f5aa2fe6838a95b216691468e2"
        "487e6222a6664e079c8edf7518defd562dbeda1e7593dfd7f0be285880a24dab"
    )


@given(st.binary(min_size=48, max_size=72))
def test_random_bytes_always_make_a_private_key_in_range(data: bytes) -> None:
    assert 1 <= p384_scalar(data) < P384_N


def test_the_extremes_of_random_bytes_make_the_extremes_of_the_range() -> None:
    assert p384_scalar(bytes(56)) == 1
    assert p384_scalar((P384_N - 2).to_bytes(56, "little")) == P384_N - 1
    assert p384_scalar((P384_N - 1).to_bytes(56, "little")) == 1


@pytest.mark.parametrize("n", [0, 32, 47])
def test_too_few_random_bytes_for_a_private_key_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match="at least 48"):
        p384_scalar(bytes(n))


# ------------------------------------------------------------- RSA-PSS


def prime(name: str) -> int:
    """A 1024-bit prime from its name: the number that counts the tries is part of it."""
    return int.from_bytes(hashlib.shake_256(name.encode()).digest(128), "big") | 1 | 3 << 1022


P, QQ = prime("p1358"), prime("q86")


@pytest.mark.parametrize("hash", ["sha256", "sha384"])
def test_a_signature_of_ours_is_accepted_by_the_library_and_salt_and_message_decide_it(hash: str) -> None:
    salt = bytes(range(hashlib.new(hash).digest_size))
    signature = rsa_pss_sign(P, QQ, 65537, b"a certificate", salt, hash)
    assert len(signature) == 256
    assert rsa_pss_verify(P * QQ, 65537, b"a certificate", signature, hash)
    assert signature == rsa_pss_sign(P, QQ, 65537, b"a certificate", salt, hash)
    assert signature != rsa_pss_sign(P, QQ, 65537, b"a certificate", salt[::-1], hash)
    assert signature == rsa_pss_sign(QQ, P, 65537, b"a certificate", salt, hash)


def test_an_altered_message_signature_key_or_hash_is_no_signature() -> None:
    n, salt = P * QQ, bytes(48)
    good = rsa_pss_sign(P, QQ, 65537, b"a certificate", salt)
    assert not rsa_pss_verify(n, 65537, b"another one", good)
    assert not rsa_pss_verify(n, 65537, b"a certificate", good[:-1] + bytes([good[-1] ^ 1]))
    assert not rsa_pss_verify(n, 65537, b"a certificate", good[::-1])
    assert not rsa_pss_verify(n, 65537, b"a certificate", good[:-1])
    assert not rsa_pss_verify(n, 3, b"a certificate", good)
    assert not rsa_pss_verify(n + 2, 65537, b"a certificate", good)
    assert not rsa_pss_verify(n, 65537, b"a certificate", good, "sha256")


@pytest.mark.parametrize(("n", "e"), [(0, 65537), (15, 3), (P * QQ, 0), (P * QQ, 2), (-1, 65537)])
def test_numbers_that_can_be_no_key_verify_nothing(n: int, e: int) -> None:
    assert not rsa_pss_verify(n, e, b"", bytes(256))


@pytest.mark.parametrize("length", [0, 32, 47, 49])
def test_a_salt_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="48 bytes"):
        rsa_pss_sign(P, QQ, 65537, b"", bytes(length))


@pytest.mark.parametrize(("product", "size", "hash"), [("naples", 256, "sha256"), ("rome", 512, "sha384")])
def test_the_certificates_of_real_chips_verify(shared: Path, product: str, size: int, hash: str) -> None:
    """Origin: chains of an EPYC 7001 and an EPYC 7002 (virtee/sev, tests/naples and tests/rome)."""
    files = {name: (shared / "data/certs" / product / f"{name}.cert").read_bytes() for name in ("ark", "ask", "cek", "pek", "pdh")}

    def rsa_key(cert: bytes) -> tuple[int, int]:
        e, n = cert[64 : 64 + size], cert[64 + size : 64 + 2 * size]
        return int.from_bytes(n, "little"), int.from_bytes(e, "little")

    ark, ask = rsa_key(files["ark"]), rsa_key(files["ask"])
    for parent, child in ((ark, files["ark"]), (ark, files["ask"])):
        assert rsa_pss_verify(*parent, child[: 64 + 2 * size], child[64 + 2 * size :][::-1], hash)
    cek = files["cek"]
    assert rsa_pss_verify(*ask, cek[:0x414], cek[0x41C : 0x41C + size][::-1], hash)
    assert not rsa_pss_verify(*ark, cek[:0x414], cek[0x41C : 0x41C + size][::-1], hash)

    def number(cert: bytes, at: int) -> int:
        return int.from_bytes(cert[at : at + 72], "little")

    pek = (number(files["pek"], 0x14), number(files["pek"], 0x5C))
    pdh = files["pdh"]
    assert on_p384(*pek)
    assert ecdsa_verify(pek, pdh[:0x414], number(pdh, 0x41C), number(pdh, 0x41C + 72))
    assert not ecdsa_verify(pek, pdh[:0x413], number(pdh, 0x41C), number(pdh, 0x41C + 72))
