"""The engine as one would write it on a blackboard: one block at a time, no table, no array.

It shares nothing with sevlab.hw.engine but the constants it is given.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def xor(a: bytes, b: bytes) -> bytes:
    """The xor of two byte strings of one length."""
    assert len(a) == len(b)
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


class ReferenceEngine:
    """Memory of `size` bytes behind an XE or XEX engine with these constants (address bit -> 16 bytes)."""

    def __init__(self, constants: dict[int, bytes], mode: str, size: int) -> None:
        self.constants = constants
        self.mode = mode
        self.memory = bytearray(size)
        self.keys: dict[int, bytes] = {}

    def tweak(self, hpa: int) -> bytes:
        """T(hpa): the xor of the constants of the address's bits from 4 up."""
        value = bytes(16)
        for bit, constant in self.constants.items():
            if hpa >> bit & 1:
                value = xor(value, constant)
        return value

    def encrypt_block(self, key: bytes, hpa: int, plain: bytes) -> bytes:
        """XEX: E(P ^ T) ^ T.  XE: E(P ^ T)."""
        t = self.tweak(hpa)
        out = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(xor(plain, t))
        return xor(out, t) if self.mode == "XEX" else out

    def decrypt_block(self, key: bytes, hpa: int, secret: bytes) -> bytes:
        """XEX: D(C ^ T) ^ T.  XE: D(C) ^ T."""
        t = self.tweak(hpa)
        middle = xor(secret, t) if self.mode == "XEX" else secret
        return xor(Cipher(algorithms.AES(key), modes.ECB()).decryptor().update(middle), t)

    def encrypt(self, asid: int, hpa: int, n: int) -> None:
        """Encrypt a range where it lies."""
        for at in range(hpa, hpa + n, 16):
            self.memory[at : at + 16] = self.encrypt_block(self.keys[asid], at, bytes(self.memory[at : at + 16]))

    def decrypt(self, asid: int, hpa: int, n: int) -> None:
        """Decrypt a range where it lies."""
        for at in range(hpa, hpa + n, 16):
            self.memory[at : at + 16] = self.decrypt_block(self.keys[asid], at, bytes(self.memory[at : at + 16]))

    def read(self, asid: int, hpa: int, n: int) -> bytes:
        """What slot `asid` reads."""
        if not asid:
            return bytes(self.memory[hpa : hpa + n])
        first, end = hpa // 16 * 16, (hpa + n + 15) // 16 * 16
        text = b"".join(self.decrypt_block(self.keys[asid], at, bytes(self.memory[at : at + 16])) for at in range(first, end, 16))
        return text[hpa - first : hpa - first + n]

    def write(self, asid: int, hpa: int, data: bytes) -> None:
        """Write through slot `asid`: whole blocks are read, changed and written back."""
        if not asid:
            self.memory[hpa : hpa + len(data)] = data
            return
        if not data:
            return
        first, end = hpa // 16 * 16, (hpa + len(data) + 15) // 16 * 16
        text = bytearray(self.read(asid, first, end - first))
        text[hpa - first : hpa - first + len(data)] = data
        for at in range(first, end, 16):
            block = bytes(text[at - first : at - first + 16])
            self.memory[at : at + 16] = self.encrypt_block(self.keys[asid], at, block)
