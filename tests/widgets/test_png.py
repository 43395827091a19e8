"""The PNG writer, judged by a reader of our own and by the standard's own checks."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets.png import png

COLOURS = [f"#{i:02x}{255 - i:02x}80" for i in range(0, 256, 16)]


def read(data: bytes) -> tuple[np.ndarray, list[str], bytes]:
    """Colour numbers, palette and transparency of a four-bit indexed PNG; every checksum is checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + size
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (4, 3, [0, 0, 0])
    line = 1 + (width + 1) // 2
    raw = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, line)
    assert not raw[:, 0].any()  # no filter
    pixels = np.stack((raw[:, 1:] >> 4, raw[:, 1:] & 15), axis=2).reshape(height, -1)[:, :width]
    palette = [f"#{chunks[b'PLTE'][i : i + 3].hex()}" for i in range(0, len(chunks[b"PLTE"]), 3)]
    return pixels, palette, chunks.get(b"tRNS", b"")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_pixel_comes_back(height, width, scale, random):
    picture = np.array([[random.randrange(16) for _ in range(width)] for _ in range(height)], np.uint8)

    pixels, palette, _ = read(png(picture, COLOURS, scale=scale))

    assert palette == COLOURS
    assert (pixels == picture.repeat(scale, axis=0).repeat(scale, axis=1)).all()


def test_one_colour_may_be_transparent():
    _, _, alpha = read(png([[0, 1, 2]], COLOURS[:3], clear=2))

    assert alpha == bytes((255, 255, 0))


def test_a_browser_and_a_plotting_library_may_read_it_too():
    image = pytest.importorskip("matplotlib.image")
    import io

    found = image.imread(io.BytesIO(png([[0, 1], [2, 0]], ["#ff0000", "#00ff00", "#0000ff"])), format="png")

    assert (found[..., :3] * 255).astype(int).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 0, 0]]]


@pytest.mark.parametrize(
    ("picture", "colours"),
    [
        ([[0] * 3], [*COLOURS, "#000000"]),
        ([[3]], COLOURS[:3]),
        ([[-1]], COLOURS),
        ([0, 1], COLOURS),
        (np.zeros((0, 4)), COLOURS),
        ([[0]], ["red"]),
    ],
    ids=["seventeen colours", "no such colour", "negative", "one-dimensional", "no pixel", "a colour by name"],
)
def test_what_is_no_picture_is_refused(picture, colours):
    with pytest.raises(ValueError):
        png(picture, colours)
