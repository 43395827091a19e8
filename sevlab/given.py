"""What a caller hands over: what can be nothing of the kind is refused in one sentence, before anything is done.

A signature says already what an argument is, so `checked` reads it there; a range, or a value that
depends on another, is said with `number` and by the function itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

# How a sentence calls the kinds that are everybody's; a class of ours is called by its name.
WORDS: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a number"),
    "str": ((str,), "a text"),
    "bytes": ((bytes, bytearray, memoryview), "bytes"),
    "bytearray": ((bytearray,), "bytes"),
    "memoryview": ((memoryview,), "bytes"),
    "bool": ((int,), "True or False"),
    "None": ((type(None),), ""),
}


def shown(value: Any) -> str:
    """A value as a complaint quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:48]}..."


def number(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The value as it is. Raises TypeError for what is no whole number, ValueError for one outside least..most."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"{what} is a number, not {shown(value)}")
    if (least is not None and value < least) or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"a number from {least} to {_large(most)}"
        raise ValueError(f"{what} is {allowed}, not {_large(value)}")
    return int(value)


def having(what: str, value: Any, names: tuple[str, ...], right: str) -> Any:
    """The value as it is. Raises TypeError for what lacks one of these attributes; `right` says what it should be."""
    if not all(hasattr(value, name) for name in names):
        raise TypeError(f"{what} is {right}, not {shown(value)}")
    return value


def checked(function: F) -> F:
    """A function that refuses an argument which is none of the kinds that its signature names: TypeError, in one sentence.

    Checked are numbers, texts, bytes and classes, each with `| None`; an annotation with brackets says more than this
    can see, and is the function's own affair. Whatever has `__index__` is a number.
    """
    plain = getattr(function, "__wrapped__", function)  # what stands before it says nothing of its own
    code = plain.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    kinds: dict[str, Kinds] = {}
    met: list[set[type]] = []

    @wraps(function)
    def call(*args: Any, **kw: Any) -> Any:
        if not met:  # late: a class may be defined below the function that takes one
            kinds.update({name: Kinds.of(plain.__annotations__.get(name), plain.__globals__) for name in names})
            met.extend(each.met for each in kinds.values())
        for seen, value in zip(met, args):  # noqa: B905 - too many arguments are the function's to refuse
            if value.__class__ not in seen:
                name = names[next(at for at, each in enumerate(met) if each is seen)]
                kinds[name].meet(name, value)
        if kw:
            for name, value in kw.items():
                if name in kinds and value.__class__ not in kinds[name].met:
                    kinds[name].meet(name, value)
        return function(*args, **kw)

    return call  # type: ignore[return-value]


class Kinds:
    """The kinds that an argument may have: `classes`, and `right`, how a complaint names them; `met` are those seen to do."""

    __slots__ = ("classes", "met", "right")

    def __init__(self, classes: tuple[type, ...], right: str = "") -> None:
        self.classes = classes
        self.right = right
        self.met: set[type] = set()

    @classmethod
    def of(cls, annotation: Any, names: dict[str, Any]) -> Kinds:
        """What an annotation, as text, lets in: everything, where it cannot be told from the text."""
        if not isinstance(annotation, str) or "[" in annotation:
            return cls((object,))
        classes: list[type] = []
        words: list[str] = []
        for part in annotation.split(" | "):
            found = WORDS.get(part) or _class(part, names)
            if found is None:
                return cls((object,))
            classes += found[0]
            words += [found[1]] * (found[1] not in words)
        return cls(tuple(classes), " or ".join(filter(None, words)))

    def meet(self, what: str, value: Any) -> None:
        """A value of a class that was not seen before. Raises TypeError for one that cannot be."""
        if not (isinstance(value, self.classes) or (int in self.classes and hasattr(value, "__index__"))):
            told = type(value).__name__ if bytes in self.classes and isinstance(value, str) else shown(value)  # it may be a key
            raise TypeError(f"{what} is {self.right}, not {told}")
        self.met.add(value.__class__)


def _class(dotted: str, names: dict[str, Any]) -> tuple[tuple[type, ...], str] | None:
    """A class by its name in a module, such as `Process` or `chips.Chip`."""
    first, *rest = dotted.split(".")
    found = names.get(first)
    for name in rest:
        found = getattr(found, name, None)
    if not isinstance(found, type) or found is Any:
        return None
    return (found,), f"a{'n' * (found.__name__[0] in 'AEIOU')} {found.__name__}"


def _large(value: int) -> str:
    return f"{value:#x}" if abs(value) > 0xFFFF else str(value)
