"""`sevlab`: the verbs, their options, and what becomes of an error.

Results go to stdout, everything else to stderr. The exit status is 0, or 1 with
one line that says what was wrong, or 2 when the command line was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sevlab.cli import course, launch, owner, platform, verify, vmsa
from sevlab.cli.files import Failed, Misused, api_version, number
from sevlab.cli.machine import DESIGNS

CHIPS = ("naples", "rome", "milan")
GLOBAL = ("--chip", "--design", "--seed", "--firmware-api", "--nv")
GROUPS = (course, launch, owner, vmsa, verify, platform)


class Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **named})

    def error(self, message: str) -> NoReturn:
        raise Misused(f"{message} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        """One value through its reader; the reader's own line is the complaint."""
        try:
            return super()._get_value(action, text)
        except Failed as wrong:
            raise argparse.ArgumentError(None, str(wrong)) from None


def parser() -> Parser:
    """The whole command line."""
    top = Parser(prog="sevlab", description="An emulated AMD SEV host: launch, measure and attest guests without the hardware.")
    top.add_argument("--chip", choices=CHIPS, default="rome", help="the processor (default: rome)")
    top.add_argument("--design", choices=DESIGNS, default="linux-6.1", help="the kernel that the host runs (default: linux-6.1)")
    top.add_argument("--seed", type=number("seed"), metavar="N", help="the same seed is the same platform, today and tomorrow")
    top.add_argument(
        "--firmware-api",
        type=api_version,
        default=(0, 24, 15),
        metavar="X.Y.Z",
        help="version of the SEV firmware (default: 0.24.15)",
    )
    top.add_argument("--nv", metavar="FILE", help="keep the platform's keys and owner in this file (INIT_EX)")
    top.add_argument("-q", "--quiet", action="store_true", help="no diagnostics but errors")
    top.add_argument("--version", action="store_true", help="what `sevlab version` prints")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for group in GROUPS:
        group.add(verbs)
    return top


def _leading(top: Parser, argv: Sequence[str]) -> None:
    """Name an unknown option before the verb as what it is; argparse would take its value for the verb.

    Raises Misused.
    """
    words = iter(argv)
    for word in words:
        if not word.startswith("-"):
            return
        action = top._option_string_actions.get(word.split("=")[0])
        if action is None:
            raise Misused(f"there is no option {word} before the verb (see sevlab --help)")
        if action.nargs is None and "=" not in word:
            next(words, None)


def _parse(top: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Only `lab` takes words that are not its own: they are JupyterLab's.

    Raises Misused.
    """
    _leading(top, argv)
    args, rest = top.parse_known_args(argv)
    if args.version:
        args.run = course.version
    elif args.verb is None:
        raise Misused("a verb is missing (see sevlab --help)")
    elif args.verb == "lab":
        args.rest = rest
    elif rest:
        misplaced = [word for word in rest if word.split("=")[0] in GLOBAL]
        if misplaced:
            raise Misused(f"{misplaced[0]} stands before the verb: sevlab {misplaced[0]} ... {args.verb}")
        raise Misused(f"{args.verb} does not know {' '.join(rest)} (see sevlab {args.verb} --help)")
    return args


def refusal(error: OSError) -> str:
    """What an ioctl or a file refused, in one line: errno, the firmware's code, the rung that said no."""
    from errno import errorcode

    from sevlab.abi.sev import status_name

    name = errorcode.get(error.errno or 0, str(error.errno))
    step, why, fw = (getattr(error, key, None) for key in ("step", "why", "fw"))
    if step is None and why is None and fw is None:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    said = f", the firmware said {status_name(fw)}" if fw else ""
    return f"{step or 'the kernel'} was refused: {name}{said}" + (f" ({why})" if why else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv without one); the exit status."""
    try:
        args = _parse(parser(), sys.argv[1:] if argv is None else argv)
        return int(args.run(args) or 0)
    except Failed as wrong:
        return _complain(str(wrong), wrong.status)
    except BrokenPipeError:
        # Whoever read our output has left; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(refusal(error), 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _complain(line: str, status: int) -> int:
    print(f"sevlab: {' '.join(line.split())}", file=sys.stderr)
    return status
