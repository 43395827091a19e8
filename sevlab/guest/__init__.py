"""Guests: programs of the emulated processor, and the firmware that boots them.

A guest sees instructions, not the machine: of the hardware nothing is imported
here but `hw.isa`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sevlab.abi.boot import PAGE
from sevlab.guest.firmware import firmware, firmware_image, halt
from sevlab.guest.programs import counter, diary, echo_io, hello, scribe
from sevlab.guest.secret import ovmf, read_secret
from sevlab.guest.smp import ap_reset, ap_work, smp_firmware, smp_os
from sevlab.hw.isa import Program, program

__all__ = [
    "Program", "ap_reset", "ap_work", "catalogue", "counter", "diary", "echo_io", "firmware", "firmware_image", "halt",
    "hello", "ovmf", "program", "read_secret", "scribe", "smp_firmware", "smp_os",
]  # fmt: skip


def catalogue() -> Iterator[tuple[bytes, Program, tuple[Any, ...]]]:
    """The course's own programs, as (page, program, arguments): what every host knows without being told."""
    yield firmware_image()[-PAGE:], firmware, ()
    for one in (ap_reset, ap_work, smp_os):
        yield one.image(), one, ()
    for one in (hello, counter, echo_io, read_secret, diary, scribe):
        yield one.image(), one, ()
        yield firmware_image(one)[-PAGE:], one, ()
