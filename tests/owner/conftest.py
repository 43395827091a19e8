"""Platforms made by hand, certificate by certificate, so that a test can spoil any of them.

Nothing of `sevlab.psp` makes them: the owner's tests need somebody else's
certificates. Only the numbers of the emulated root's two keys are read from its data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sevlab import crypto
from sevlab.abi import cert
from sevlab.abi.cert import AmdCertHeader, SevCert

ROOTS = Path(crypto.__file__).parent / "psp" / "data" / "emulated_root.json"
EMULATED = (b"sevlab-emu-ARK01", b"sevlab-emu-ASK01")
E = 65537


class Key(NamedTuple):
    """An RSA key by its primes."""

    p: int
    q: int


@cache
def rsa_keys() -> tuple[Key, Key]:
    """The emulated ARK's and ASK's keys, published with the package."""
    data = json.loads(ROOTS.read_text())
    return tuple(Key(int(data[name]["p"], 16), int(data[name]["q"], 16)) for name in ("ark", "ask"))  # type: ignore[return-value]


@cache
def ca(key: Key, key_id: bytes, usage: int, signer: Key, signer_id: bytes) -> bytes:
    """A CA certificate file (1600 bytes) of `key`, signed by `signer`."""
    header = AmdCertHeader(key_id=key_id, certifying_id=signer_id, key_usage=usage, pubexp_bits=4096, modulus_bits=4096)
    body = header.pack() + E.to_bytes(512, "little") + (key.p * key.q).to_bytes(512, "little")
    return body + crypto.rsa_pss_sign(signer.p, signer.q, E, body, bytes(48), "sha384")[::-1]


def key(d: int, usage: int, algo: int = cert.ALGO_ECDSA_SHA256, **changes: Any) -> SevCert:
    """An unsigned certificate of the P-384 key with private scalar `d`."""
    x, y = crypto.p384_public(d)
    return SevCert(api_minor=24, usage=usage, algo=algo, qx=cert.le72(x), qy=cert.le72(y)).replace(**changes)


def sign(subject: SevCert, slot: int, d: int, usage: int, algo: int = cert.ALGO_ECDSA_SHA256) -> SevCert:
    """A copy with an ECDSA signature in slot 1 or 2."""
    signature = cert.ecdsa_slot(*crypto.ecdsa_sign(d, subject.signed_bytes, cert.algo_hash(algo)))
    return subject.replace(**{f"sig{slot}_usage": usage, f"sig{slot}_algo": algo, f"sig{slot}": signature})


@cache
def _signed_cek(d: int, ask: Key) -> bytes:
    bare = key(d, cert.USAGE_CEK)
    signature = crypto.rsa_pss_sign(ask.p, ask.q, E, bare.signed_bytes, bytes(48), "sha384")
    return bare.replace(sig1_usage=cert.USAGE_ASK, sig1_algo=cert.ALGO_RSA_SHA384, sig1=cert.rsa_slot(signature)).pack()


def platform(
    number: int = 1, *, ids: tuple[bytes, bytes] = EMULATED, home_made: bool = False, pek_slots: tuple[int, int] = (1, 2)
) -> dict[str, bytes]:
    """The six files of platform `number`. Its private scalars are 1000 times the number, plus 1 OCA, 2 CEK, 3 PEK, 4 PDH.

    `home_made` takes other RSA keys (the root's two, exchanged) under the ids
    given. `pek_slots` are the slots of the PEK's signatures by OCA and by CEK.
    """
    ark, ask = reversed(rsa_keys()) if home_made else rsa_keys()
    oca, cek, pek, pdh = (1000 * number + i for i in (1, 2, 3, 4))
    signed_pek = sign(key(pek, cert.USAGE_PEK), pek_slots[0], oca, cert.USAGE_OCA)
    return {
        "ark": ca(ark, ids[0], cert.USAGE_ARK, ark, ids[0]),
        "ask": ca(ask, ids[1], cert.USAGE_ASK, ark, ids[0]),
        "cek": _signed_cek(cek, ask),
        "oca": sign(key(oca, cert.USAGE_OCA), 1, oca, cert.USAGE_OCA).pack(),
        "pek": sign(signed_pek, pek_slots[1], cek, cert.USAGE_CEK).pack(),
        "pdh": sign(key(pdh, cert.USAGE_PDH, cert.ALGO_ECDH_SHA256), 1, pek, cert.USAGE_PEK).pack(),
    }


@pytest.fixture(scope="session")
def make_platform() -> Callable[..., dict[str, bytes]]:
    """The function `platform` of this file: the six certificate files of a made-up platform."""
    return platform


@pytest.fixture(scope="session")
def make_key() -> Callable[..., SevCert]:
    """The function `key` of this file: an unsigned certificate."""
    return key


@pytest.fixture(scope="session")
def sign_with() -> Callable[..., SevCert]:
    """The function `sign` of this file: a signature in a slot."""
    return sign


@pytest.fixture(scope="session")
def pdh() -> bytes:
    """A PDH certificate; its private scalar is 1004."""
    return platform()["pdh"]
