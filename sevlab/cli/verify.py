"""`sevlab verify`: is this a platform that AMD vouches for, or the emulator's own?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sevlab.abi.cert import SevCert
from sevlab.cli.files import Failed, Misused, place, read
from sevlab.cli.machine import machine

MOST = 1 << 16  # bytes of a certificate or chain file
CA_SIZES = (832, 1600)


def add(verbs: Any) -> None:
    """Put `verify` on the command line."""
    verb = verbs.add_parser("verify", help="verify a platform's certificates")
    verb.add_argument(
        "path",
        nargs="?",
        type=place("verify"),
        metavar="DIR",
        help="a folder that `export` wrote, or a chain file (default: this platform's own)",
    )
    verb.add_argument("--sev", metavar="FILE", help="PDH, PEK, OCA and CEK in one file")
    verb.add_argument("--oca", metavar="FILE", help="another OCA certificate")
    verb.add_argument("--ca", metavar="FILE", help="ASK and ARK in one file")
    verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print every step of trust; 0 when the chain holds up to a known root."""
    from sevlab.owner import verify_chain

    if args.path is not None and (args.sev or args.oca or args.ca):
        raise Misused("verify: takes a folder, or the files that --sev, --oca and --ca name")
    verdict = verify_chain(_chain(args))
    if not args.quiet:
        for edge in verdict.edges:
            mark = {True: "ok  ", False: "no  ", None: "-   "}[edge.ok]
            what = "is a root the owner knows" if edge.signer == "owner" else f"is signed by {edge.signer.upper()}"
            print(f"{mark}{edge.subject.upper()} {what}")
    if not verdict.ok:
        raise Failed(f"the chain is refused: {verdict.reason}")
    print(verdict)
    return 0


def _chain(args: argparse.Namespace) -> Mapping[str, bytes]:
    """The certificates by name; b"" for one that is not there.

    Raises Failed.
    """
    from sevlab.owner.chain import NAMES, Chain

    if args.path is None and not args.sev:
        with machine(args) as host:
            found = {key.removesuffix(".cert"): data for key, data in host.chain().items()}
    elif args.path is not None and Path(args.path).is_dir():
        files = {name: Path(args.path) / f"{name}.cert" for name in NAMES}
        missing = [path.name for path in files.values() if not path.exists()]
        if missing:
            raise Failed(f"{args.path}: {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
        return {name: read(path, "certificate", most=MOST) for name, path in files.items()}
    else:
        path = args.path or args.sev
        try:
            chain = Chain.from_bytes(read(path, "chain", most=MOST))
        except ValueError as error:
            raise Failed(f"{path}: {error}") from None
        found = {name: getattr(chain, name) for name in NAMES}
    if args.oca:
        found["oca"] = read(args.oca, "OCA", most=MOST)[: SevCert.SIZE]
    if args.ca:
        found["ask"], found["ark"] = _ca(args.ca)
    elif not found["ark"] and not found["ask"]:
        raise Failed(f"{args.path or args.sev}: the file ends with the CEK; --ca names the file with ASK and ARK")
    return found


def _ca(path: str) -> tuple[bytes, bytes]:
    """ASK and ARK of a file that holds the two, in this order."""
    data = read(path, "CA chain", most=MOST)
    if len(data) // 2 not in CA_SIZES or len(data) % 2:
        raise Failed(f"CA chain {path}: ASK and ARK take 832 or 1600 bytes each, the file has {len(data)}")
    return data[: len(data) // 2], data[len(data) // 2 :]
