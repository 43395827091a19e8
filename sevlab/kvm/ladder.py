"""A handler's rules as data: what it refuses, in which order, with which code.

    >>> ladder(launch_update_data)[0]
    Rung(line=52, rule='sev.active', code='ENOTTY', note='!sev_guest(kvm)')

There is no second copy of the rules: the rungs are read from the handler's own
source. A rung is a `need(rule, CODE)  # note`, or a statement whose remark names
the code it may end with (`# EBUSY: no slot is free`).
"""

from __future__ import annotations

import ast
import errno
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from sevlab.abi.sev import Status

CODES = {*errno.errorcode.values(), *Status.__members__, "ENOTSUPP", "or"}


class Rung(NamedTuple):
    """One rule of a handler: where it stands, what must hold, what is answered otherwise, and the original's words."""

    line: int
    rule: str
    code: str
    note: str


def ladder(handler: Callable[..., Any]) -> list[Rung]:
    """The rungs of `handler` from top to bottom, in the order of its source."""
    lines, first = inspect.getsourcelines(handler)
    source = textwrap.dedent("".join(lines))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    remarks = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}

    def remark(node: ast.stmt, last: int) -> str:
        return next((remarks[line] for line in range(node.lineno, last + 1) if line in remarks), "")

    rungs: dict[int, Rung] = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        line, note = first + node.lineno - 1, remark(node, node.end_lineno or node.lineno)
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id="need"), args=[rule, code, *_])):
                rungs[line] = Rung(line, ast.unparse(rule), ast.unparse(code).removeprefix("Status."), note)
            case ast.If(test=test, body=[*_, ast.Raise(exc=ast.Call(func=ast.Name(id="KvmError"), args=[code, *_])) as no]):
                line = first + no.lineno - 1
                rungs[line] = Rung(line, f"not ({ast.unparse(test)})", ast.unparse(code), remark(no, no.end_lineno or no.lineno))
            case ast.Raise(exc=ast.Call(func=ast.Name(id="KvmError"), args=[code, *_])):
                rungs.setdefault(line, Rung(line, "", ast.unparse(code), note))
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                _by_remark(rungs, line, "; ".join(map(ast.unparse, items)), remark(node, body[0].lineno - 1))
            case ast.Expr() | ast.Assign() | ast.Return():
                _by_remark(rungs, line, ast.unparse(node), note)
    return sorted(rungs.values())


def _by_remark(rungs: dict[int, Rung], line: int, rule: str, remark: str) -> None:
    """A statement whose remark begins with the codes that it may end with."""
    words = list(takewhile(CODES.__contains__, re.split("[ ,:;]+", remark)))
    if words:
        note = remark[remark.index(words[-1]) + len(words[-1]) :].lstrip(" ,:;")
        rungs[line] = Rung(line, rule, ", ".join(word for word in words if word != "or"), note)
