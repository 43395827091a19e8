"""Launch secrets: what the owner sends once the measurement has convinced him.

A packet is a header of 52 bytes and a ciphertext. From API 0.17 on its MAC
covers the measurement too, so that it opens for this very launch and no other.
Source: firmware.md 4.7 and 4.11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sevlab.abi.guid import guid_text
from sevlab.abi.secret import LUKS_KEY_GUID, build_secret, parse_secret
from sevlab.abi.session import Measurement, PacketHeader, secret_message
from sevlab.crypto import aes_ctr, hmac256, kdf, sha256
from sevlab.given import shown
from sevlab.owner.given import need_bytes, need_trace
from sevlab.trace import Event, Trace, u32

LIMIT = 0x4000  # Linux copies no larger blob to the firmware (SEV_FW_BLOB_MAX_SIZE), which itself would take 0x5000
KNOWN = {"luks-key": LUKS_KEY_GUID}  # the name that libvirt's tool gives the entry of a disk passphrase


class SecretWrapped(Event, lane="owner"):
    """The guest owner sealed a secret for one launch."""

    length: u32


def secret_table(entries: Mapping[str | bytes, bytes] | Iterable[tuple[str | bytes, bytes]]) -> bytes:
    """The table of GUIDs and data that firmware and kernel find secrets in, zero-padded to a multiple of 16 bytes.

    A GUID is text, its 16 bytes, or the name "luks-key". Raises ValueError for
    another text or length, TypeError for what are no such pairs.
    """
    found = []
    for entry in entries.items() if isinstance(entries, Mapping) else entries if isinstance(entries, Iterable) else (entries,):
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TypeError(f"a secret table is made of pairs of GUID and bytes, and this is none: {shown(entry)}")
        key, data = entry
        named = KNOWN.get(key, key) if isinstance(key, str) else need_bytes("a GUID that is no text", key)
        found.append((named, need_bytes(f"the secret of {key!r}", data)))
    return build_secret(found)


def secret_entries(table: bytes) -> list[tuple[str, bytes]]:
    """The (GUID as text, data) entries of a secret table, in order.

    Raises ValueError when the bytes are no such table.
    """
    return [(guid_text(key), data) for key, data in parse_secret(need_bytes("a secret table", table))]


def wrap_secret(
    tek: bytes,
    tik: bytes,
    measure: bytes,
    payload: bytes,
    *,
    iv: bytes | None = None,
    api: Sequence[int] = (0, 24),
    trace: Trace | None = None,
) -> tuple[bytes, bytes]:
    """Seal a payload for the launch with this measurement: (header of 52 bytes, ciphertext).

    `measure` is the 32-byte MEASURE or the 48-byte blob that begins with it;
    `api` the platform's (major, minor, ...): firmware up to 0.16 leaves the
    measurement out of the MAC. Without an `iv` one is derived from TIK,
    measurement and payload, so that no two payloads share a keystream.

    Raises TypeError for what is not bytes, ValueError for keys, IV or measurement
    of a wrong length, an `api` without its two numbers and for a payload that is empty, no multiple of 16 bytes, or above 16 KiB.
    """
    need_trace(trace)
    tek, tik, measure = need_bytes("a TEK", tek), need_bytes("a TIK", tik), need_bytes("a measurement", measure)
    payload, iv = need_bytes("a payload", payload), None if iv is None else need_bytes("an IV", iv)
    if not isinstance(api, Sequence) or len(api) < 2 or not all(isinstance(number, int) for number in api):
        raise ValueError(f"an API version is (major, minor, ...), not {api!r}")
    if len(tek) != 16 or len(tik) != 16:
        raise ValueError(f"TEK and TIK have 16 bytes each, these have {len(tek)} and {len(tik)}")
    if len(measure) not in (32, Measurement.SIZE):
        raise ValueError(f"a measurement has 32 bytes, or 48 with its nonce, this one has {len(measure)}")
    if iv is not None and len(iv) != 16:
        raise ValueError(f"an IV has 16 bytes, this one has {len(iv)}")
    if not payload or len(payload) % 16:
        raise ValueError(f"a secret has a multiple of 16 bytes, and not none: this one has {len(payload)} (secret_table pads)")
    if len(payload) > LIMIT:
        raise ValueError(f"a secret has at most {LIMIT} bytes on its way through KVM, this one has {len(payload)}")

    measure = measure[:32]
    if iv is None:
        iv = kdf(tik, "sevlab owner secret iv", measure + sha256(payload), 16)
    ciphertext = aes_ctr(tek, iv, payload)
    message = secret_message(api, 0, iv, len(ciphertext), len(ciphertext), ciphertext, measure)
    if trace is not None:
        trace.emit(SecretWrapped, len(payload))
    return PacketHeader(flags=0, iv=iv, mac=hmac256(tik, message)).pack(), ciphertext
