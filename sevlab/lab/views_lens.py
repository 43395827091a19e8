"""What a Lens shows of a host: one address of a guest, through everybody's eyes. The widget knows no SEV; this does.

A look never changes what lies in memory or in a cache. What a guest reads through its key
is an x-ray: it is closed until somebody opens it, and then leaves a row in the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sevlab.host import Host
from sevlab.lab.bus import PAGE
from sevlab.lab.views import Picture, View, facts
from sevlab.views import NestedTable

LINE = 64
BLOCK = 16


class Place:
    """A guest's address on a host as it is now or was: the same VM is found by its process and descriptor."""

    def __init__(self, host: Host, vm: Any, gpa: int, n: int) -> None:
        self.host, self.vm, self.gpa, self.n = host, vm, gpa, n

    def kvm(self, host: Host, vm: Any = None) -> Any:
        """The kernel's VM. Raises LookupError where its process is not there."""
        vm = vm or self.vm
        process = host.processes.get(vm.process.name)
        if process is None:
            raise LookupError(f"there is no process {vm.process.name}")
        return host.kernel.vm_of(process, vm.fd)

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


def keyless(host: Host, hpa: int, n: int) -> bytes:
    """What an access without a key reads: the cache's lines of that view where it has some, then memory. Nothing is filled."""
    return over(host, 0, hpa, bytearray(bus_bytes(host, hpa, n)))


def over(host: Host, asid: int, hpa: int, data: bytearray) -> bytes:
    """`data` of memory at `hpa`, with the lines that view `asid` holds laid over it."""
    for line in lines(host, hpa, len(data)):
        if line.asid == asid:
            data[line.hpa - hpa : line.hpa - hpa + LINE] = line.data
    return bytes(data)


def lines(host: Host, hpa: int, n: int) -> list[Any]:
    """The cache lines anybody holds of a range; none on a host without caches."""
    caches = host.soc.caches
    return [] if caches is None else list(host.gate.look(caches.held, hpa, n))


def keyed(host: Host, asid: int, hpa: int, n: int) -> bytes:
    """What an access under the key of a slot reads: an x-ray."""
    return over(host, asid, hpa, bytearray(host.xray.read(asid, hpa, n)))


def name_of(vm: Any) -> str:
    """What a VM is called: its process's name, with its descriptor where that process has several."""
    return str(vm.process.name)


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
) -> View:
    """`n` bytes of guest memory at `gpa` through everybody's eyes: the guest's own, the VMM's pointer, the bus, other VMs.

    `others` are VMs (or name to VM) that look at the *same machine address* under their own keys, such as a mirror.
    `xray` opens what real hardware shows to nobody at once; otherwise a reader opens it. `moves` lets the reader do
    what a hostile host can: move ciphertext, and map the address elsewhere. `across` is the bytes in a row of a picture.
    """
    place = Place(host, vm, gpa & -BLOCK, n)

    def eyes(eye: Any) -> list[Any]:
        def guest(name: str, who: Any, mirror: bool) -> Any:
            def look(at: Host) -> bytes | None:
                asid = place.kvm(at, who).sev.asid
                return place.read(at, lambda hpa, size: keyed(at, asid, hpa, size) if asid else keyless(at, hpa, size))

            return eye(name, look, "G", bool(place.kvm(host, who).sev.asid), "" if mirror else "C = 1", "reads", _dirty(place, who))

        made = [guest(name_of(vm), vm, False)]
        if pointer:
            made.append(
                eye(
                    "VMM's pointer",
                    lambda at: place.read(at, lambda hpa, size: keyless(at, hpa, size)),
                    "V",
                    False,
                    "= guest, C = 0",
                    "reads",
                    _dirty(place, None),
                )
            )
        made.append(
            eye("the bus", lambda at: place.read(at, lambda hpa, size: bus_bytes(at, hpa, size)), "B", False, "", "carries")
        )
        named = (
            others
            if isinstance(others, Mapping)
            else {name_of(other) if name_of(other) != name_of(vm) else f"fd {other.fd}": other for other in others}
        )
        return made + [guest(name, other, True) for name, other in named.items()]

    def where(at: Host) -> str:
        try:
            hpa, asid = place.hpas(at)[0], place.kvm(at).sev.asid
        except (LookupError, OSError) as error:
            return f"gpa {gpa:#x} → nothing: {error}"
        to = f"hpa {hpa + gpa % PAGE:#x} → page {hpa // PAGE:,}" if hpa >= 0 else "no page yet"
        return f"gpa {gpa:#x} → {to} · {name_of(vm)}, " + (f"slot {asid}" if asid else "no key")

    def widget(module: Any) -> Any:
        return module.Lens(
            eyes(module.Eye),
            host=host,
            where=where,
            across=across,
            opened=xray,
            moves=_moves(place) if moves else {},
            facts=facts(host),
        )

    def text() -> str:
        found = Picture("lens", [where(host)])
        for name, look, _, hidden, *_ in eyes(lambda *parts: parts):
            data = None if hidden and not xray else look(host)
            found.row(
                name, "closed: an x-ray" if hidden and not xray else "sees nothing here" if data is None else data[:BLOCK].hex(" ")
            )
        return str(found)

    return View("lens", widget, text)


def _dirty(place: Place, who: Any) -> Any:
    """Which 64-byte lines a view has that memory does not, as offsets."""

    def offsets(at: Host) -> list[int]:
        if at.soc.caches is None:
            return []
        asid = 0 if who is None else place.kvm(at, who).sev.asid
        first = place.gpa % PAGE
        return [
            page * PAGE + line.hpa - hpa - first
            for page, hpa in enumerate(place.hpas(at)) if hpa >= 0
            for line in lines(at, hpa, PAGE) if line.asid == asid and line.dirty
        ]  # fmt: skip

    return offsets


def _moves(place: Place) -> dict[str, Any]:
    """What a hostile host can do here: ordinary code, and each an entry of the journal."""
    host = place.host

    def at(offset: int, of: Host | None = None) -> int:
        whole = place.gpa % PAGE + offset
        return place.hpas(of or host)[whole // PAGE] + whole % PAGE

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

    return {"copy": copy, "swap": swap, "put back": put_back, "remap": remap}
