"""`sevlab` as its users run it, and the files they bring."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from sevlab.abi import boot, ovmf
from sevlab.cli.main import main


class Ran(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def sevlab(capsys, tmp_path, monkeypatch) -> Callable[..., Ran]:
    """sevlab("--seed", 7, "ok") -> Ran, in this process and in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Ran:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(sevlab) -> Callable[..., str]:
    """refused(status, ...): the command fails with that status and one line, which is returned; nothing is left behind."""

    def run(status: int, *words: object) -> str:
        before = sorted(Path.cwd().rglob("*"))
        found = sevlab(*words)
        lines = [line for line in found.err.splitlines() if not line.startswith("sevlab: --seed ")]
        assert (found.status, found.out) == (status, ""), found
        assert len(lines) >= 1 and lines[-1].startswith("sevlab: ") and "Traceback" not in found.err, found
        assert sorted(Path.cwd().rglob("*")) == before
        return lines[-1].removeprefix("sevlab: ")

    return run


def image(pages: int = 2, *entries: tuple[bytes, bytes]) -> bytes:
    """A firmware image of `pages` pages whose bytes are no program of anybody's, with these entries in its table."""
    body = b"".join(number.to_bytes(4, "little") for number in range(pages * 0x400))
    return ovmf.with_table(body, entries) if entries else body


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Good files and bad ones: firmware of several kinds, blobs for direct boot, things of the wrong length."""
    contents = {
        "full.fd": image(
            2, ovmf.reset_block(boot.RESET_BLOCK), ovmf.secret_area(*boot.SECRET_AREA), ovmf.hash_area(*boot.HASH_AREA)
        ),
        "debian.fd": image(2, ovmf.reset_block(boot.RESET_BLOCK), ovmf.secret_area(0, 0), ovmf.hash_area(0, 0)),
        "bare.fd": image(2),
        "empty.fd": b"",
        "odd.fd": image(2)[:-1],
        "large.fd": bytes((16 << 20) + 0x1000),
        "kernel": b"kernel-image-bytes",
        "initrd": b"initrd-bytes",
        "empty": b"",
        "short": b"short",
        "header": bytes(52),
        "header.b64": base64.b64encode(bytes(52)),
        "payload": bytes(64),
        "long": bytes(0x4010),
        "session": bytes(128),
        "godh": bytes(2084),
        "text": b"the secret\n",
    }
    folder = tmp_path / "given"
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents} | {"missing": folder / "missing", "folder": folder}
