"""Layout: a structure as named bytes. It knows no SEV.

    Layout(Measurement.unpack(vm.measurement))            # any Wire
    Layout(fields_of(header), wants=("mac",), empty="...")   # fields of one's own

Hex at the left, each field a tinted run; the list of fields at the right. `notes` says
what a field is, `writers` whose letter wrote it last, `valid` whether somebody vouches for
it, `covers` what a signature or a MAC covers. With `beside` a second structure of the same
layout stands beside the first, and `write(name, value)`, where the notebook gives it, lets
a reader edit a field: numbers are parsed, never evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.acts import Act, Acts, number
from sevlab_widgets.drawing import Choice
from sevlab_widgets.frame import Table
from sevlab_widgets.layout_picture import LayoutPicture
from sevlab_widgets.picture import Svg
from sevlab_widgets.words import named

from sevlab.wire import Wire

ROW = 16
WORDS = ("u8", "u16", "u32", "u64", "i32")


class Part(NamedTuple):
    """A field: where, how long, its name, its kind ("u32", "bytes", ...), whether it is reserved."""

    name: str
    offset: int
    size: int
    kind: str = "bytes"
    reserved: bool = False


class Cover(NamedTuple):
    """What a signature or MAC covers: its word, and the names of the fields."""

    name: str
    fields: tuple[str, ...]


def parts_of(layout: Any) -> list[Part]:
    """The fields of a Wire (or its class), or of (name, size) pairs that follow one another."""
    if isinstance(layout, Wire) or (isinstance(layout, type) and issubclass(layout, Wire)):
        return [Part(f.name, f.offset, f.size, f.kind, _spare(f.name)) for f in layout.LAYOUT]
    found, at = [], 0
    for one in layout:
        if isinstance(one, Part):
            found.append(one)
        else:
            name, size = one[0], one[1] if isinstance(one[1], int) else len(one[1])
            found.append(Part(name, at, size, reserved=_spare(name)))
        at = found[-1].offset + found[-1].size
    return found


def _is_text(data: bytes) -> bool:
    """Whether bytes are letters. Four that look so may be chance: among fields of one size, all are text or none."""
    plain = data.rstrip(b"\0")
    return len(plain) > 3 and all(32 <= byte < 127 for byte in plain)


def _spare(name: str) -> bool:
    return name.rstrip("0123456789_") in ("pad", "padding", "reserved", "rsvd", "unused")


class Layout(Acts):
    """A structure as named bytes. `wants` are the fields that a call needs, for the picture of an empty one."""

    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("↑ ↓ ← →", "from field to field"),
        ("Home End", "first, last"),
        ("Enter", "edit the field, where it can be"),
        ("d", "differences to the second structure"),
    )
    WALK: ClassVar[tuple[str, ...]] = ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End")
    OWN_RING: ClassVar[bool] = True
    FILES: ClassVar[tuple[str, ...]] = ("layout",)
    MAKER: ClassVar[str] = "layout"
    choices = (Choice("show", "Show", ("fields", "hex")),)  # where there is no room for both

    def __init__(
        self,
        data: Wire | Iterable[tuple[str, bytes]] | bytes | None = None,
        *,
        layout: Any = None,
        notes: Mapping[str, str] | None = None,
        writers: Mapping[str, str] | None = None,
        valid: Mapping[str, bool] | None = None,
        covers: Sequence[Cover | tuple[str, Sequence[str]]] = (),
        beside: Wire | bytes | None = None,
        write: Callable[[str, Any], Any] | None = None,
        wants: Sequence[str] = (),
        when: str = "",
        names: tuple[str, str] = ("this", "beside"),
        text: str = "",
        title: str = "",
        **keywords: Any,
    ) -> None:
        if not isinstance(data, Wire | bytes) and data is not None:
            data = list(data)
        source: Any = layout if layout is not None else data
        self.parts = parts_of(() if source is None or isinstance(source, bytes) else source)
        self.data = _bytes(data)
        self.before: bytes | None = None
        self.other = _bytes(beside)
        self.compare = beside is not None
        self.notes, self.writers, self.valid = dict(notes or {}), dict(writers or {}), valid
        self.covers = [Cover(name, tuple(fields)) for name, fields in covers]
        if unknown := {name for cover in self.covers for name in cover.fields} - {part.name for part in self.parts}:
            raise ValueError(f"there is no field {', '.join(sorted(unknown))}")
        self.write = write
        self.wants, self.when, self.names, self.words = tuple(wants), when, names, text
        kind = type(data).__name__ if isinstance(data, Wire) else getattr(layout, "__name__", "")
        super().__init__(title=title or (f"{kind}, {self.size} bytes" if kind else f"{self.size} bytes"), **keywords)
        if self.parts:
            self.selected = self.parts[0].name

    @property
    def size(self) -> int:
        """Bytes of the structure."""
        return max((part.offset + part.size for part in self.parts), default=0)

    def show(self, data: Wire | bytes) -> None:
        """The same structure with other bytes: what is different is marked, until the next change."""
        with self.lock:
            self.before, self.data = self.data, _bytes(data)
        self.mark()

    def beside(self, data: Wire | bytes | None) -> None:
        """Set a second one beside it; None takes it away."""
        with self.lock:
            self.other = _bytes(data)
            self.compare = data is not None
        self.mark()

    # ------------------------------------------------- fields

    @property
    def part(self) -> Part | None:
        """The field that is selected."""
        return next((part for part in self.parts if part.name == self.selected), None)

    def bytes_of(self, part: Part, data: bytes | None = None) -> bytes | None:
        """A field's bytes; None where nothing is known."""
        data = self.data if data is None else data
        return None if data is None else data[part.offset : part.offset + part.size]

    def value(self, part: Part, data: bytes | None = None, room: int = 16) -> str:
        """A field decoded: a number, text where it is text, else hex, cut at `room` bytes."""
        found = self.bytes_of(part, data)
        if found is None:
            return "–"
        if part.kind in WORDS:
            whole = int.from_bytes(found, "little", signed=part.kind == "i32")
            return f"{whole:#x}" + (f" ({whole:,})" if abs(whole) > 9 and whole < 1 << 32 else "")
        if not any(found):
            return "zeros"
        alike = [one for one in self.parts if one.size == part.size and one.kind not in WORDS and one.kind == part.kind]
        if _is_text(found) and all(_is_text(one) for one in map(self.bytes_of, alike) if one and any(one)):
            plain = found.rstrip(b"\0")
            return f"“{plain.decode('ascii')}”"
        return found[:room].hex() + ("…" if len(found) > room else "")

    def was(self, part: Part) -> str:
        """What a changed field was before; "" where it is as it was."""
        if self.before is None or self.bytes_of(part, self.before) == self.bytes_of(part):
            return ""
        return self.value(part, self.before, 8)

    def differs(self, part: Part) -> bool:
        """Whether the second structure has something else there."""
        return self.compare and self.other is not None and self.bytes_of(part, self.other) != self.bytes_of(part)

    # ------------------------------------------------- the picture

    def picture(self, width: int, size: str) -> Svg:
        return LayoutPicture(self, width, size).svg

    @property
    def sentence(self) -> str:
        """What an empty structure says."""
        if self.data is not None or not self.parts:
            return ""
        few = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        count = few[len(self.wants)] if len(self.wants) < len(few) else len(self.wants)
        wants = f"; {self.when or 'a call'} wants these {count} fields" if len(self.wants) > 1 else ""
        return f"{self.size} bytes, nothing in them yet{wants}."

    @property
    def same(self) -> str:
        """What is said of a second structure that differs nowhere; "" where there is none, or it does."""
        equal = self.compare and self.other is not None and not any(map(self.differs, self.parts))
        return f"{self.names[1]}: the same {self.size} bytes." if equal else ""

    @property
    def empty(self) -> str:  # type: ignore[override]
        return "" if self.parts else "No structure. Give Layout a Wire, or names and bytes."

    # ------------------------------------------------- in words

    def say(self, part: Part) -> str:
        """A field in a sentence."""
        said = f"{part.name}: {part.size} byte{'s' * (part.size != 1)} at {part.offset:#x}"
        said += (
            f", {self.value(part)}"
            if self.data is not None
            else ", nothing in them yet"
            if part.name not in self.wants
            else f", wanted by {self.when or 'the call'}"
        )
        said += f", was {was}" if (was := self.was(part)) else ""
        said += f"; {self.names[1]}: {self.value(part, self.other)}" if self.differs(part) else ""
        said += f"; {self.notes[part.name]}" if part.name in self.notes else ""
        said += f"; written by {self.writers[part.name]}" if part.name in self.writers else ""
        if self.valid is not None and part.name in self.valid:
            said += "; its valid bit is set" if self.valid[part.name] else "; nobody vouches for it"
        covers = [cover.name for cover in self.covers if part.name in cover.fields]
        said += f"; under {' and '.join(covers)}" if covers else ""
        return said + "."

    def says(self) -> str:
        if self.empty or self.sentence:
            return self.empty or self.sentence
        differ = [part.name for part in self.parts if self.differs(part)]
        if self.compare and self.other is not None:
            return f"{len(differ)} of {len(self.parts)} fields differ{': ' + ', '.join(differ) if differ else ''}."
        changed = [part.name for part in self.parts if self.was(part)]
        if changed:
            return f"Changed: {', '.join(changed)}."
        return f"{len(self.parts)} fields, {self.size} bytes."

    def describe(self) -> str:
        if self.words:
            return self.words
        return "\n".join(
            [f"{' · '.join([self.title, *self.facts])}: {self.says()}", *(f"  {self.say(part)}" for part in self.parts)]
        )

    def table(self) -> Table:
        heads = [
            "offset",
            "size",
            "field",
            "value",
            *([self.names[1]] if self.other is not None else []),
            "was",
            "written by",
            "covered by",
            "note",
        ]
        rows = []
        for part in self.parts:
            covers = ", ".join(cover.name for cover in self.covers if part.name in cover.fields)
            second = [self.value(part, self.other)] if self.other is not None else []
            rows.append(
                [
                    f"{part.offset:#04x}",
                    part.size,
                    part.name,
                    self.value(part, room=64),
                    *second,
                    self.was(part),
                    self.writers.get(part.name, ""),
                    covers,
                    self.notes.get(part.name, ""),
                ]
            )
        return heads, rows

    # ------------------------------------------------- hand and keyboard

    def walk(self, key: str) -> None:
        names = [part.name for part in self.parts]
        if names:
            at = names.index(self.selected) if self.selected in names else 0
            step = {"ArrowUp": -1, "ArrowLeft": -1, "ArrowDown": 1, "ArrowRight": 1}.get(key, 0)
            self.selected = names[{"Home": 0, "End": len(names) - 1}.get(key, max(0, min(at + step, len(names) - 1)))]

    def got_select(self, view: str, value: Any) -> None:
        super().got_select(view, str(value).removeprefix("hex "))
        self.mark()

    def find(self, words: str) -> Any:
        return named(words, [part.name for part in self.parts], words)

    def acts(self) -> list[Act]:
        found = [Act("compare", "Differences", "d", pressed=self.compare)] if self.other is not None else []
        if self.write is not None and self.part is not None:
            part = self.part
            found.append(Act("write", f"Write {part.name}", "Enter", field="number" if part.kind in WORDS else "hex bytes"))
        return found

    def press(self, name: str, value: str) -> None:
        part = self.part
        if name == "compare":
            self.compare = not self.compare
        elif part is not None and self.write is not None:
            self.write(part.name, parse(part, value))


def parse(part: Part, text: str) -> int | bytes:
    """What a reader typed for a field, exactly: a number, or as many hex bytes as it has. Raises ValueError in a sentence."""
    if part.kind in WORDS:
        whole, bits = number(text, "number"), 8 * part.size
        low, high = (-(1 << bits - 1), 1 << bits - 1) if part.kind == "i32" else (0, 1 << bits)
        if not low <= whole < high:
            raise ValueError(f"{part.name} has {part.size} bytes: {whole:#x} does not fit")
        return whole
    try:
        data = bytes.fromhex(text.replace("0x", ""))
    except ValueError:
        raise ValueError(f"{text!r} are no bytes: write two hex digits for each") from None
    if len(data) != part.size:
        raise ValueError(f"{part.name} has {part.size} bytes, and these are {len(data)}")
    return data


def _bytes(data: Any) -> bytes | None:
    if data is None or isinstance(data, bytes):
        return data
    return data.pack() if isinstance(data, Wire) else b"".join(bytes(one) for _, one in data)
