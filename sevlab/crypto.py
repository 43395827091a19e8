"""Cryptography under the spec's names: what firmware, owner and engine compute with.

The only module that imports `cryptography`, and the only place where a seed may
come from the system. Keys and messages are bytes; coordinates, scalars and
signature halves are integers, because their byte order belongs to the format
that carries them (certificates little-endian, ECDH's Z big-endian).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Buffer = bytes | bytearray | memoryview
Point = tuple[int, int]
Into = Callable[[Any, Any], int]

BLOCK = 16
SLACK = 15  # bytes that a destination must have beyond what is written into it

HASHES: dict[str, Any] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}

# secp384r1 (FIPS 186-4, D.1.2.4): the field, the order and b of y^2 = x^3 - 3x + b.
P384_P = 2**384 - 2**128 - 2**96 + 2**32 - 1
P384_N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
P384_B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF


# ------------------------------------------------------------- randomness


class Stream:
    """The one generator: bytes that depend on a seed, a label and how often the label was used.

    The seed is an integer or bytes; without one it is taken from the system.
    `seed` shows it, so that any run can be repeated. One label per use
    ("psp/pdh", "guest/3/mnonce"): adding a use then changes no other byte.
    """

    def __init__(self, seed: int | bytes | None = None) -> None:
        self.seed: int | bytes = int.from_bytes(os.urandom(7), "little") if seed is None else seed
        if not isinstance(self.seed, int | bytes | bytearray | memoryview):
            raise TypeError(f"a seed is a number or bytes, not {self.seed!r}")
        if isinstance(self.seed, int) and self.seed < 0:
            raise ValueError(f"a seed is not negative, this one is {self.seed}")
        kind, text = ("int", b"%d" % self.seed) if isinstance(self.seed, int) else ("bytes", bytes(self.seed))
        self._key = hmac256(f"sevlab seed {kind}".encode(), text)
        self._counters: dict[str, int] = {}

    def draw(self, label: str, n: int) -> bytes:
        """The next `n` bytes of `label`: HMAC-SHA-256 of label, a zero, the count of draws and of blocks."""
        count = self._counters[label] = self._counters.get(label, -1) + 1
        prefix = label.encode() + b"\0"
        blocks = (hmac256(self._key, prefix + struct.pack("<QI", count, block)) for block in range((n + 31) // 32))
        return b"".join(blocks)[:n]

    def fork(self, label: str) -> Stream:
        """A stream of its own, drawn from this one's seed and `label` alone: the same label gives the same stream."""
        return Stream(hmac256(self._key, b"fork\0" + label.encode()))


# ------------------------------------------------------------- hashes, MACs, keys


def sha256(data: Buffer) -> bytes:
    """SHA-256, 32 bytes."""
    return hashlib.sha256(data).digest()


def sha384(data: Buffer) -> bytes:
    """SHA-384, 48 bytes."""
    return hashlib.sha384(data).digest()


def hmac256(key: Buffer, message: Buffer) -> bytes:
    """HMAC-SHA-256, 32 bytes."""
    return hmac.digest(key, message, "sha256")


def same(a: Buffer, b: Buffer) -> bool:
    """Whether two MACs are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(a, b)


def kdf(key: Buffer, label: str, context: Buffer = b"", size: int = 16) -> bytes:
    """NIST SP 800-108 in counter mode, PRF = HMAC-SHA-256; counter and length are little-endian (SEV API, AMD 55766).

    `size` counts bytes. The label goes in as ASCII, without a trailing NUL of its own.
    """
    fixed = label.encode("ascii") + b"\0" + bytes(context) + struct.pack("<I", 8 * size)
    blocks = (hmac256(key, struct.pack("<I", i) + fixed) for i in range(1, (size + 31) // 32 + 1))
    return b"".join(blocks)[:size]


# ------------------------------------------------------------- AES


def aes_ctr(key: Buffer, iv: Buffer, data: Buffer) -> bytes:
    """AES in counter mode; the 16-byte IV is the first counter block, counted up as a big-endian integer.

    Encrypts and decrypts. Raises ValueError for a key or IV of the wrong length.
    """
    encryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    if len(data) < 1 << 16:
        return encryptor.update(data)
    out = bytearray(len(data) + SLACK)  # update() would take fresh memory from the system each time: ten times slower
    return bytes(memoryview(out)[: encryptor.update_into(data, out)])


class Ecb:
    """AES, block by block, both ways, with its two contexts kept: a new one costs as much as five kilobytes.

    `encrypt` and `decrypt` take and return bytes. `encrypt_into` and
    `decrypt_into` write to a destination, which may be the source, and which
    must be 15 bytes longer than the source; use these on bulk. All take
    whole blocks: ValueError otherwise, and for a key of the wrong length.
    """

    __slots__ = ("decrypt_raw", "decrypt_raw_into", "encrypt_raw", "encrypt_raw_into")

    def __init__(self, key: Buffer) -> None:
        cipher = Cipher(algorithms.AES(key), modes.ECB())
        encryptor, decryptor = cipher.encryptor(), cipher.decryptor()
        # The raw four check nothing: a context fed with half a block would keep it for the next call.
        self.encrypt_raw: Callable[[Any], bytes] = encryptor.update
        self.decrypt_raw: Callable[[Any], bytes] = decryptor.update
        self.encrypt_raw_into: Into = encryptor.update_into
        self.decrypt_raw_into: Into = decryptor.update_into

    def encrypt(self, data: Buffer) -> bytes:
        """The ciphertext of whole blocks."""
        return self.encrypt_raw(_whole(data))

    def decrypt(self, data: Buffer) -> bytes:
        """The plaintext of whole blocks."""
        return self.decrypt_raw(_whole(data))

    def encrypt_into(self, source: Buffer, destination: bytearray | memoryview) -> int:
        """Encrypt `source` into `destination` (which may be the same memory) and return the bytes written."""
        return self.encrypt_raw_into(_whole(source), _roomy(source, destination))

    def decrypt_into(self, source: Buffer, destination: bytearray | memoryview) -> int:
        """Decrypt `source` into `destination` (which may be the same memory) and return the bytes written."""
        return self.decrypt_raw_into(_whole(source), _roomy(source, destination))


def _whole(data: Buffer) -> Buffer:
    if len(data) % BLOCK:
        raise ValueError(f"{len(data)} bytes are no whole number of 16-byte blocks")
    return data


def _roomy(source: Buffer, destination: bytearray | memoryview) -> bytearray | memoryview:
    if len(destination) < len(source) + SLACK:
        raise ValueError(f"a destination for {len(source)} bytes needs {SLACK} more, this one has {len(destination)}")
    return destination


# XTS as a faster ECB: with vector AES it runs at nearly three times the speed. Each call starts
# again at data unit 0, so what it xors in before and after the cipher is one fixed stream, which the caller's tables
# cancel. The stream depends on the second key alone, so one constant second key serves every first key.
_XTS_KEY = bytes(range(0xE0, 0xF0))


def xts_contexts(key: Buffer) -> tuple[Into, Into] | None:
    """AES-XTS under `key` as a pair of update_into (encrypt, decrypt), or None where it cannot stand in for ECB.

    Checked against ECB here, twice in a row, because it rests on each call starting at data unit 0.
    """
    try:
        cipher = Cipher(algorithms.AES(bytes(key) + _XTS_KEY), modes.XTS(bytes(BLOCK)))
        contexts = (cipher.encryptor().update_into, cipher.decryptor().update_into)
    except (ValueError, UnsupportedAlgorithm):
        return None  # the key is the constant itself, or the library knows no XTS
    ecb = Ecb(key)
    stream = xts_stream(64)
    data = _xor(bytes(range(64)), stream)
    out = bytearray(64 + SLACK)
    for context, right in zip(contexts, (ecb.encrypt_raw(bytes(range(64))), ecb.decrypt_raw(bytes(range(64)))), strict=True):
        for _ in range(2):
            if context(data, out) != 64 or _xor(out[:64], stream) != right:
                return None
    return contexts


@lru_cache(maxsize=4)
def xts_stream(n: int) -> bytes:
    """The first `n` bytes that XTS xors in at data unit 0: E(0), doubled in GF(2^128) from block to block."""
    value = int.from_bytes(Ecb(_XTS_KEY).encrypt_raw(bytes(BLOCK)), "little")
    blocks = []
    for _ in range(n // BLOCK):
        blocks.append(value.to_bytes(BLOCK, "little"))
        value <<= 1
        if value >> 128:
            value ^= 1 << 128 | 0x87
    return b"".join(blocks)


def _xor(a: Buffer, b: Buffer) -> bytes:
    return (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(a), "little")


# ------------------------------------------------------------- elliptic curves


def p384_scalar(data: Buffer) -> int:
    """A P-384 private key from random bytes, by extra bits: little-endian, mod n - 1, plus 1 (FIPS 186-4, B.4.1).

    Give 56 bytes, as the firmware does; fewer than 48 are refused with ValueError.
    """
    if len(data) < 48:
        raise ValueError(f"a P-384 scalar takes at least 48 random bytes, not {len(data)}")
    return int.from_bytes(data, "little") % (P384_N - 1) + 1


@lru_cache(maxsize=64)
def _private(d: int) -> ec.EllipticCurvePrivateKey:
    if not 0 < d < P384_N:
        raise ValueError("a P-384 private key lies between 1 and n - 1")
    return ec.derive_private_key(d, ec.SECP384R1())


@lru_cache(maxsize=64)
def _public(x: int, y: int) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()


def p384_public(d: int) -> Point:
    """The point d times G on P-384. Raises ValueError when d is not in [1, n-1]."""
    numbers = _private(d).public_key().public_numbers()
    return numbers.x, numbers.y


def on_p384(x: int, y: int) -> bool:
    """Whether (x, y) is a point of P-384 with both coordinates reduced."""
    return 0 <= x < P384_P and 0 <= y < P384_P and (y * y - x * x * x + 3 * x - P384_B) % P384_P == 0


def ecdh(d: int, point: Point) -> bytes:
    """Z: the x-coordinate of d times the point, 48 bytes, big-endian.

    Raises ValueError when the point is not on P-384.
    """
    if not on_p384(*point):
        raise ValueError("the peer's point is not on P-384")
    return _private(d).exchange(ec.ECDH(), _public(*point))


def secp256k1_public(d: int) -> Point:
    """The point d times G on secp256k1, the curve of GET_ID."""
    numbers = ec.derive_private_key(d, ec.SECP256K1()).public_key().public_numbers()
    return numbers.x, numbers.y


def ecdsa_sign(d: int, message: Buffer, hash: str = "sha256") -> tuple[int, int]:
    """An ECDSA signature (r, s) with P-384 and the deterministic nonce of RFC 6979."""
    try:
        algorithm = ec.ECDSA(HASHES[hash], deterministic_signing=True)
    except (UnsupportedAlgorithm, TypeError):  # TypeError: a release from before there was such an argument
        return rfc6979_sign(d, message, hash)
    return decode_dss_signature(_private(d).sign(bytes(message), algorithm))


def rfc6979_sign(d: int, message: Buffer, hash: str = "sha256") -> tuple[int, int]:
    """The same signature in plain steps (RFC 6979, 3.2), for a library that has no deterministic nonces."""
    digest = hashlib.new(hash, message).digest()
    e = int.from_bytes(digest, "big")  # at most 384 bits for both hashes: nothing to cut
    seed = d.to_bytes(48, "big") + (e % P384_N).to_bytes(48, "big")
    key, value = bytes(len(digest)), b"\1" * len(digest)
    for mark in (b"\0", b"\1"):
        key = hmac.digest(key, value + mark + seed, hash)
        value = hmac.digest(key, value, hash)
    while True:
        text = b""
        while len(text) < 48:
            value = hmac.digest(key, value, hash)
            text += value
        k = int.from_bytes(text[:48], "big")
        if 0 < k < P384_N:
            r = p384_public(k)[0] % P384_N
            s = pow(k, -1, P384_N) * (e + r * d) % P384_N
            if r and s:
                return r, s
        key = hmac.digest(key, value + b"\0", hash)
        value = hmac.digest(key, value, hash)


def ecdsa_verify(point: Point, message: Buffer, r: int, s: int, hash: str = "sha256") -> bool:
    """Whether (r, s) is the point's signature of the message; False also for a point that is on no curve."""
    if not (on_p384(*point) and 0 < r < P384_N and 0 < s < P384_N):
        return False
    try:
        _public(*point).verify(encode_dss_signature(r, s), bytes(message), ec.ECDSA(HASHES[hash]))
    except InvalidSignature:
        return False
    return True


# ------------------------------------------------------------- RSA-PSS


def rsa_pss_verify(n: int, e: int, message: Buffer, signature: Buffer, hash: str = "sha384") -> bool:
    """Whether the signature (big-endian) is right: RSA-PSS, MGF1 with the same hash, salt as long as the hash.

    False also for a modulus or exponent that can be none.
    """
    algorithm = HASHES[hash]
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
        key.verify(bytes(signature), bytes(message), padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), algorithm)
    except (InvalidSignature, ValueError, OverflowError):
        return False
    return True


def rsa_pss_sign(p: int, q: int, e: int, message: Buffer, salt: bytes, hash: str = "sha384") -> bytes:
    """An RSA-PSS signature (big-endian) with the salt given, by the Chinese remainder of the primes p and q.

    The salt is as long as the hash (ValueError otherwise), so that rsa_pss_verify accepts it.
    """
    size = HASHES[hash].digest_size
    if len(salt) != size:
        raise ValueError(f"the salt for {hash} has {size} bytes, not {len(salt)}")
    n = p * q
    m = int.from_bytes(_pss_encode(message, salt, hash, n.bit_length() - 1), "big")
    a, b = pow(m, pow(e, -1, p - 1), p), pow(m, pow(e, -1, q - 1), q)
    return (b + (a - b) * pow(q, -1, p) % p * q).to_bytes((n.bit_length() + 7) // 8, "big")


def _pss_encode(message: Buffer, salt: bytes, hash: str, bits: int) -> bytes:
    """EMSA-PSS (RFC 8017, 9.1.1) for a modulus of `bits` + 1 bits."""
    length = (bits + 7) // 8
    h = hashlib.new(hash, bytes(8) + hashlib.new(hash, message).digest() + salt).digest()
    db = bytes(length - len(salt) - len(h) - 2) + b"\1" + salt
    blocks = (hashlib.new(hash, h + struct.pack(">I", i)).digest() for i in range(len(db) // len(h) + 1))
    masked = bytearray(_xor(db, b"".join(blocks)[: len(db)]))
    masked[0] &= 0xFF >> (8 * length - bits)
    return bytes(masked) + h + b"\xbc"
