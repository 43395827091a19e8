"""The machine that a command line speaks of: chip, kernel, firmware, seed, and the platform's own 32 KiB."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sevlab.cli.files import Failed, Misused, save

if TYPE_CHECKING:
    from sevlab.crypto import Stream
    from sevlab.host import Host
    from sevlab.kvm.process import Process

# The option's word, and the preset of sevlab.designs.
DESIGNS = {
    "posted": "POSTED",
    "linux-5.13": "LINUX_5_13",
    "linux-6.1": "LINUX_6_1",
    "linux-6.1-fixed": "LINUX_6_1_FIXED",
    "linux-6.12": "LINUX_6_12",
}
NV_LEN = 0x8000  # what INIT_EX keeps


def note(args: argparse.Namespace, line: str) -> None:
    """One line of diagnostics, unless --quiet."""
    if not args.quiet:
        print(f"sevlab: {line}", file=sys.stderr)


class NvFile:
    """The platform's persistent area, kept in a file; the file changes only when `keep` is called."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.data = b"\xff" * NV_LEN
        try:
            with self.path.open("rb") as file:
                self.data = file.read(NV_LEN + 1)
        except FileNotFoundError:
            if not self.path.absolute().parent.is_dir():
                raise Failed(f"nv {path}: its folder does not exist") from None
        except OSError as error:
            raise Failed(f"nv {path}: {error.strerror}") from None
        if len(self.data) != NV_LEN:
            raise Failed(f"nv {path}: takes {NV_LEN} bytes, this file has {'more' if len(self.data) > NV_LEN else len(self.data)}")
        self.before = self.data

    def read(self) -> bytes:
        return self.data

    def write(self, data: bytes) -> None:
        self.data = bytes(data)

    def keep(self) -> None:
        """Write the file, if anything in it changed."""
        if self.data != self.before or not self.path.exists():
            save({self.path: self.data}, secret=(self.path,))


@contextmanager
def machine(args: argparse.Namespace, **options: Any) -> Iterator[Host]:
    """The host that the global options describe, closed at the end; its platform is kept in --nv's file if all went well.

    Raises Failed for what no such machine can be.
    """
    from sevlab import designs
    from sevlab.crypto import Stream
    from sevlab.host import Host

    design = getattr(designs, DESIGNS[args.design])
    stream = Stream(args.seed)
    nv = NvFile(args.nv) if args.nv else None
    if nv is not None:
        _recognise(nv, stream, args.firmware_api)
    try:
        host = Host(args.chip, design, seed=stream.seed, api=args.firmware_api, nv=nv, **options)
    except ValueError as error:
        raise Failed(str(error)) from None
    with host:
        if args.seed is None:
            note(args, f"--seed {host.seed!r} is this very machine again")
        yield host
    if nv is not None:
        nv.keep()


def _recognise(nv: NvFile, stream: Stream, api: tuple[int, int, int]) -> None:
    """Refuse an area that this chip did not write: at INIT, the firmware would erase it, as real firmware does."""
    from sevlab.psp.identity import Identity
    from sevlab.psp.rules import Refused
    from sevlab.psp.store import unseal

    try:
        unseal(nv.data, Identity(stream, api).cuk)
    except Refused:
        raise Failed(
            f"nv {nv.path}: another platform wrote it (use its --seed), or it was changed; the firmware would erase it"
        ) from None


def platform_of(args: argparse.Namespace, verb: str) -> None:
    """Ask for --nv where a verb changes the platform: without a file there would be nothing left of it.

    Raises Misused.
    """
    if not args.nv:
        raise Misused(f"{verb} changes the platform, which is kept in a file: sevlab --nv FILE {verb} ...")


def issue(process: Process, fd: int, command: int, data: int = 0) -> None:
    """One SEV_ISSUE_CMD on an open /dev/sev; a refusal carries the command's name."""
    from sevlab.abi import sev_dev

    names = {value: key for key, value in vars(sev_dev).items() if key.startswith("SEV_P") or key.startswith(("SEV_G", "SEV_F"))}
    try:
        process.ioctl(fd, sev_dev.SEV_ISSUE_CMD, sev_dev.sev_issue_cmd(cmd=command, data=data))
    except OSError as error:
        error.step = names.get(command, "SEV_ISSUE_CMD").removeprefix("SEV_")  # type: ignore[attr-defined]
        raise


def platform_status(process: Process, fd: int) -> Any:
    """PLATFORM_STATUS through /dev/sev: a sev_user_data_status."""
    from sevlab.abi import sev_dev

    where = process.put(sev_dev.sev_user_data_status())
    issue(process, fd, sev_dev.SEV_PLATFORM_STATUS, where)
    return process.get(where, sev_dev.sev_user_data_status)
