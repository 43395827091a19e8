"""AMD's key server, for the emulated root: who signs CEK certificates, and the chain they make.

The root's private keys are published with sevlab, in data/emulated_root.json.
They are NOT secret: what they sign vouches for an emulated platform, and its
key ids say so ("sevlab-emu-ARK01"). Source: firmware.md 4.2, 4.3.

No RSA is computed, and nothing read, before a chain is asked for.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sevlab import crypto
from sevlab.abi.cert import ALGO_RSA_SHA384, USAGE_ASK, AmdCert, AmdCertHeader, SevCert, rsa_slot
from sevlab.psp.store import Key

if TYPE_CHECKING:
    from sevlab.psp.firmware import Psp

ARK_ID = b"sevlab-emu-ARK01"
ASK_ID = b"sevlab-emu-ASK01"
SALT_LEN = 48


@cache
def _root() -> dict[str, Any]:
    """The two private keys and the two signatures, from the package's data."""
    return dict(json.loads(files("sevlab.psp").joinpath("data/emulated_root.json").read_text("ascii")))


def _primes(which: str) -> tuple[int, int, int]:
    """(p, q, e) of "ark" or "ask"."""
    key = _root()[which]
    return int(key["p"], 16), int(key["q"], 16), key["e"]


def ca_certificate(which: str) -> AmdCert:
    """The certificate of the emulated "ark" or "ask": 4096 bits, 1600 bytes in a file."""
    key = _root()[which]
    p, q, e = _primes(which)
    header = AmdCertHeader(
        key_id=key["key_id"].encode(), certifying_id=ARK_ID, key_usage=key["usage"], pubexp_bits=4096, modulus_bits=4096
    )
    return AmdCert(header, e, p * q, bytes.fromhex(key["signature"])[::-1])


def sign_cek(cert: SevCert, salt: bytes) -> SevCert:
    """The CEK certificate with the emulated ASK's signature (RSA-PSS, SHA-384) in its first slot. `salt` has 48 bytes."""
    signature = crypto.rsa_pss_sign(*_primes("ask"), cert.signed_bytes, salt, "sha384")
    return cert.replace(sig1_usage=USAGE_ASK, sig1_algo=ALGO_RSA_SHA384, sig1=rsa_slot(signature))


def chain(psp: Psp) -> dict[str, bytes]:
    """The six certificate files of a platform: ark, ask, cek (signed), oca, pek, pdh.

    Raises ValueError before INIT, when there are no keys to speak of.
    """
    held: dict[str, Key | None] = {"oca": psp.keys.oca, "pek": psp.keys.pek, "pdh": psp.keys.pdh}
    missing = [kind for kind, key in held.items() if key is None]
    if missing:
        raise ValueError(f"the platform has no {', no '.join(missing)} yet: it was not brought up (INIT)")
    salt = psp.soc.stream.fork("kds/cek").draw("salt", SALT_LEN)
    signed = {which: ca_certificate(which).pack() for which in ("ark", "ask")}
    signed["cek"] = sign_cek(psp.identity.cek.cert, salt).pack()
    return signed | {kind: key.cert.pack() for kind, key in held.items() if key is not None}
