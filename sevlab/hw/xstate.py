"""Floating-point and vector state: the image that XSAVE writes, and where it lies in a sealed save area.

Three components: x87, SSE, AVX (XCR0 bits 0 to 2), not compacted: 512 bytes of
legacy region, 64 of header, 256 of upper halves of YMM.
"""

from __future__ import annotations

import struct

XSAVE_SIZE = 4096
HEADER = 512  # XSTATE_BV, XCOMP_BV
XMM, YMM = 160, 576
SUPPORTED = 7
FCW, MXCSR, MXCSR_MASK = 0x037F, 0x1F80, 0x2FFFF

_LEGACY = struct.Struct("<4H2Q2I")  # fcw fsw ftw fop rip rdp mxcsr mxcsr_mask
_AREA = struct.Struct("<QI4H4xQ")  # of a save area, at 0x400: dp mxcsr ftw fsw fcw fop (ds cs) rip
AREA, AREA_X87, AREA_XMM, AREA_YMM = 0x400, 0x420, 0x470, 0x570


def initial() -> bytearray:
    """The image of a processor out of reset."""
    image = bytearray(XSAVE_SIZE)
    _LEGACY.pack_into(image, 0, FCW, 0, 0, 0, 0, 0, MXCSR, MXCSR_MASK)
    return image


def finish(image: bytearray) -> bytes:
    """The image with the header that XSAVE writes: a bit for each component that is not in its initial state."""
    used = int(bytes(image[:24]) != initial()[:24] or any(image[32:XMM]))
    used |= 2 * any(image[XMM : XMM + 256]) | 4 * any(image[YMM : YMM + 256])
    struct.pack_into("<2Q", image, HEADER, used, 0)
    return bytes(image)


def from_area(area: bytes | bytearray) -> bytes:
    """What XSAVE writes on a processor with this save area (in clear)."""
    image = initial()
    dp, mxcsr, ftw, fsw, fcw, fop, rip = _AREA.unpack_from(area, AREA)
    _LEGACY.pack_into(image, 0, fcw, fsw, ftw, fop, rip, dp, mxcsr, MXCSR_MASK)
    for n in range(8):
        image[32 + 16 * n : 40 + 16 * n] = area[AREA_X87 + 8 * n : AREA_X87 + 8 * n + 8]
        image[40 + 16 * n : 42 + 16 * n] = area[AREA_X87 + 64 + 2 * n : AREA_X87 + 66 + 2 * n]
    image[XMM : XMM + 256] = area[AREA_XMM : AREA_XMM + 256]
    image[YMM : YMM + 256] = area[AREA_YMM : AREA_YMM + 256]
    return finish(image)


def into_area(area: bytearray, image: bytes | bytearray) -> None:
    """Put an image's state where a save area has it."""
    fcw, fsw, ftw, fop, rip, dp, mxcsr, _ = _LEGACY.unpack_from(image)
    _AREA.pack_into(area, AREA, dp, mxcsr, ftw, fsw, fcw, fop, rip)
    slots = [image[at : at + 16] for at in range(32, XMM, 16)]
    area[AREA_X87 : AREA_X87 + 80] = b"".join(slot[:8] for slot in slots) + b"".join(slot[8:10] for slot in slots)
    area[AREA_XMM : AREA_XMM + 256] = image[XMM : XMM + 256]
    area[AREA_YMM : AREA_YMM + 256] = image[YMM : YMM + 256]
