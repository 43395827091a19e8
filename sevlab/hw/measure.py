"""What a program's digest covers: its source, every function it names, every constant.

Whatever else a program names is refused in one sentence, since it could change
after it was measured. What runs is a copy of the function that sees the measured
names and nothing else.
"""

from __future__ import annotations

import ast
import builtins
import dis
import enum
import hashlib
import inspect
import textwrap
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from sevlab.wire import Wire

ISA = "sevlab.hw.isa"  # the processor's instructions

# Builtins whose answer depends on this process, or that reach out of the guest.
REFUSED = frozenset(
    "__import__ breakpoint compile eval exec exit globals hash help id input locals open print quit vars".split()  # noqa: SIM905
)


def encode(value: Any) -> bytes:
    """A constant as bytes, such that different constants differ: its kind, its length, itself.

    Raises TypeError for what may change: a list, a dict, an object.
    """
    if isinstance(value, tuple):
        body = b"".join(encode(item) for item in value)
        return b"t%d:" % len(body) + body
    if isinstance(value, frozenset):
        body = b"".join(sorted(encode(item) for item in value))
        return b"f%d:" % len(body) + body
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    if value is None:
        return b"n0:"
    if isinstance(value, str):
        text = str.__str__(value).encode()
        return b"s%d:" % len(text) + text
    if isinstance(value, bool | int | float):
        kind = b"o" if isinstance(value, bool) else b"i" if isinstance(value, int) else b"d"
        text = repr(int(value) if isinstance(value, int) else value).encode()  # a member of an IntEnum is its number
        return kind + b"%d:" % len(text) + text
    raise TypeError(f"{value!r} may change after it was measured; a program takes numbers, bytes, text, None and tuples of them")


def _source(function: FunctionType) -> tuple[str, ast.AST]:
    """The dedented source of a function, from its `def` on (a decorator is no part of it), and its syntax tree."""
    try:
        text = textwrap.dedent("".join(inspect.getsourcelines(function)[0]))
        node = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError) as error:
        raise TypeError(f"{function.__qualname__} has no source to measure; write it with def in a file or a cell") from error
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError(f"{function.__qualname__} has no source of its own to measure; write it with def")
    return "".join(text.splitlines(keepends=True)[node.lineno - 1 :]).rstrip() + "\n", node


def _awaited(function: FunctionType, tree: ast.AST, names: dict[str, Any]) -> None:
    """Refuse an instruction that is called and not awaited: it would do nothing, and say nothing."""
    waiting = [node.value for node in ast.walk(tree) if isinstance(node, ast.Await)]
    for node in waiting:
        if isinstance(node, ast.IfExp):  # await (load(...) if ... else store(...))
            waiting += [node.body, node.orelse]
    awaited = {id(node) for node in waiting}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and id(call) not in awaited:
            value = names.get(call.func.id)
            if inspect.isgeneratorfunction(value) and value.__module__ == ISA:
                raise TypeError(f"{function.__qualname__} calls {call.func.id}() without await, which does nothing")


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code and the codes of what is defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(function: FunctionType) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a function names and does not define itself: its globals and builtins, and what it closes over."""
    outer: dict[str, Any] = {}
    for code in _codes(function.__code__):
        for step in dis.get_instructions(code):
            if step.opname.startswith("IMPORT"):
                raise TypeError(f"{function.__qualname__} imports {step.argval}: a guest has no modules, only instructions")
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                raise TypeError(f"{function.__qualname__} changes the global {step.argval}: a guest keeps its state in memory")
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval != "__name__":
                name = str(step.argval)
                if name not in function.__globals__ and not hasattr(builtins, name):
                    raise TypeError(f"{function.__qualname__} names {name}, which is not defined")
                outer[name] = function.__globals__.get(name, getattr(builtins, name, None))
    closed: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            closed[name] = cell.cell_contents
        except ValueError as error:
            raise TypeError(f"{function.__qualname__} names {name}, which is not defined yet") from error
    return outer, closed


# A function that was met: its number, and its measured copy.
Seen = dict[FunctionType, tuple[int, FunctionType]]


def _measure_value(owner: str, name: str, value: Any, seen: Seen) -> tuple[bytes, Any]:
    """What a named value adds to a digest, and the value itself as the measured copy will see it.

    Raises TypeError, in one sentence, for a value that cannot be measured.
    """
    if isinstance(getattr(value, "source", None), FunctionType):
        value = value.source  # a Program, as a part of another one
    home = getattr(value, "__module__", None)
    if home == ISA:
        return b"isa", value  # the processor's own: it is the same everywhere
    if name in vars(builtins) and vars(builtins)[name] is value:
        if name in REFUSED:
            raise TypeError(f"{owner} names {name}: a guest has no {name}; it stores to memory or writes to a port")
        return b"builtin", value
    if isinstance(value, FunctionType):
        return measure(value, seen)
    if isinstance(value, type) and issubclass(value, Wire):
        return encode(("wire", value.__name__, tuple(tuple(field) for field in value.LAYOUT))), value
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return encode(("enum", value.__name__, tuple((member.name, member.value) for member in value))), value
    if isinstance(value, ModuleType):
        raise TypeError(f"{owner} names the module {name}: import the constant or function it needs, so that it can be measured")
    try:
        return encode(value), value
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{owner} names {name}, a {kind}: a program names instructions, functions and constants only") from None


def measure(function: FunctionType, seen: Seen) -> tuple[bytes, FunctionType]:
    """SHA-256 over a function's source and all it names, and a copy of the function that sees just that.

    The copy is what runs: a global that is bound anew later changes neither the
    program nor its digest.
    """
    if function in seen:
        number, copy = seen[function]
        return b"again %d" % number, copy
    if hasattr(function, "__wrapped__"):
        raise TypeError(f"{function.__qualname__} is wrapped by a decorator, which would not be measured")
    outer, closed = _names(function)
    names: dict[str, Any] = {"__builtins__": builtins, "__name__": function.__module__}
    cells = {name: CellType() for name in closed}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, tuple(cells.values()))
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, function.__qualname__
    seen[function] = len(seen), copy

    source, tree = _source(function)
    _awaited(function, tree, outer)
    digest = hashlib.sha256(source.encode())
    for place, found in enumerate((outer, closed)):
        for name, value in sorted(found.items()):
            measured, kept = _measure_value(function.__qualname__, name, value, seen)
            digest.update(encode((name, measured)))
            if place:
                cells[name].cell_contents = kept
            else:
                names[name] = kept
    for default in (function.__defaults__ or (), tuple(sorted((function.__kwdefaults__ or {}).items()))):
        digest.update(encode(default))
    return digest.digest(), copy
