"""A platform owner's key pair: what `generate` writes and `provision` reads.

The certificate is SEV's (2084 bytes), the key is DER as RFC 5915 has it, which
openssl reads and writes too.
"""

from __future__ import annotations

import base64
import binascii
import re

from sevlab.abi.cert import ALGO_ECDSA_SHA256, USAGE_OCA, SevCert, ecdsa_slot, le72
from sevlab.cli.files import Failed, read

SCALAR = 48  # bytes of a P-384 private key
HEAD = bytes.fromhex("303e0201010430")  # SEQUENCE, version 1, OCTET STRING of 48 bytes
TAIL = bytes.fromhex("a00706052b81040022")  # [0] secp384r1


def new_oca(seed: int | None) -> tuple[bytes, bytes]:
    """(certificate, private key): a fresh owner, or with a `seed` always the same."""
    from sevlab.crypto import Stream, ecdsa_sign, p384_public, p384_scalar

    d = p384_scalar(Stream(seed).fork("platform owner").draw("oca", 56))
    x, y = p384_public(d)
    cert = SevCert(
        usage=USAGE_OCA, algo=ALGO_ECDSA_SHA256, qx=le72(x), qy=le72(y), sig1_usage=USAGE_OCA, sig1_algo=ALGO_ECDSA_SHA256
    )
    cert.sig1 = ecdsa_slot(*ecdsa_sign(d, cert.signed_bytes))
    return cert.pack(), HEAD + d.to_bytes(SCALAR, "big") + TAIL


def read_key(path: str, cert: bytes) -> int:
    """The private key in a file (DER or PEM, RFC 5915), if it is that of the certificate.

    Raises Failed.
    """
    from sevlab.crypto import p384_public

    data = read(path, "key", most=1 << 16)
    pem = re.search(rb"-----BEGIN EC PRIVATE KEY-----(.+?)-----END", data, re.DOTALL)
    if pem:
        try:
            data = base64.b64decode(b"".join(pem[1].split()), validate=True)
        except binascii.Error:
            raise Failed(f"key {path}: damaged PEM") from None
    found = re.search(rb"\x02\x01\x01\x04\x30(.{48})", data[:64], re.DOTALL)
    if found is None:
        raise Failed(f"key {path}: this is no P-384 private key in DER or PEM (RFC 5915)")
    d = int.from_bytes(found[1], "big")
    try:
        public = p384_public(d)
    except ValueError:
        raise Failed(f"key {path}: the number in it is no P-384 private key") from None
    if public != SevCert.unpack(cert).public:
        raise Failed(f"key {path}: it is not the key of that certificate")
    return d


def sign_pek(pek: bytes, d: int) -> bytes:
    """The PEK that the platform asks to have signed, with the owner's signature in its first slot."""
    from sevlab.crypto import ecdsa_sign

    cert = SevCert.unpack(pek)
    cert.sig1_usage, cert.sig1_algo = USAGE_OCA, ALGO_ECDSA_SHA256
    cert.sig1 = ecdsa_slot(*ecdsa_sign(d, cert.signed_bytes))
    return cert.pack()
