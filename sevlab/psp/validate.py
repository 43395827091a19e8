"""How the firmware judges a certificate, in its own order.

A guest owner's tools judge otherwise (`sevlab.owner`): they walk whole chains
and know AMD's roots. Source: firmware.md 4.4.
"""

from __future__ import annotations

from sevlab import crypto
from sevlab.abi.cert import (
    ALGO_ECDH_SHA256,
    ALGO_ECDSA_SHA256,
    ALGO_INVALID,
    CURVE_P384,
    USAGE_CEK,
    USAGE_INVALID,
    USAGE_OCA,
    USAGE_PDH,
    USAGE_PEK,
    SevCert,
    algo_hash,
    ecdsa_numbers,
)
from sevlab.abi.sev import Status
from sevlab.psp.rules import need

PARENTS = {USAGE_PDH: (USAGE_PEK,), USAGE_PEK: (USAGE_OCA, USAGE_CEK), USAGE_OCA: (USAGE_OCA,)}


def good_key(cert: SevCert) -> bool:
    """Is the certificate's public key structurally valid: a known curve, a point on it?"""
    return cert.curve == CURVE_P384 and crypto.on_p384(*cert.public)


def validate(cert: SevCert, parent: SevCert) -> None:
    """Refuse `cert` unless `parent` has signed it and may have.

    INVALID_CERTIFICATE for what cannot be a certificate of this kind,
    BAD_SIGNATURE for a signature that is none.
    """
    need(good_key(parent), Status.INVALID_CERTIFICATE)  # the signing key is not valid
    for usage, algo, _ in cert.signatures:
        need((usage == USAGE_INVALID) == (algo == ALGO_INVALID), Status.BAD_SIGNATURE)  # a signature slot is half empty
    slots = [slot for usage, algo, slot in cert.signatures if (usage, algo) == (parent.usage, parent.algo)]
    need(slots, Status.INVALID_CERTIFICATE)  # no slot names this parent
    for slot in slots:
        need(_verifies(cert, slot, parent), Status.BAD_SIGNATURE)  # the parent did not sign this
    need(cert.version == 1, Status.INVALID_CERTIFICATE)  # no certificate of version 1
    need(good_key(cert), Status.INVALID_CERTIFICATE)  # its public key is not valid
    need(parent.usage in PARENTS.get(cert.usage, ()), Status.INVALID_CERTIFICATE)  # such a parent may not sign such a key


def accept_owner(cert: SevCert) -> None:
    """Refuse what is no guest owner's Diffie-Hellman certificate. Its signatures are never looked at."""
    need(cert.version == 1, Status.INVALID_CERTIFICATE)  # no certificate of version 1
    need(good_key(cert), Status.INVALID_CERTIFICATE)  # its public key is not valid
    need(cert.usage == USAGE_PDH, Status.INVALID_CERTIFICATE)  # no Diffie-Hellman key by its usage
    need(cert.algo == ALGO_ECDH_SHA256, Status.INVALID_CERTIFICATE)  # nor by its algorithm


def _verifies(cert: SevCert, slot: bytes, parent: SevCert) -> bool:
    if parent.algo & 0xFF != ALGO_ECDSA_SHA256:
        return False
    return crypto.ecdsa_verify(parent.public, cert.signed_bytes, *ecdsa_numbers(slot), hash=algo_hash(parent.algo))
