"""What comes in from files and the command line, and what goes out to files.

Every function here says in one line what is wrong, by raising Failed or Misused:
no verb leaves a traceback, and none leaves half of its files behind.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from errno import EISDIR
from pathlib import Path

from sevlab.abi.sev import POLICY_RESERVED

PAGE = 0x1000
FIRMWARE_LIMIT = 16 << 20  # bytes of a firmware image
BLOB_LIMIT = 1 << 30  # bytes of any other file that is read whole


class Failed(Exception):
    """The command cannot do what it was asked: one line, exit status 1."""

    status = 1


class Misused(Failed):
    """The command line itself is wrong: one line, exit status 2."""

    status = 2


# ------------------------------------------------------------- numbers


def integer(text: str, what: str = "a number", *, most: int = (1 << 64) - 1) -> int:
    """A number in decimal or, with 0x, in hex; 0 to `most`.

    Raises Misused.
    """
    if not re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", text):
        raise Misused(f"{what}: {short(text)!r} is no number (decimal, or hex with 0x)")
    digits = text.lstrip("0") or "0"  # Python reads no decimal number of more than 4300 digits
    value = int(text, 16) if text[:2].lower() == "0x" else int(digits) if len(digits) < 100 else most + 1
    if value > most:
        raise Misused(f"{what}: {short(text)} is more than {most:#x}")
    return value


def short(text: str) -> str:
    """A word of the command line as a complaint quotes it: its beginning, where it is long."""
    return text if len(text) <= 60 else f"{text[:48]}..."


def number(what: str, most: int = (1 << 64) - 1) -> Callable[[str], int]:
    """A reader of such numbers, for an option named `what`."""
    return lambda text: integer(text, what, most=most)


def policy(text: str) -> int:
    """A guest policy: 32 bits, bits 6 to 15 clear.

    Raises Misused. The firmware would answer POLICY_FAILURE, once a session binds the policy.
    """
    value = integer(text, "policy", most=0xFFFFFFFF)
    if value & POLICY_RESERVED:
        bits = ", ".join(str(bit) for bit in range(6, 16) if value >> bit & 1)
        raise Misused(f"policy {value:#x}: the reserved bits 6 to 15 must be zero, these are not: {bits}")
    return value


def api_version(text: str) -> tuple[int, int, int]:
    """A firmware version: MAJOR.MINOR.BUILD, each 0 to 255.

    Raises Misused.
    """
    parts = text.split(".")
    if len(parts) != 3 or not all(re.fullmatch("[0-9]{1,9}", part) and int(part) < 256 for part in parts):
        raise Misused(f"firmware API: {short(text)!r} is no MAJOR.MINOR.BUILD with numbers from 0 to 255, as 0.24.15 is")
    major, minor, build = map(int, parts)
    return major, minor, build


def place(what: str) -> Callable[[str], str]:
    """A reader of paths, for an option named `what`: anything but nothing, which Python would take for the current folder."""

    def path(text: str) -> str:
        if not text:
            raise Misused(f"{what}: the name of a file or folder is missing")
        return text

    return path


# ------------------------------------------------------------- reading


def read(path: str | Path, what: str, *, most: int = BLOB_LIMIT) -> bytes:
    """The bytes of a file, at most `most` and at least one.

    Raises Failed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Failed(f"{what} {path}: {os.strerror(error.errno or 0)}") from None
    if not data:
        raise Failed(f"{what} {path}: the file is empty")
    if len(data) > most:
        raise Failed(f"{what} {path}: more than {most:,} bytes".replace(",", " "))
    return data


def firmware(path: str) -> bytes:
    """A firmware image: whole pages, at most 16 MiB.

    Raises Failed.
    """
    image = read(path, "firmware", most=FIRMWARE_LIMIT)
    if len(image) % PAGE:
        raise Failed(f"firmware {path}: {len(image)} bytes are no multiple of 4096")
    return image


def _unbase64(data: bytes) -> bytes | None:
    """What a base64 text stands for (line breaks are ignored), None when it is none."""
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        return None


def blob(path: str | Path, what: str, *lengths: int, most: int = 1 << 20) -> bytes:
    """A file that holds raw bytes or their base64; of one of `lengths`, if any are given.

    Raises Failed.
    """
    data = read(path, what, most=most)
    text = _unbase64(data)
    for candidate in (data, text):
        if candidate and len(candidate) in lengths:
            return candidate
    if not lengths:
        return text or data
    wanted = " or ".join(str(length) for length in lengths)
    found = f"{len(data)} bytes" + (f", {len(text)} from base64" if text is not None else "")
    raise Failed(f"{what} {path}: takes {wanted} bytes, raw or base64, and has {found}")


def blob_or_text(text: str, what: str, *lengths: int) -> bytes:
    """A file as `blob` reads it, or the base64 itself: sevctl takes either.

    Raises Failed.
    """
    if os.path.isfile(text):
        return blob(text, what, *lengths)
    data = _unbase64(os.fsencode(text))
    if data is None:
        raise Failed(f"{what}: {short(text)!r} is neither a file nor base64")
    if lengths and len(data) not in lengths:
        raise Failed(f"{what}: takes {' or '.join(map(str, lengths))} bytes, this base64 has {len(data)}")
    return data


# ------------------------------------------------------------- writing


def save(contents: Mapping[Path, bytes], *, secret: tuple[Path, ...] = ()) -> None:
    """Write these files, all or none. Those in `secret` are readable by their owner only.

    Each is written beside its place and then renamed, so that no reader ever
    sees half of one; through a symbolic link, at the place it names. What is no
    file, /dev/null or a pipe, is written to and stays what it is. Raises Failed.
    """
    written: dict[Path, Path] = {}
    streams: dict[Path, bytes] = {}
    try:
        for path, data in contents.items():
            if path.is_dir():
                raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
            if _stream(path):
                streams[path] = data
                continue
            target = Path(os.path.realpath(path))
            handle, name = tempfile.mkstemp(prefix=".sevlab.", dir=target.parent)
            written[target] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            if path not in secret:
                written[target].chmod(0o666 & ~_umask())
        for path, source in written.items():
            source.replace(path)
        for path, data in streams.items():
            path.write_bytes(data)
    except OSError as error:
        raise Failed(f"{path}: {os.strerror(error.errno or 0)}") from None
    finally:
        for source in written.values():
            with suppress(OSError):
                source.unlink(missing_ok=True)


def _stream(path: Path) -> bool:
    """Whether this is something to write to and not to replace."""
    return (path.exists() and not path.is_file()) or path.parts[:2] in (("/", "dev"), ("/", "proc"))


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
