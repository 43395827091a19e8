"""Wire: a structure of bytes, declared once.

The annotation is the wire format and the order of the fields is the order in
memory. Nothing is aligned behind one's back: where C would leave a hole, the
hole is a field. All integers are little-endian.

    class LaunchMeasure(Wire):
        handle: u32 = 0                  # 0x00
        reserved: u32 = 0                # 0x04
        paddr: u64 = 0                   # 0x08
        len: u32 = 0                     # 0x10

A Wire is a plain mutable object with slots: kernels and firmware answer by
writing into the caller's structure. A subclass of a structure has its fields
first, then its own. It is no dataclass, because a hundred
dataclasses cost 40 ms of import, and it refuses what C would cut in silence:
a value too large for its field, a byte string of the wrong length, a name that
is no field.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from operator import attrgetter
from typing import Annotated, Any, ClassVar, NamedTuple, Self, dataclass_transform, get_args, get_origin

u8 = Annotated[int, "B"]
u16 = Annotated[int, "H"]
u32 = Annotated[int, "I"]
u64 = Annotated[int, "Q"]
i32 = Annotated[int, "i"]

KINDS = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "i": "i32"}


_COMMON = re.compile(r"Annotated\[(bytes|tuple, u(8|16|32|64)), \d+\]")


class Field(NamedTuple):
    """One field of a layout: where it lies and what it is.

    `kind` is u8, u16, u32, u64, i32, bytes, the name of a nested Wire, or an
    array such as u64[4]. Offset and size count bytes.
    """

    name: str
    offset: int
    size: int
    kind: str


class _Codec(NamedTuple):
    """How one field travels: its struct code, its default, its two conversions' class."""

    code: str
    default: Any
    nested: type[Wire] | None
    length: int  # items of an array, bytes of a byte string, 0 for a number


def _annotations(namespace: dict[str, Any]) -> dict[str, Any]:
    """The class's own annotations, on every Python from 3.11 on."""
    if "__annotations__" in namespace:
        return dict(namespace["__annotations__"])
    if sys.version_info >= (3, 14):
        import annotationlib

        annotate = annotationlib.get_annotate_from_class_namespace(namespace)
        if annotate is not None:
            return annotationlib.call_annotate_function(annotate, annotationlib.Format.VALUE)
    return {}


_NOTES: dict[str, Any] = {}  # annotations that mean the same in every module, and are many


def _resolve(note: Any, module: str) -> Any:
    """An annotation that `from __future__ import annotations` left as text."""
    if not isinstance(note, str):
        return note
    found = _NOTES.get(note)
    if found is None:
        names = vars(sys.modules[module])
        found = names.get(note)
        if found is None:
            found = eval(note, names)
            if _COMMON.fullmatch(note):
                _NOTES[note] = found
    return found


def _codec(owner: str, name: str, note: Any) -> tuple[_Codec, str, int]:
    """The codec, kind and size that an annotation stands for.

    Raises TypeError for an annotation that is no wire format.
    """
    if isinstance(note, type) and issubclass(note, Wire):
        return _Codec(f"{note.SIZE}s", note(), note, note.SIZE), note.__name__, note.SIZE
    if get_origin(note) is Annotated:
        base, *marks = get_args(note)
        if base is int and marks[0] in KINDS:
            return _Codec(marks[0], 0, None, 0), KINDS[marks[0]], struct.calcsize("<" + marks[0])
        if base is bytes:
            return _Codec(f"{marks[0]}s", bytes(marks[0]), None, marks[0]), "bytes", marks[0]
        if base is tuple or get_origin(base) is tuple:
            item, count = marks
            code = get_args(item)[1]
            many = f"{count}{code}"
            return _Codec(many, (0,) * count, None, count), f"{KINDS[code]}[{count}]", struct.calcsize("<" + many)
    formats = "u8 to u64, i32, Annotated[bytes, n], Annotated[tuple, u64, n] or a Wire"
    raise TypeError(f"{owner}.{name}: {note!r} is no wire format ({formats})")


@dataclass_transform(kw_only_default=False)
class _WireType(type):
    """Turns annotations into slots, a struct and a layout, when the class is made."""

    SIZE: int
    LAYOUT: tuple[Field, ...]
    NAMES: tuple[str, ...]
    FORMAT: struct.Struct
    CODECS: dict[str, _Codec]
    NUMBERS: bool
    FLAT: bool
    _values: Any
    _hot: Any
    _fill: Any
    _default: Any

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _WireType:
        notes = {key: note for key, note in _annotations(namespace).items() if "ClassVar" not in str(note)}
        defaults = {key: namespace.pop(key) for key in notes if key in namespace}
        cls = super().__new__(mcs, name, bases, {**namespace, "__slots__": tuple(notes)})

        codecs = dict(getattr(cls, "CODECS", {}))
        layout = list(getattr(cls, "LAYOUT", ()))
        offset = layout[-1].offset + layout[-1].size if layout else 0
        for key, note in notes.items():
            codec, kind, size = _codec(name, key, _resolve(note, namespace["__module__"]))
            default = defaults.get(key, codec.default) or codec.default
            codecs[key] = codec._replace(default=default.pack() if isinstance(default, Wire) else default)
            layout.append(Field(key, offset, size, kind))
            offset += size
        cls.CODECS = codecs
        cls.LAYOUT = tuple(layout)
        cls.NAMES = tuple(codecs)
        cls.FORMAT = struct.Struct("<" + "".join(codec.code for codec in codecs.values()))
        cls.SIZE = cls.FORMAT.size
        # A layout of numbers alone packs and unpacks with no work per field.
        cls.NUMBERS = all(not codec.length for codec in codecs.values())
        # One of numbers and byte strings takes what its struct unpacks as it is.
        cls.FLAT = all(not codec.nested and (not codec.length or codec.code.endswith("s")) for codec in codecs.values())
        cls._values = cls._fill = cls._default = cls._hot = None
        return cls

    def _hurry(cls) -> None:
        """Make what packs and fills an object of this class in one go: at its first use, since most layouts have none."""
        names = cls.NAMES
        cls._values = attrgetter(*names) if len(names) > 1 else staticmethod(lambda wire: [getattr(wire, name) for name in names])
        made: dict[str, Any] = {}
        exec(f"def fill(wire, values): [{', '.join(f'wire.{name}' for name in names)}] = values", made)
        cls._fill = staticmethod(made["fill"])
        cls._default = tuple(codec.default for codec in cls.CODECS.values())
        cls._hot = (cls.FORMAT.pack, cls._values) if cls.NUMBERS else ()


class Wire(metaclass=_WireType):
    """A structure of bytes. Subclass it and annotate the fields in memory order.

    Attributes of the class: `SIZE` in bytes, `LAYOUT` (a tuple of Field),
    `NAMES`, `FORMAT` (the struct.Struct, for hot paths that unpack by hand).
    """

    SIZE: ClassVar[int]
    LAYOUT: ClassVar[tuple[Field, ...]]
    NAMES: ClassVar[tuple[str, ...]]
    FORMAT: ClassVar[struct.Struct]
    CODECS: ClassVar[dict[str, _Codec]]
    NUMBERS: ClassVar[bool]
    FLAT: ClassVar[bool]
    _values: ClassVar[Any]
    _hot: ClassVar[Any]  # FORMAT.pack and _values at one look; empty for a layout that is not of numbers alone
    _fill: ClassVar[Any]
    _default: ClassVar[Any]

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.NAMES
        if len(values) > len(names):
            raise TypeError(f"{type(self).__name__} has {len(names)} fields, {len(values)} values were given")
        if self.FLAT:
            if self._fill is None:
                type(self)._hurry()
            self._fill(self, self._default)
        else:
            for name, codec in self.CODECS.items():
                setattr(self, name, codec.nested.unpack(codec.default) if codec.nested else codec.default)
        if values or named:
            for name, value in (*zip(names, values, strict=False), *named.items()):
                if name not in self.CODECS:
                    raise TypeError(f"{type(self).__name__} has no field {name!r}; its fields are {', '.join(names)}")
                setattr(self, name, value)

    def _flat(self) -> Iterator[Any]:
        """The values as the struct takes them; a byte string must fit exactly or be empty."""
        for name, codec in self.CODECS.items():
            value = getattr(self, name)
            if codec.nested:
                yield value.pack()
            elif codec.code.endswith("s"):
                if len(value) not in (0, codec.length):
                    raise ValueError(f"{name}: {len(value)} bytes in a {codec.length}-byte field")
                yield bytes(value)
            elif codec.length:
                if len(value) != codec.length:
                    raise ValueError(f"{name}: {len(value)} items in an array of {codec.length}")
                yield from value
            else:
                yield value

    def pack(self) -> bytes:
        """The bytes of the structure.

        Raises ValueError when a value does not fit its field.
        """
        try:
            hot = self._hot
            if hot:
                return hot[0](*hot[1](self))  # type: ignore[no-any-return]
            if self.NUMBERS and hot is None:
                type(self)._hurry()
                return self.pack()
            return self.FORMAT.pack(*self._flat())
        except struct.error as error:
            raise ValueError(f"{type(self).__name__}.{self._misfit() or error}") from error

    def _misfit(self) -> str:
        """Which number does not fit, in words."""
        for field, codec in zip(self.LAYOUT, self.CODECS.values(), strict=True):
            if codec.nested or codec.code.endswith("s"):
                continue
            for value in getattr(self, field.name) if codec.length else (getattr(self, field.name),):
                code = codec.code[-1]
                try:
                    struct.pack("<" + code, value)
                except struct.error:
                    text = f"{value:#x}" if isinstance(value, int) else repr(value)
                    return f"{field.name}: {text} does not fit a {KINDS[code]}"
        return ""

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, offset: int = 0) -> Self:
        """The structure whose bytes stand at `offset` of `data`.

        Raises ValueError when `data` is too short.
        """
        return cls.__new__(cls).load(data, offset)

    def load(self, data: bytes | bytearray | memoryview, offset: int = 0) -> Self:
        """Read the structure's bytes into this very object (copy back, in place)."""
        if len(data) - offset < self.SIZE:
            raise ValueError(f"{type(self).__name__} takes {self.SIZE} bytes, {max(len(data) - offset, 0)} are there")
        values = self.FORMAT.unpack_from(data, offset)
        if self.FLAT:
            fill = self._fill
            if fill is None:
                type(self)._hurry()
                fill = self._fill
            fill(self, values)
            return self
        at = 0
        for name, codec in self.CODECS.items():
            if codec.nested:
                setattr(self, name, codec.nested.unpack(values[at]))
                at += 1
            elif codec.length and not codec.code.endswith("s"):
                setattr(self, name, values[at : at + codec.length])
                at += codec.length
            else:
                setattr(self, name, values[at])
                at += 1
        return self

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        copy = type(self).unpack(self.pack())
        for name, value in changes.items():
            if name not in self.CODECS:
                raise TypeError(f"{type(self).__name__} has no field {name!r}; its fields are {', '.join(self.NAMES)}")
            setattr(copy, name, value)
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wire) and type(self) is type(other) and self.pack() == other.pack()

    __hash__ = None  # type: ignore[assignment]  # it changes in place

    def __repr__(self) -> str:
        def show(value: Any) -> str:
            return f"{value:#x}" if isinstance(value, int) else value.hex() if isinstance(value, bytes) else repr(value)

        return f"{type(self).__name__}({', '.join(f'{name}={show(getattr(self, name))}' for name in self.NAMES)})"
