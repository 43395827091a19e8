"""What survives INIT and power: the platform's keys and its ownership, in 32 KiB that anybody may hold.

The area lies in flash (INIT) or in a buffer of the host's driver, which keeps it
in a file (INIT_EX). Either way the host can read it, so it is encrypted and
MACed under keys that only this chip derives. An area of 0xFF is an empty one.
Source: firmware.md 1.5; the format is ours: iv(16), mac(32), then ciphertext.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple, Protocol

from sevlab import crypto
from sevlab.abi.cert import SevCert
from sevlab.abi.sev import NV_LEN, Status
from sevlab.hw.dram import Dram
from sevlab.psp.rules import need
from sevlab.wire import Wire, u32

EMPTY = b"\xff" * NV_LEN
MAGIC = b"sevlab nv 1"
_HEAD = 48  # iv and mac
_COORDINATE = 48


class Key(NamedTuple):
    """A key pair of the platform: the private scalar (0 where somebody else has it) and the certificate."""

    d: int
    cert: SevCert


class Keys(NamedTuple):
    """All that the platform remembers for good.

    `owner` is 1 when somebody outside owns the platform. The counters say how
    many keys of each kind were ever made, so that no two are alike although
    every one comes from the seed.
    """

    owner: int = 0
    oca: Key | None = None
    pek: Key | None = None
    pdh: Key | None = None
    ocas_made: int = 0
    peks_made: int = 0
    pdhs_made: int = 0

    def counting(self, other: Keys) -> Keys:
        """These keys with no counter behind the other's: a counter never goes back while the machine is on."""
        made = ("ocas_made", "peks_made", "pdhs_made")
        return self._replace(**{field: max(getattr(self, field), getattr(other, field)) for field in made})


class Nv(Protocol):
    """Where the 32 KiB lie."""

    def read(self) -> bytes: ...

    def write(self, data: bytes) -> object: ...


class Flash:
    """The chip's own flash: an area in memory. `read()` after the work is what a file should keep.

    Raises ValueError for anything but 32 KiB.
    """

    def __init__(self, data: bytes = EMPTY) -> None:
        if len(data) != NV_LEN:
            raise ValueError(f"the persistent area has {NV_LEN} bytes, this one {len(data)}")
        self.data = bytes(data)

    def read(self) -> bytes:
        return self.data

    def write(self, data: bytes) -> None:
        self.data = bytes(data)


class DriverArea:
    """INIT_EX's buffer: 32 KiB of the host's memory at `hpa`; its driver brings them to a file."""

    def __init__(self, dram: Dram, hpa: int) -> None:
        self.dram = dram
        self.hpa = hpa

    def read(self) -> bytes:
        return self.dram.read(self.hpa, NV_LEN)

    def write(self, data: bytes) -> None:
        self.dram.write(self.hpa, data)


class _Record(Wire):
    """The plaintext of the area; a key of which `holds` has no bit is absent."""

    magic: Annotated[bytes, 16] = b""        # 0x0000
    owner: u32 = 0                           # 0x0010
    holds: u32 = 0                           # 0x0014  bit 0 OCA, bit 1 PEK, bit 2 PDH
    ocas_made: u32 = 0                       # 0x0018
    peks_made: u32 = 0                       # 0x001C
    pdhs_made: u32 = 0                       # 0x0020
    reserved: u32 = 0                        # 0x0024
    oca_d: Annotated[bytes, 48] = b""        # 0x0028
    pek_d: Annotated[bytes, 48] = b""        # 0x0058
    pdh_d: Annotated[bytes, 48] = b""        # 0x0088
    oca: Annotated[bytes, 2084] = b""        # 0x00B8
    pek: Annotated[bytes, 2084] = b""        # 0x08DC
    pdh: Annotated[bytes, 2084] = b""        # 0x1100


_KINDS = ("oca", "pek", "pdh")


def seal(keys: Keys, cuk: bytes) -> bytes:
    """The 32 KiB that hold `keys`, readable by the chip with this unique key only."""
    record = _Record(magic=MAGIC.ljust(16, b"\0"), owner=keys.owner)
    record.ocas_made, record.peks_made, record.pdhs_made = keys.ocas_made, keys.peks_made, keys.pdhs_made
    for bit, kind in enumerate(_KINDS):
        key: Key | None = getattr(keys, kind)
        if key is not None:
            record.holds |= 1 << bit
            setattr(record, f"{kind}_d", key.d.to_bytes(_COORDINATE, "big"))
            setattr(record, kind, key.cert.pack())
    plain = record.pack().ljust(NV_LEN - _HEAD, b"\0")
    secret, integrity = _area_keys(cuk)
    iv = crypto.hmac256(integrity, b"iv" + plain)[:16]  # from the content: no two contents share a key stream
    ciphertext = crypto.aes_ctr(secret, iv, plain)
    return iv + crypto.hmac256(integrity, iv + ciphertext) + ciphertext


def unseal(area: bytes, cuk: bytes) -> Keys:
    """The keys in an area; of an empty one, none.

    Refuses with SECURE_DATA_INVALID an area that another chip wrote, or that was changed.
    """
    if area == EMPTY:
        return Keys()
    secret, integrity = _area_keys(cuk)
    iv, mac, ciphertext = area[:16], area[16:_HEAD], area[_HEAD:]
    need(crypto.same(crypto.hmac256(integrity, iv + ciphertext), mac), Status.SECURE_DATA_INVALID)  # not what this chip wrote

    record = _Record.unpack(crypto.aes_ctr(secret, iv, ciphertext))
    held = {
        kind: Key(int.from_bytes(getattr(record, f"{kind}_d"), "big"), SevCert.unpack(getattr(record, kind)))
        for bit, kind in enumerate(_KINDS)
        if record.holds >> bit & 1
    }
    return Keys(record.owner, **held, ocas_made=record.ocas_made, peks_made=record.peks_made, pdhs_made=record.pdhs_made)


def _area_keys(cuk: bytes) -> tuple[bytes, bytes]:
    """The chip's keys for the area: encryption and integrity."""
    seed = crypto.sha256(cuk)
    return crypto.kdf(seed, "sevlab-nv-encryption"), crypto.kdf(seed, "sevlab-nv-integrity", size=32)
