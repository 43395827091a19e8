"""Certificates: the SEV format (2084 bytes) and AMD's own CA format (832 or 1600).

Source: firmware.md 4.2 and 4.3. Coordinates and signatures are little-endian in
both; a coordinate has 72 bytes although P-384 needs 48.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from sevlab.wire import Wire, u8, u16, u32

# What a key is for.
USAGE_ARK = 0x00
USAGE_ASK = 0x13
USAGE_INVALID = 0x1000  # an empty signature slot
USAGE_OCA = 0x1001
USAGE_PEK = 0x1002
USAGE_PDH = 0x1003
USAGE_CEK = 0x1004

USAGES = {
    USAGE_ARK: "ARK", USAGE_ASK: "ASK", USAGE_INVALID: "INVALID",
    USAGE_OCA: "OCA", USAGE_PEK: "PEK", USAGE_PDH: "PDH", USAGE_CEK: "CEK",
}  # fmt: skip

# With what it signs or agrees.
ALGO_INVALID = 0x000
ALGO_RSA_SHA256 = 0x001
ALGO_ECDSA_SHA256 = 0x002
ALGO_ECDH_SHA256 = 0x003
ALGO_RSA_SHA384 = 0x101
ALGO_ECDSA_SHA384 = 0x102
ALGO_ECDH_SHA384 = 0x103

ALGOS = {
    ALGO_INVALID: "invalid", ALGO_RSA_SHA256: "RSA-SHA256", ALGO_ECDSA_SHA256: "ECDSA-SHA256", ALGO_ECDH_SHA256: "ECDH-SHA256",
    ALGO_RSA_SHA384: "RSA-SHA384", ALGO_ECDSA_SHA384: "ECDSA-SHA384", ALGO_ECDH_SHA384: "ECDH-SHA384",
}  # fmt: skip

CURVE_P256 = 1
CURVE_P384 = 2

COORDINATE = 72  # bytes of one coordinate, or of r or s
SLOT = 512  # bytes of one signature slot
SIGNED_LEN = 0x414  # a SEV certificate is signed up to its first slot


def algo_hash(algo: int) -> str:
    """The hash of an algorithm: "sha256" or "sha384"."""
    return "sha384" if algo & 0x100 else "sha256"


def le72(value: int) -> bytes:
    """A coordinate, r or s as the certificate stores it: 72 bytes, little-endian."""
    return value.to_bytes(COORDINATE, "little")


def from_le72(data: bytes) -> int:
    """The number that 72 little-endian bytes stand for."""
    return int.from_bytes(data, "little")


def ecdsa_slot(r: int, s: int) -> bytes:
    """A signature slot (512 bytes) that holds an ECDSA signature."""
    return (le72(r) + le72(s)).ljust(SLOT, b"\0")


def ecdsa_numbers(slot: bytes) -> tuple[int, int]:
    """(r, s) of a signature slot, or of its first 144 bytes."""
    return from_le72(slot[:COORDINATE]), from_le72(slot[COORDINATE : 2 * COORDINATE])


def rsa_slot(signature: bytes) -> bytes:
    """A signature slot that holds an RSA signature given big-endian, as RSA writes it."""
    return signature[::-1].ljust(SLOT, b"\0")


class SevCert(Wire):
    """The certificate of a PDH, PEK, OCA, CEK, or of a guest owner's GODH."""

    version: u32 = 1                         # 0x000
    api_major: u8 = 0                        # 0x004
    api_minor: u8 = 0                        # 0x005
    reserved: u16 = 0                        # 0x006
    usage: u32 = 0                           # 0x008
    algo: u32 = 0                            # 0x00C
    curve: u32 = CURVE_P384                  # 0x010
    qx: Annotated[bytes, 72] = b""           # 0x014
    qy: Annotated[bytes, 72] = b""           # 0x05C
    pad: Annotated[bytes, 880] = b""         # 0x0A4  the union has room for RSA
    sig1_usage: u32 = USAGE_INVALID          # 0x414
    sig1_algo: u32 = ALGO_INVALID            # 0x418
    sig1: Annotated[bytes, 512] = b""        # 0x41C
    sig2_usage: u32 = USAGE_INVALID          # 0x61C
    sig2_algo: u32 = ALGO_INVALID            # 0x620
    sig2: Annotated[bytes, 512] = b""        # 0x624

    @property
    def public(self) -> tuple[int, int]:
        """The public point (x, y)."""
        return from_le72(self.qx), from_le72(self.qy)

    @property
    def signed_bytes(self) -> bytes:
        """What a signature over this certificate covers: 1044 bytes."""
        return self.pack()[:SIGNED_LEN]

    @property
    def signatures(self) -> tuple[tuple[int, int, bytes], tuple[int, int, bytes]]:
        """Both slots as (usage, algo, 512 bytes)."""
        return (self.sig1_usage, self.sig1_algo, self.sig1), (self.sig2_usage, self.sig2_algo, self.sig2)


class AmdCertHeader(Wire):
    """The first 64 bytes of an ARK or ASK; exponent, modulus and signature follow."""

    version: u32 = 1                         # 0x00
    key_id: Annotated[bytes, 16] = b""       # 0x04
    certifying_id: Annotated[bytes, 16] = b""  # 0x14
    key_usage: u32 = 0                       # 0x24
    reserved: Annotated[bytes, 16] = b""     # 0x28
    pubexp_bits: u32 = 0                     # 0x38
    modulus_bits: u32 = 0                    # 0x3C


class AmdCert(NamedTuple):
    """An ARK or ASK certificate.

    `e` and `n` are numbers; `signature` is stored as in the file, little-endian
    (b"" where the file ends before it, as the public Naples ARK does).
    """

    header: AmdCertHeader
    e: int
    n: int
    signature: bytes

    @property
    def bits(self) -> int:
        """The size of the key: 2048 or 4096."""
        return self.header.modulus_bits

    @property
    def hash(self) -> str:
        """The hash that this key signs with: SHA-256 at 2048 bits, SHA-384 at 4096."""
        return "sha384" if self.bits == 4096 else "sha256"

    @property
    def signed_bytes(self) -> bytes:
        """What the certificate's signature covers: header, e and n."""
        width = self.bits // 8
        return self.header.pack() + self.e.to_bytes(width, "little") + self.n.to_bytes(width, "little")

    @property
    def size(self) -> int:
        """Bytes in a file: 832 or 1600."""
        return AmdCertHeader.SIZE + 3 * self.bits // 8

    def pack(self) -> bytes:
        """The bytes of the file."""
        return self.signed_bytes + self.signature


def parse_amd_cert(data: bytes, offset: int = 0) -> AmdCert:
    """The AMD certificate that begins at `offset`.

    Raises ValueError for a key that is neither 2048 nor 4096 bits or for too
    few bytes; a file that ends before the signature has signature b"".
    """
    header = AmdCertHeader.unpack(data, offset)
    if header.modulus_bits not in (2048, 4096) or header.pubexp_bits != header.modulus_bits:
        raise ValueError(f"an AMD certificate has 2048 or 4096 bits, this one {header.modulus_bits} and {header.pubexp_bits}")
    width = header.modulus_bits // 8
    at = offset + AmdCertHeader.SIZE
    e, n, signature = (bytes(data[at + i * width : at + (i + 1) * width]) for i in range(3))
    if len(n) < width or len(signature) not in (0, width):
        raise ValueError(f"an AMD certificate of {8 * width} bits takes {64 + 3 * width} bytes, {len(data) - offset} are there")
    return AmdCert(header, int.from_bytes(e, "little"), int.from_bytes(n, "little"), signature)


def parse_ca(data: bytes) -> tuple[AmdCert, AmdCert]:
    """(ASK, ARK) of a bundle in AMD's download order.

    Raises ValueError when it is no such bundle.
    """
    ask = parse_amd_cert(data)
    return ask, parse_amd_cert(data, ask.size)


class Root(NamedTuple):
    """A product line's two key ids, as stored, and SHA-384 over its ARK's header, e and n where it is known."""

    ark_id: bytes
    ask_id: bytes
    ark_sha384: bytes | None


def _root(ark: str, ask: str, sha384: str = "") -> Root:
    return Root(bytes.fromhex(ark), bytes.fromhex(ask), bytes.fromhex(sha384) or None)


# firmware.md 4.3; the hashes are those of the public ARK files (signature left out).
AMD_ROOTS = {
    "Naples": _root("1bb987c359494606b174945601c9ea5b", "e139970cfc464377ae61b289e2f9e96e",
        "bf66a6df42f452d936a91a48943512517147b7d487e9c5b9ad8e53768c93d507e24a5724871ba783b4b5d714d192537f"),
    "Rome": _root("e6002122fb58419399d15fee7b131351", "c6cbcf145b3146f498e40ecb4ad4fded",
        "3d2c1157c29ef7bd4207fc0c8b08db080e579ceba267f8c93bec8dce73f5a5e2e60d959ac37ea82176c1a0c61ae203ed"),
    "Milan": _root("94c38e4177d0479292a7ae671d083fb6", "73478c05cc174bfeb06e718fa75dc3c8"),
    "Genoa": _root("9f9d4a8fe761456599f6946c4c010f3a", "acbb4ad21acc436fb3e932f812cd01b0"),
    "Turin": _root("d05c3a8bde484904b49552422ceb3942", "15051693f7304d65a527b4a7f3f7cb77"),
}

_SIZES = {2084: "sev", 832: "amd", 1600: "amd"}


def parse_cert(data: bytes) -> SevCert | AmdCert:
    """A certificate file of either format, told apart by its size.

    Raises ValueError for any other size.
    """
    kind = _SIZES.get(len(data))
    if kind is None:
        raise ValueError(f"a certificate has 2084, 832 or 1600 bytes, this file has {len(data)}")
    return SevCert.unpack(data) if kind == "sev" else parse_amd_cert(data)
