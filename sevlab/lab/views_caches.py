"""What lies in the caches of a host, as a Lens looks at it: a look fills nothing and writes nothing back.

On a chip that does not keep its views coherent, one address may lie in the cache twice: once
without a key, the *host line*, and once under a guest's slot, the *guest line*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab.host import Host
from sevlab.lab.bus import PAGE

LINE = 64  # bytes
NONE = "holds nothing of it"


def apart(host: Host) -> bool:
    """Whether this host has caches in which the host's and a guest's lines of one address know nothing of each other."""
    return host.soc.caches is not None and not host.soc.caches.coherent


def lines(host: Host, hpa: int, n: int) -> list[Any]:
    """The cache lines anybody holds of a range; none on a host without caches."""
    caches = host.soc.caches
    return [] if caches is None else list(host.gate.look(caches.held, hpa, n))


def over(host: Host, asid: int, hpa: int, data: bytearray) -> bytes:
    """`data` of memory at `hpa`, with the lines that view `asid` holds laid over it."""
    for line in lines(host, hpa, len(data)):
        if line.asid == asid:
            data[line.hpa - hpa : line.hpa - hpa + LINE] = line.data
    return bytes(data)


def keyless(host: Host, hpa: int, n: int) -> bytes:
    """What an access without a key reads: the cache's lines of that view where it has some, then memory. Nothing is filled."""
    return over(host, 0, hpa, bytearray(host.dram.read(hpa, n)))


def keyed(host: Host, asid: int, hpa: int, n: int) -> bytes:
    """What an access under the key of a slot reads: an x-ray."""
    return over(host, asid, hpa, bytearray(host.xray.read(asid, hpa, n)))


class Lines:
    """The lines that one view holds of a place: `who` is the VM whose slot it is, None the host without a key."""

    def __init__(self, place: Any, who: Any) -> None:
        self.place, self.who = place, who

    def asid(self, host: Host) -> int:
        return 0 if self.who is None else int(self.place.kvm(host, self.who).sev.asid)

    def _offsets(self, host: Host, wanted: Callable[[Any], bool]) -> list[int]:
        asid, first = self.asid(host), self.place.gpa % PAGE
        found = [
            page * PAGE + line.hpa - hpa - first
            for page, hpa in enumerate(self.place.hpas(host)) if hpa >= 0
            for line in lines(host, hpa, PAGE) if line.asid == asid and wanted(line)
        ]  # fmt: skip
        return [at for at in found if -LINE < at < self.place.n]

    def dirty(self, host: Host) -> list[int]:
        """Which of them memory does not have yet, as offsets."""
        return [] if host.soc.caches is None else self._offsets(host, lambda line: bool(line.dirty))

    def gaps(self, host: Host) -> list[int]:
        """The offsets of which it holds no line."""
        held = set(self._offsets(host, lambda line: True))
        return [at for at in range(-(self.place.gpa % LINE), self.place.n, LINE) if at not in held]

    def look(self, host: Host) -> bytes | None:
        """The bytes of the lines, with whatever stands between. Raises LookupError where there is none."""
        asid = self.asid(host)
        if len(self.gaps(host)) == len(range(-(self.place.gpa % LINE), self.place.n, LINE)):
            raise LookupError(NONE)
        found: bytes | None = self.place.read(
            host, lambda hpa, n: keyed(host, asid, hpa, n) if asid else keyless(host, hpa, n)
        )
        return found
