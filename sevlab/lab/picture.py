"""A picture to hide: a penguin of flat greys, one byte a pixel, as guest memory holds it.

Flat colours make the point: 16 neighbouring pixels of one grey are one block of
the cipher, again and again.
"""

from __future__ import annotations

from functools import cache

WIDTH = 256  # pixels a line, 16 blocks; the picture is as high as it is wide: 64 KiB
SKY, SNOW, BLACK, WHITE, BEAK = 150, 225, 30, 250, 190

# Ellipses in the order they are painted: (x, y, half width, half height, grey), in 1/256 of the picture.
SHAPES = (
    (128, 300, 230, 92, SNOW),  # the ground
    (128, 148, 66, 92, BLACK),  # body
    (128, 78, 45, 46, BLACK),  # head
    (70, 150, 18, 62, BLACK),  # wings
    (186, 150, 18, 62, BLACK),
    (128, 162, 46, 72, WHITE),  # belly
    (113, 72, 15, 20, WHITE),  # face
    (143, 72, 15, 20, WHITE),
    (115, 74, 6, 8, BLACK),  # eyes
    (141, 74, 6, 8, BLACK),
    (128, 96, 17, 9, BEAK),
    (103, 240, 26, 10, BEAK),  # feet
    (153, 240, 26, 10, BEAK),
)


@cache
def penguin(shift: int = 0, width: int = WIDTH) -> bytes:
    """The picture, `width` by `width` bytes, the penguin moved `shift` pixels to the right."""
    lines = []
    for y in range(width):
        line = bytearray([SKY]) * width
        for cx, cy, rx, ry, grey in SHAPES:
            down = (y * 256 / width - cy) / ry
            if abs(down) >= 1:
                continue
            half = rx * (1 - down * down) ** 0.5
            offset = 0 if grey == SNOW else shift
            left = max(round((cx - half) * width / 256) + offset, 0)
            right = min(round((cx + half) * width / 256) + offset, width)
            line[left:right] = bytes([grey]) * max(right - left, 0)
        lines.append(bytes(line))
    return b"".join(lines)
