"""The primitives against what the library offers without our names around it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from functools import partial

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from harness import Figure, pair

from sevlab import crypto

KEY = bytes(range(16))


def figures() -> Iterator[Figure]:
    """Packets, key derivation, signatures, random bytes."""
    page = bytes(4096)

    def ctr() -> bytes:
        return Cipher(algorithms.AES(KEY), modes.CTR(KEY)).encryptor().update(page)

    yield pair("aes_ctr of a page / the library", 1.2, partial(crypto.aes_ctr, KEY, KEY, page), ctr)

    def mac(message: bytes) -> bytes:
        return hmac.digest(KEY, message, "sha256")

    yield pair("hmac256 of a page / hmac.digest", 1.2, partial(crypto.hmac256, KEY, page), partial(mac, page))
    yield pair("kdf of 16 bytes / one HMAC", 3.0, partial(crypto.kdf, KEY, "sev-kek"), partial(mac, b"sev-kek"))
    yield pair("16 bytes from the stream / one HMAC", 3.0, partial(crypto.Stream(1).draw, "x", 16), partial(mac, KEY))

    d = crypto.p384_scalar(hashlib.sha512(b"a key for a benchmark").digest())
    key = ec.derive_private_key(d, ec.SECP384R1())
    library = partial(key.sign, page, ec.ECDSA(hashes.SHA256()))
    yield pair("ecdsa_sign / the library's, random nonce", 1.5, partial(crypto.ecdsa_sign, d, page), library)
    point = crypto.p384_public(d)
    r, s = crypto.ecdsa_sign(d, page)
    signature = key.sign(page, ec.ECDSA(hashes.SHA256()))
    library = partial(key.public_key().verify, signature, page, ec.ECDSA(hashes.SHA256()))
    yield pair("ecdsa_verify / the library's", 1.3, partial(crypto.ecdsa_verify, point, page, r, s), library)
    library = partial(key.exchange, ec.ECDH(), key.public_key())
    yield pair("ecdh / the library's", 1.3, partial(crypto.ecdh, d, point), library)
