"""What a browser needs to draw a widget: its ES modules and style sheets, as one program that the kernel sends.

A notebook keeps only loader.js, a thousand letters that ask for the rest, so that it
stays small when it is saved and the text crosses the wire once a page.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sevlab_widgets.picture import DEFS

HERE = Path(__file__).parent


class Program(NamedTuple):
    """The loader with its hash filled in, the hash, and the compressed parts: script and style sheet."""

    loader: str
    hash: str
    parts: list[bytes]


def _text(names: Iterable[str], kind: str) -> str:
    return "\n".join(path.read_text() for name in names if (path := HERE / f"{name}.{kind}").is_file())


def program(names: Iterable[str], maker: str) -> Program:
    """The program of the files `names`, in their order; `maker` is the function among them that makes the picture."""
    names = list(names)
    script = f"const DEFS = {json.dumps(DEFS)};\n{_text(names, 'js')}\nexport const render = frame({maker});\n"
    texts = [script, _text(names, "css")]
    hash_ = hashlib.sha256("".join(texts).encode()).hexdigest()[:12]
    loader = (HERE / "loader.js").read_text().replace("@HASH@", hash_)
    return Program(loader, hash_, [zlib.compress(text.encode(), 9) for text in texts])
