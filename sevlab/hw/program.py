"""Programs as measured bytes: what a processor runs, and how a page says so.

A guest program is a Python coroutine, but what is loaded, measured and encrypted
is a page of bytes: its *image*, which names the program and carries a digest of
it. The digest covers the program's source, every function the source names, and
every constant; whatever else it names is refused, because it could change after
the measurement. So a changed program is another measurement, and a page under
the wrong key holds no program.

An instruction fetch works the other way round: it decrypts the page at CS:RIP
and looks its SHA-256 up among the programs its host knows.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Annotated, Any, overload

from sevlab.hw.measure import Seen, encode, measure
from sevlab.wire import Wire, u32

PAGE = 0x1000
ARGS_ROOM = 0xE00  # bytes of an image that its arguments may take; a firmware's table stands behind them


class ImageHeader(Wire):
    """The start of a program's page. Its arguments follow, then zeros."""

    magic: Annotated[bytes, 16] = b"sevlab program\0\0"  # 0x00
    name: Annotated[bytes, 48] = b""  # 0x10  cut at 48 bytes, padded with zeros
    digest: Annotated[bytes, 32] = b""  # 0x40  Program.digest
    args_size: u32 = 0  # 0x60  bytes of the arguments
    reserved: Annotated[bytes, 28] = b""  # 0x64


def _coroutine_function(one: Any) -> FunctionType:
    if not (isinstance(one, FunctionType) and inspect.iscoroutinefunction(one)):
        raise TypeError(f"{getattr(one, '__qualname__', one)!s} is no coroutine function: write it with async def")
    return one


class Program:
    """A guest program: a coroutine function, and the digest that stands for it.

    `name` is the function's; `digest` is 32 bytes; `vc` is the function that
    handles #VC in an SEV-ES guest, or None: it is called with the instruction
    that caused it, and what it returns is that instruction's result. The program
    is measured when its digest is first asked for, and runs as it was then.
    Raises TypeError for what is no coroutine function, and when it is measured,
    in one sentence, for a function that cannot be.
    """

    __slots__ = ("_digest", "_handler", "_measured", "name", "source", "vc")

    def __init__(self, function: Callable[..., Any], *, vc: Callable[..., Any] | None = None) -> None:
        self.source, self.vc = _coroutine_function(function), None if vc is None else _coroutine_function(vc)
        self.name = self.source.__name__
        self._digest = b""
        self._measured: Callable[..., Any] | None = None
        self._handler: Callable[..., Any] | None = None

    @property
    def digest(self) -> bytes:
        """32 bytes that change with any word of the program, of what it calls and of its constants."""
        if not self._digest:
            seen: Seen = {}
            digest, self._measured = measure(self.source, seen)
            if self.vc is not None:
                handled, self._handler = measure(self.vc, seen)
                digest = hashlib.sha256(digest + handled).digest()
            self._digest = digest
        return self._digest

    @property
    def function(self) -> Callable[..., Any]:
        """The program as it was measured, ready to be called."""
        assert self.digest and self._measured
        return self._measured

    @property
    def handler(self) -> Callable[..., Any] | None:
        """The #VC handler as it was measured, or None."""
        assert self.digest
        return self._handler

    @property
    def arity(self) -> int | None:
        """How many arguments the program takes at most, None for any number."""
        code = self.source.__code__
        return None if code.co_flags & inspect.CO_VARARGS else code.co_argcount

    def __call__(self, *args: Any) -> Any:
        """The program as a part of another one: `await other(...)`."""
        return self.source(*args)

    def image(self, *args: Any) -> bytes:
        """The 4,096 bytes that stand for this program, with arguments that the page itself carries.

        Raises TypeError for an argument that is no constant, ValueError for too many of them.
        """
        body = encode(args) if args else b""
        if len(body) > ARGS_ROOM:
            raise ValueError(f"{len(body)} bytes of arguments do not fit a program's page, {ARGS_ROOM} do")
        name = self.name.encode()[:48].ljust(48, b"\0")
        return (ImageHeader(name=name, digest=self.digest, args_size=len(body)).pack() + body).ljust(PAGE, b"\0")

    def __repr__(self) -> str:
        return f"<Program {self.name}>"


@overload
def program(function: Callable[..., Any], *, vc: Callable[..., Any] | None = None) -> Any: ...


@overload
def program(function: None = None, *, vc: Callable[..., Any] | None = None) -> Callable[[Callable[..., Any]], Any]: ...


def program(function: Callable[..., Any] | None = None, *, vc: Callable[..., Any] | None = None) -> Any:
    """Decorator: make a coroutine function a guest program. `@program`, or `@program(vc=handler)`."""
    return Program(function, vc=vc) if function is not None else lambda inner: Program(inner, vc=vc)


Known = tuple[Program, tuple[Any, ...]]


class Programs:
    """The programs one host knows, by the SHA-256 of the page that stands for them.

    `catalogue`, if set, names more of them, (page, program, args), and is asked
    once, at the first page that is not found: the course's own programs cost
    nothing to a host that does not run them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self.catalogue: Callable[[], Iterable[tuple[bytes, Program, tuple[Any, ...]]]] | None = None

    def add(self, program: Program | Callable[..., Any], *, page: bytes | None = None, args: tuple[Any, ...] = ()) -> bytes:
        """Make a program known and return the page that stands for it.

        Without `page` that is the program's image, with `args` in it; with `page`
        (any 4,096 bytes: a page of foreign code) the program is a stand-in for it,
        and `args` are what it is called with. Raises ValueError for a page of
        another size, TypeError for what cannot be measured.
        """
        program = program if isinstance(program, Program) else Program(program)
        encode(args)
        page = program.image(*args) if page is None else bytes(page)
        if len(page) != PAGE:
            raise ValueError(f"a program stands for one page of {PAGE} bytes, not for {len(page)}")
        self._known[hashlib.sha256(page).digest()] = (program, tuple(args))
        return page

    def find(self, page: bytes) -> Known | None:
        """The program and its arguments that these 4,096 bytes stand for, or None."""
        digest = hashlib.sha256(page).digest()
        found = self._known.get(digest)
        if found is None and self.catalogue is not None:
            for known, program, args in self.catalogue():
                self._known.setdefault(hashlib.sha256(known).digest(), (program, args))
            self.catalogue = None
            found = self._known.get(digest)
        return found

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known.values())

    def __repr__(self) -> str:
        return f"<Programs: {len(self._known)} pages known>"
