"""The checks of one call, in their order, read from the handlers themselves: who asks, when it refuses, with which code.

    lab.ladder("LAUNCH_START")                                    # nobody has called it yet
    lab.ladder(lab.attempt(vmm.launch, host, ...))                # a refusal: which rung, and what else was wrong
    lab.ladder("MOVE_ENC_CONTEXT_FROM", design=designs.LINUX_6_1, beside=designs.POSTED)

There is no second copy of the rules: `sevlab.kvm.ladder` reads them from the
source. A helper's rules stand where it is called; where the kernel asks the
firmware, the driver's and the firmware's rungs follow.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any, NamedTuple

from sevlab.abi.kvm import IOCTL_NAMES, SEV_CMD_NAMES
from sevlab.abi.sev import Cmd, status_name
from sevlab.kvm import designs, sev_commands, system, vcpu, vm
from sevlab.kvm import ladder as rules
from sevlab.kvm.ccp import Ccp
from sevlab.lab.attempt import Refusal
from sevlab.lab.ladder_words import plain
from sevlab.lab.views import View
from sevlab.psp.commands import COMMANDS as FIRMWARE
from sevlab.psp.firmware import Psp

CAPABILITIES = {"MOVE_ENC_CONTEXT_FROM": "move", "COPY_ENC_CONTEXT_FROM": "mirror"}  # capability -> its seam
KERNEL, DRIVER, PSP = ("kernel", "K"), ("driver", "K"), ("firmware", "P")
ASKS = re.compile(r"\bccp\.(?:issue|command)\(.*?\bCmd\.(\w+)")
DEPTH = 2  # helpers of helpers


class Step(NamedTuple):
    """One rung: whose, of which function, and how it went."""

    rung: rules.Rung
    by: tuple[str, str]
    code: CodeType
    state: str = "open"
    fw: str = ""

    @property
    def row(self) -> dict[str, str]:
        """What a picture wants to know of it."""
        answer = self.rung.code if not self.fw else "EIO"
        return {
            "words": plain(self.rung),
            "code": answer,
            "state": self.state,
            "by": self.by[0],
            "letter": self.by[1],
            "source": _source(self),
            "fw": self.fw,
        }


Column = tuple[str, list[dict[str, str]]]  # a design's name, and its rungs as rows


class Rungs(View):
    """The ladder of a call, for one design or two: `columns` are (design, rows). Displayed, it is a picture or text."""

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        broken: Callable[[frozenset[int]], list[Column]] | None = None,
        breakable: frozenset[int] = frozenset(),
    ) -> None:
        self.name = name
        self.columns = list(columns)
        # `broken` makes the call anew with the rungs of some numbers made wrong; `breakable` are those it can (see breaking.py).
        self.broken, self.breakable = broken, breakable
        super().__init__("ladder", self._drawn, self._words)

    def _words(self) -> str:
        """The rungs as text, one a line."""
        signs = {"passed": "✓", "refused": "✕", "also": "!", "unasked": "·", "open": " "}
        lines = [self.name]
        for design, rows in self.columns:
            lines += [design] * (len(self.columns) > 1)
            by = ""
            for number, row in enumerate(rows, 1):
                if row["by"] != by:
                    by = row["by"]
                    lines.append(f"  the {by} refuses if")
                why = "".join(f", {row[key]}" for key in ("fw", "tag") if row.get(key))
                end = {"refused": f"  <- refused{why}", "also": "  (also wrong, never asked)"}
                head = f"  {number:3} {signs[row['state']]} {row['code']:<{_wide(rows)}}"
                lines.append(f"{head}  {row['words']}{end.get(row['state'], '')}")
        return "\n".join(lines)

    def _drawn(self, made: Any) -> Any:
        """The live picture, of the widget's module."""

        def columns(given: Sequence[Column]) -> list[Any]:
            return [made.Column(name, [made.Rung(**row) for row in rows]) for name, rows in given]

        broken = self.broken
        again = None if broken is None else lambda wrong: columns(broken(wrong))
        return made.Ladder(columns(self.columns), call=self.name, on_call=again, breakable=self.breakable or None)


def _wide(rows: Sequence[dict[str, str]]) -> int:
    return max(len(row["code"]) for row in rows)


def ladder(what: Any, *, design: designs.Design | None = None, beside: designs.Design | None = None, tag: str = "") -> Rungs:
    """The rungs of a call: by its name, by its handler, or by a refusal (an OSError, or what `lab.attempt` returned).

    `design` is the kernel (of a refusal: its own), `beside` another one for the second column. `tag` is put on the rung that
    refused: that it does is a known defect.
    Raises LookupError for a call that has no ladder.
    """
    error = what.error if isinstance(what, Refusal) else what if isinstance(what, OSError) else None
    if error is None:
        name, handler = _named(what, design or designs.LINUX_6_1)
        first = _steps(name, handler)
    else:
        name, handler, design = _refused(error, design)
        first = _went(_steps(name, handler), error)
    rows = [step.row | ({"tag": tag} if tag and step.state == "refused" else {}) for step in first]
    columns = [((design or designs.LINUX_6_1).name, rows)]
    if beside is not None:
        columns.append((beside.name, [step.row for step in _steps(name, _named(name, beside)[1])]))
    return Rungs(name, columns)


def firmware(command: str) -> Rungs:
    """The rungs of a firmware command for which KVM has no call of its own: the driver's, then the firmware's.

    Raises LookupError for a command that is none, or that sevlab does not model.
    """
    if getattr(Cmd, command, None) not in FIRMWARE:
        raise LookupError(f"sevlab does not model {command}, so there is no ladder of it")
    return Rungs(command, [("firmware", [step.row for step in _firmware(command)])])


# ------------------------------------------------------------- which call


def _named(what: Any, design: designs.Design) -> tuple[str, Callable[..., Any]]:
    """The call's full name and who serves it."""
    if callable(what):
        return getattr(what, "__qualname__", repr(what)), what
    name = str(what).removeprefix("KVM_CAP_VM_").removeprefix("KVM_SEV_").removeprefix("KVM_")
    if name in CAPABILITIES:
        return f"KVM_CAP_VM_{name}", getattr(design, CAPABILITIES[name]).enable
    for number, row in sev_commands.commands(design).items():
        if SEV_CMD_NAMES.get(number) == name:
            return f"KVM_SEV_{name}", row.handler
    for table in (vm.IOCTLS, vcpu.IOCTLS, system.IOCTLS):
        for number, row in table.items():
            if IOCTL_NAMES.get(number, "").removeprefix("KVM_") == name:
                return f"KVM_{name}", row.handler
    known = [*CAPABILITIES, *(SEV_CMD_NAMES[number] for number in sev_commands.commands(design))]
    raise LookupError(f"there is no call {what!r} with a ladder; there are {', '.join(known)}, and the ioctls")


def _refused(error: OSError, design: designs.Design | None) -> tuple[str, Callable[..., Any], designs.Design]:
    """Which call was refused: the name, the handler and the design, from where the error was raised."""
    for frame in _frames(error):
        own = _design(frame)
        kernel = design or own
        if frame.f_code is sev_commands.memory_encrypt_op.__code__:
            cmd = frame.f_locals.get("cmd")  # None: it could not be read
            row = None if cmd is None else sev_commands.commands(kernel).get(cmd.id)
            if cmd is not None and row is not None:
                return f"KVM_SEV_{SEV_CMD_NAMES[cmd.id]}", row.handler, kernel
        for name, seam in CAPABILITIES.items():
            enable = getattr(getattr(kernel, seam), "enable", None)
            if enable is not None and frame.f_code is enable.__code__:
                return f"KVM_CAP_VM_{name}", enable, kernel
        for table in (vm.IOCTLS, vcpu.IOCTLS, system.IOCTLS):
            for number, row in table.items():
                if (
                    number in IOCTL_NAMES
                    and getattr(row.handler, "__code__", None) is frame.f_code
                    and row.handler
                    not in (
                        sev_commands.memory_encrypt_op,
                        vm.enable_cap,
                    )
                ):
                    return IOCTL_NAMES[number], row.handler, kernel
    raise LookupError(f"no handler with a ladder has raised this: {error}")


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames of an error, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _design(frame: FrameType) -> designs.Design:
    """The kernel design that a handler's frame can see."""
    for value in frame.f_locals.values():
        kernel = getattr(value, "kernel", None)
        if isinstance(getattr(kernel, "design", None), designs.Design):
            return kernel.design  # type: ignore[no-any-return,union-attr]
    return designs.LINUX_6_1


# ------------------------------------------------------------- its rungs


def _steps(name: str, handler: Callable[..., Any]) -> list[Step]:
    """All rungs of a call in the order in which they are asked."""
    if not name.startswith("KVM_SEV_"):
        return list(_expanded(handler, KERNEL))
    around = [Step(rung, KERNEL, sev_commands.memory_encrypt_op.__code__) for rung in rules.ladder(sev_commands.memory_encrypt_op)]
    entry = next(i for i, step in enumerate(around) if step.rung.rule == "row") + 1
    after = [step for step in around[entry:] if "no.errno" not in step.rung.rule]
    return [*around[:entry], *_expanded(handler, KERNEL), *after]


def _expanded(handler: Callable[..., Any], by: tuple[str, str], depth: int = 0, command: str = "") -> Iterator[Step]:
    """A handler's rungs; those of its helpers, and of driver and firmware, where they are called.

    `command` is the firmware's, where a caller says which.
    """
    function = inspect.unwrap(getattr(handler, "__func__", handler))
    asked = _asked(function, command)
    for rung in rules.ladder(function):
        if rung.line in asked and by is KERNEL:
            yield from _firmware(asked[rung.line])
            continue
        helper = _helper(function, rung.rule) if depth < DEPTH else None
        named = re.search(r"\bCmd\.(\w+)", rung.rule)
        inner = list(_expanded(helper, by, depth + 1, named[1] if named else command)) if helper is not None else []
        if inner:
            yield from inner
        else:
            yield Step(rung, by, function.__code__)


def _asked(function: Any, command: str) -> dict[int, str]:
    """The lines of a function in which it has the firmware asked, and for which command."""
    lines, first = inspect.getsourcelines(function)
    found = {}
    for number, line in enumerate(lines, first):
        if "ccp.issue(" in line or "ccp.command(" in line:
            match = ASKS.search(line)
            found[number] = match[1] if match else command
    return found


def _helper(function: Any, rule: str) -> Callable[..., Any] | None:
    """The function of the same storey that a rung calls, if that is what it does."""
    try:
        tree = ast.parse(rule.removeprefix("not ").strip())
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        found: Any = None
        if isinstance(node.func, ast.Name):
            found = function.__globals__.get(node.func.id)
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            home = function.__globals__.get(node.func.value.id)
            found = getattr(home, node.func.attr, None) if inspect.ismodule(home) else None
        found = inspect.unwrap(found) if callable(found) else None
        if inspect.isfunction(found) and found.__module__.split(".")[:2] == function.__module__.split(".")[:2]:
            return found
    return None


def _firmware(command: str) -> Iterator[Step]:
    """What the driver asks before it goes to the firmware, and what the firmware asks."""
    yield from (Step(rung, DRIVER, Ccp.issue.__code__) for rung in rules.ladder(Ccp.issue))
    yield from (Step(rung, DRIVER, Ccp.command.__code__) for rung in rules.ladder(Ccp.command) if rung.code in ("ENODEV", "EBUSY"))
    row = FIRMWARE.get(getattr(Cmd, command, -1)) if command else None
    yield from (Step(rung, PSP, Psp.mailbox.__code__) for rung in rules.ladder(Psp.mailbox))
    if row is not None:
        yield from _expanded(row.handler, PSP)


# ------------------------------------------------------------- how it went


def _went(steps: list[Step], error: OSError) -> list[Step]:
    """The rungs of a call that was refused: above the one that said no they passed, below it nobody asked."""
    at = _said_no(steps, error)
    if at is None:
        return steps
    frames = {frame.f_code: frame for frame in _frames(error)}
    fw = getattr(error, "fw", None)
    went = [step._replace(state="passed") for step in steps[:at]]
    went.append(steps[at]._replace(state="refused", fw=status_name(fw) if fw else ""))
    for step in steps[at + 1 :]:
        frame = frames.get(step.code)
        also = frame is not None and _holds(step.rung.rule, frame) is False
        went.append(step._replace(state="also" if also else "unasked"))
    return went


def _said_no(steps: Sequence[Step], error: OSError) -> int | None:
    """The number of the rung that refused."""
    fw = getattr(error, "fw", None)
    if fw:
        words = str(getattr(error, "why", "")).rpartition(f"{status_name(fw)}: ")[2]
        candidates = [i for i, step in enumerate(steps) if step.by is PSP and status_name(fw) in step.rung.code.split(", ")]
        exact = [i for i in candidates if words.endswith(steps[i].rung.note) and steps[i].rung.note]
        return next(iter(exact or candidates), None)
    lines = []
    trace = error.__traceback__
    while trace is not None:
        lines.append((trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    for code, line in reversed(lines):
        here = [i for i, step in enumerate(steps) if step.code is code and step.rung.line <= line]
        near = [i for i in here if line - steps[i].rung.line <= 4]
        if near:
            return max(near, key=lambda i: steps[i].rung.line)
    return None


SAFE = (
    ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Attribute, ast.Constant, ast.Load, ast.boolop,
    ast.unaryop, ast.operator, ast.cmpop,
)  # fmt: skip


def _holds(rule: str, frame: FrameType) -> bool | None:
    """Whether a rule that was never asked would have held; None where that cannot be told without doing something."""
    try:
        tree = ast.parse(rule, mode="eval")
    except SyntaxError:
        return None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    plain_calls = all(isinstance(node.func, ast.Name) and node.func.id in ("len", "isinstance", "getattr") for node in calls)
    if not plain_calls or not all(isinstance(node, (*SAFE, ast.Call)) for node in ast.walk(tree)):
        return None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not names <= {*frame.f_locals, *frame.f_globals, "len", "isinstance", "getattr"}:
        return None  # it speaks of what was never computed
    try:
        return bool(eval(compile(tree, "<rung>", "eval"), frame.f_globals, dict(frame.f_locals)))
    except Exception:
        return None


def _source(step: Step) -> str:
    """Where the fact comes from: the original's function and its words, or the specification's section."""
    doc = (step.code.co_consts[0] or "") if step.code.co_consts else ""
    first = doc.splitlines()[0] if isinstance(doc, str) and doc else ""
    original = re.search(r"\(([a-z_0-9]+(?:, [a-z_0-9]+)*)\)", first)
    where = original[1] if original else step.code.co_name
    if step.by is PSP:
        where = f"firmware, {where}"
    note = step.rung.note  # what has no words of the original is Python of ours, and what are the rung's words is not said twice
    return f"{where}: {note}" if note and note != plain(step.rung) else where
