"""What a Lens shows of a host: one address of a guest, through everybody's eyes. The widget knows no SEV; this does.

A look never changes what lies in memory or in a cache. What a guest reads through its key
is an x-ray: it is closed until somebody opens it, and then leaves a row in the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sevlab.host import Host
from sevlab.lab.bus import PAGE
from sevlab.lab.views import Picture, View, facts, imaginary
from sevlab.lab.views_caches import Lines, apart, keyed, keyless
from sevlab.views import NestedTable

BLOCK = 16  # bytes


class Place:
    """A guest's address on a host as it is now or was: the same VM is found by its process and descriptor."""

    def __init__(self, host: Host, vm: Any, gpa: int, n: int) -> None:
        self.host, self.vm, self.gpa, self.n = host, vm, gpa, n

    def kvm(self, host: Host, vm: Any = None) -> Any:
        """The kernel's VM. Raises LookupError where it is not there, such as before it was made."""
        vm = vm or self.vm
        process = host.processes.get(vm.process.name)
        if process is None:
            raise LookupError(f"{vm.process.name} is not there")
        try:
            return host.kernel.vm_of(process, vm.fd)
        except ValueError as no:
            raise LookupError(f"{vm.process.name} has no VM yet") from no

    def hpas(self, host: Host) -> list[int]:
        """The machine address of each page, -1 where none is yet."""
        table = NestedTable(host, host.processes[self.vm.process.name], self.vm.fd)
        found = []
        for gpa in range(self.gpa & -PAGE, self.gpa + self.n, PAGE):
            try:
                found.append(table.translate(gpa))
            except OSError:
                found.append(-1)
        return found

    def read(self, host: Host, through: Any) -> bytes | None:
        """The bytes of every page as `through(hpa, n)` reads them; zeros where a page is missing, None where all are."""
        self.kvm(host)
        hpas = self.hpas(host)
        if all(hpa < 0 for hpa in hpas):
            return None
        first = self.gpa % PAGE
        whole = b"".join(bytes(PAGE) if hpa < 0 else through(hpa, PAGE) for hpa in hpas)
        return whole[first : first + self.n]


def bus_bytes(host: Host, hpa: int, n: int) -> bytes:
    """What the memory chips hold."""
    return host.dram.read(hpa, n)


def name_of(vm: Any) -> str:
    """What a VM is called: its process's name, with its descriptor where that process has several."""
    return str(vm.process.name)


class LensView(View):
    """A lens that can be taken elsewhere: `lab.pagemap(host, vm, on_enter=lens.aim)`."""

    place: Place

    def aim(self, gpa: int) -> None:
        """Look at another address of the same guest. What was held is dropped: it was other bytes."""
        self.place.gpa = gpa & -BLOCK
        if self._widget is not None:
            self._widget.held, self._widget.carried = {}, None
            self._widget.look()
            self._widget.to(0)
            self._widget.mark()


def lens(
    host: Host,
    vm: Any,
    gpa: int,
    n: int = PAGE,
    *,
    others: Mapping[str, Any] | Sequence[Any] = (),
    xray: bool = False,
    moves: bool = True,
    pointer: bool = True,
    across: int = 64,
    view: str = "bytes",
    held: int | None = None,
    elsewhere: Mapping[str, tuple[Host, Any]] | None = None,
    bus: str = "the bus",
    name: str = "",
) -> LensView:
    """`n` bytes of guest memory at `gpa` through everybody's eyes: the guest's own, the VMM's pointer, the bus, other VMs.

    `others` are VMs (or name to VM) that look at the *same machine address* under their own keys, such as a mirror.
    `xray` opens what real hardware shows to nobody at once; otherwise a reader opens it. `moves` lets the reader do
    what a hostile host can: move ciphertext, map the address elsewhere, and flush the caches of a machine that has some.
    `across` is the bytes in a row of a picture, `view` what is shown first (bytes, picture, delta), `held` the journal entry
    whose bytes are held, for the delta. `elsewhere` are the buses of other machines, (host, VM) by name, as they are now;
    `bus` is what this one's is called beside them, and `name` what the guest is called, else by its process.
    """
    place, called = Place(host, vm, gpa & -BLOCK, n), name or name_of(vm)

    def eyes(eye: Any) -> list[Any]:
        def guest(name: str, who: Any, mirror: bool) -> Any:
            def look(at: Host) -> bytes | None:
                asid = place.kvm(at, who).sev.asid
                return place.read(at, lambda hpa, size: keyed(at, asid, hpa, size) if asid else keyless(at, hpa, size))

            sealed = bool(place.kvm(host, who).sev.asid)
            note = "" if mirror else "C = 1" if sealed else "no key"
            return eye(name, look, "G", sealed, note, "reads", None if columns else Lines(place, who).dirty)

        def line(name: str, letter: str, who: Any) -> Any:
            held = Lines(place, who)
            return eye(name, held.look, letter, who is not None, "in the cache", "holds", held.dirty, held.gaps)

        columns = apart(host)
        named = (
            others
            if isinstance(others, Mapping)
            else {name_of(other) if name_of(other) != name_of(vm) else f"fd {other.fd}": other for other in others}
        )
        made = [guest(called, vm, False), *(guest(name, other, True) for name, other in named.items())]
        if pointer:
            pointed = None if columns else Lines(place, None).dirty
            through = lambda at: place.read(at, lambda hpa, size: keyless(at, hpa, size))  # noqa: E731
            note = "= guest, C = 0" if place.kvm(host).sev.asid else ""
            made.append(eye("VMM's pointer", through, "V", False, note, "reads", pointed))
        made.append(
            eye(bus, lambda at: place.read(at, lambda hpa, size: bus_bytes(at, hpa, size)), "B", False, "", "carries")
        )
        if columns:
            sealed = bool(place.kvm(host).sev.asid)
            made += [line("host line", "V", None), *([line("guest line", "G", vm)] if sealed else [])]
        for name, (machine, of) in (elsewhere or {}).items():
            made.append(eye(name, _carried(Place(machine, of, place.gpa, n)), "B", False, "", "carries"))
        return made

    def where(at: Host) -> str:
        try:
            asid = place.kvm(at).sev.asid  # first: it says in words what is not there yet
            hpa = place.hpas(at)[0]
        except (LookupError, OSError) as error:
            return f"gpa {place.gpa:#x} → nothing: {error}"
        to = f"hpa {hpa + place.gpa % PAGE:#x} → page {hpa // PAGE:,}" if hpa >= 0 else "no page yet"
        return f"gpa {place.gpa:#x} → {to} · {name_of(vm)}, " + (f"slot {asid}" if asid else "no key")

    def widget(module: Any) -> Any:
        made = module.Lens(
            eyes(module.Eye),
            host=host,
            where=where,
            across=across,
            opened=xray,
            moves=_moves(place) if moves else {},
            facts=facts(host),
            imaginary=imaginary(host),
        )
        if held is not None:
            past = host.at(held)
            sights = {one.name: one.look(past) for one in made.eyes if not one.xray or xray}
            made.held, made.held_at = {name: data for name, data in sights.items() if data is not None}, held
        made.choose("view", view)
        return made

    def text() -> str:
        found = Picture("lens", [where(host)])
        past = None if held is None else host.at(held)
        for name, look, _, hidden, *_ in eyes(lambda *parts: parts):
            try:
                data, why = None if hidden and not xray else look(host), ""
            except LookupError as error:
                data, why = None, str(error)
            if data is None:
                found.row(name, why or ("closed: an x-ray" if hidden and not xray else "sees nothing here"))
            elif past is not None:
                found.row(name, differing(look(past) or b"", data, held or 0))
            else:
                found.row(name, f"{data[:BLOCK].hex(' ')}  {letters(data[:BLOCK])}" if view == "bytes" else repeating(data))
        return str(found)

    made = LensView("lens", widget, text)
    made.place = place
    return made


def _carried(place: Place) -> Any:
    """What the bus of another machine carries, whatever moment this one is looked at."""
    return lambda _: place.read(place.host, lambda hpa, size: bus_bytes(place.host, hpa, size))


def _blocks(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]


def letters(data: bytes) -> str:
    """Bytes as text, a point for whatever cannot be printed."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def repeating(data: bytes) -> str:
    """A picture in words: how many of its blocks are like another one."""
    blocks = _blocks(data)
    return f"{1 - len(set(blocks)) / max(len(blocks), 1):.0%} of {len(blocks):,} blocks are like another one"


def differing(before: bytes, now: bytes, n: int) -> str:
    """Two moments in words: how many blocks are others now."""
    other = sum(one != two for one, two in zip(_blocks(before), _blocks(now), strict=False))
    return f"{other:,} of {len(_blocks(now)):,} blocks are others than after entry {n}"


def _moves(place: Place) -> dict[str, Any]:
    """What a hostile host can do here: ordinary code, and each an entry of the journal."""
    host = place.host

    def at(offset: int, of: Host | None = None) -> int:
        moment, whole = of or host, place.gpa % PAGE + offset
        place.kvm(moment)
        hpa = place.hpas(moment)[whole // PAGE]
        if hpa < 0:
            raise LookupError(f"gpa {place.gpa + offset:#x} has no page {'yet' if of is None else f'after entry {of.n}'}")
        return hpa + whole % PAGE

    def copy(source: int, target: int) -> None:
        host.dram.write(at(target), host.dram.read(at(source), BLOCK))

    def swap(one: int, other: int) -> None:
        first, second = (host.dram.read(at(offset), BLOCK) for offset in (one, other))
        host.dram.write(at(one), second)
        host.dram.write(at(other), first)

    def put_back(offset: int, n: int) -> None:
        past = host.at(n)
        host.dram.write(at(offset), past.dram.read(at(offset, past), BLOCK))

    def remap(hpa: int) -> None:
        if hpa % PAGE:
            raise ValueError(f"a mapping is a page to a page, and {hpa:#x} is no page's first byte")
        host.npt(place.vm).remap(place.gpa & -PAGE, hpa)

    flush = {} if host.soc.caches is None else {"flush": host.wbinvd}
    return {"copy": copy, "swap": swap, "put back": put_back, "remap": remap, **flush}
