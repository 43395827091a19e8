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

from sevlab.cli.files import Failed, Misused, api_version, number, place
from sevlab.cli.machine import DESIGNS

CHIPS = ("naples", "rome", "milan")
GLOBAL = ("--chip", "--design", "--seed", "--firmware-api", "--nv")


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
    """The whole command line. The verbs are imported here, so that a Ctrl-C meanwhile ends in `_run` as any other does."""
    from sevlab.cli import course, launch, owner, platform, verify, vmsa

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
    top.add_argument("--nv", type=place("nv"), metavar="FILE", help="keep the platform's keys and owner in this file (INIT_EX)")
    top.add_argument("-q", "--quiet", action="store_true", help="no diagnostics but errors")
    top.add_argument("--version", action="store_true", help="what `sevlab version` prints")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)
    for group in (course, launch, owner, vmsa, verify, platform):
        group.add(verbs)
    return top


def _leading(top: Parser, argv: Sequence[str]) -> int:
    """Where the verb stands. An unknown option before it is named as what it is; argparse would take its value for the verb.

    Raises Misused.
    """
    words = iter(range(len(argv)))
    for at in words:
        word = argv[at]
        if not word.startswith("-"):
            return at
        action = top._option_string_actions.get(word.split("=")[0])
        if action is None:
            raise Misused(f"there is no option {word} before the verb (see sevlab --help)")
        if action.nargs is None and "=" not in word:
            next(words, None)
    return len(argv)


def _misplaced(argv: Sequence[str], verb: int) -> None:
    """Send an option of the machine that follows the verb to its place, before anything else is wrong with it.

    Raises Misused.
    """
    for word in argv[verb + 1 :]:
        if word == "--":
            return
        if word.split("=")[0] in GLOBAL:
            raise Misused(f"{word.split('=')[0]} stands before the verb: sevlab {word} ... {argv[verb]}")


def _parse(top: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Only `lab` takes words that are not its own: they are JupyterLab's.

    Raises Misused.
    """
    verb = _leading(top, argv)
    if argv[verb : verb + 1] not in ([], ["lab"]):
        _misplaced(argv, verb)
    args, rest = top.parse_known_args(argv)
    if args.version:
        from sevlab.cli.course import version

        args.run = version
    elif args.verb is None:
        raise Misused("a verb is missing (see sevlab --help)")
    elif args.verb == "lab":
        args.rest = rest
    elif rest:
        raise Misused(f"{args.verb} does not know {' '.join(rest)} (see sevlab {args.verb} --help)")
    return args


def refusal(error: OSError) -> str:
    """What an ioctl or a file refused, in one line: errno, the firmware's code, the rung that said no."""
    from errno import errorcode

    from sevlab.abi.sev import status_name

    name = errorcode.get(error.errno or 0, str(error.errno))
    step, why, fw = (getattr(error, key, None) for key in ("step", "why", "fw"))
    if step is None and why is None and fw is None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    said = f", the firmware said {status_name(fw)}" if fw else ""
    if fw and why:  # "the firmware refused: COMMAND: STATUS: why" has been said already, but for its end
        why = why.rpartition(f"{status_name(fw)}: ")[2]
    return f"{step or 'the kernel'} was refused: {name}{said}" + (f" ({why})" if why else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv without one); the exit status."""
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as done:  # --help
        raise SystemExit(_flushed(int(done.code or 0))) from None
    return _flushed(status)


def _run(argv: list[str]) -> int:
    """The exit status; what was wrong has been said."""
    try:
        args = _parse(parser(), argv)
        return int(args.run(args) or 0)
    except Failed as wrong:
        return _complain(str(wrong), wrong.status)
    except BrokenPipeError:
        return _silence(1)
    except OSError as error:
        return _complain(refusal(error), 1)
    except MemoryError as error:
        return _complain(str(error) or "this computer has not the memory for that", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _flushed(status: int) -> int:
    """`status`, once all output is out: at exit, Python would complain in words of its own."""
    try:
        if sys.stdout is not None:  # it was closed (>&-)
            sys.stdout.flush()
    except BrokenPipeError:
        return _silence(status or 1)
    except OSError as error:
        return _silence(_complain(f"standard output: {error.strerror}", status or 1))
    return status


def _silence(status: int) -> int:
    """Nobody reads our output any more: what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _complain(line: str, status: int) -> int:
    if sys.stderr is not None:
        print(f"sevlab: {' '.join(line.split())}", file=sys.stderr)
    return status
