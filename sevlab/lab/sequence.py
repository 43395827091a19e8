"""A trace as lines between parties: what the sequence diagram draws. The picture knows no SEV; this table does.

    lab.lanes(host)                         # live
    lab.lanes(host, beside=other)           # joined at their common beginning
    lab.schedules(explore(a, b))            # every way in which two calls can come out

A row of the trace is written when something is over, so a call's row comes after
the rows of what it caused. A reader wants it before: within an entry the outer
calls are put first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from errno import errorcode
from itertools import groupby
from typing import Any

from sevlab.abi.kvm import KVM_MEMORY_ENCRYPT_OP, SEV_CMD_NAMES, ioctl_name
from sevlab.abi.sev import GuestState, cmd_name, status_name
from sevlab.journal import Packed
from sevlab.lab.show import Text, table

OWNER, VMM, KERNEL, PSP, ENGINE, GUEST, BUS = "owner", "VMM", "KVM", "PSP", "engine", "guest", "bus"
HEADER = ("seq", "t", "n", "host", "lane", "kind")
# Detail that would hide the rest: one row for each range of pages, each block, each lock.
LEFT_OUT = frozenset(
    {
        "PagesMarked",
        "PagesPinned",
        "PagesUnpinned",
        "Encrypted",
        "Decrypted",
        "LinesWritten",
        "LinesLost",
        "Fetched",
        "HostMade",
        "AsidsChanged",
    }
)
MEMORY = frozenset({"put", "get", "read", "write"})  # what a process does in its own memory; no kernel is asked
LOCKS = {"LockTaken": 1, "LockGiven": 2, "LockAwaited": 4}
LANES = {"owner": OWNER, "vmm": VMM, "kvm": KERNEL, "psp": PSP, "engine": ENGINE, "guest": GUEST, "host": BUS}
Fields = dict[str, Any]


def _code(errno: int, fw: int = 0) -> str:
    if not errno:
        return "0"
    name = errorcode.get(errno, str(errno))
    return f"{name} · {status_name(fw)}" if fw and fw != 0xFFFFFFFF else name


def _size(n: int) -> str:
    return f"{n >> 10} KiB" if n and not n % 1024 else f"{n} bytes"


# kind of row -> what it is called; the rest is said by the kind itself.
NOTES: dict[str, Callable[[Fields], str]] = {
    "GuestStateChanged": lambda row: f"guest {row['handle']} is {GuestState(row['after']).name}",
    "AsidTaken": lambda row: f"key slot {row['asid']} taken",
    "AsidFreed": lambda row: f"key slot {row['asid']} given back",
    "AsidsFlushed": lambda row: f"{row['freed']} slots flushed",
    "Loaded": lambda row: f"{_size(row['size'])} hashed, then encrypted",
    "GuestMade": lambda row: f"guest {row['handle']} made",
    "VmMade": lambda row: f"VM {row['vm']} made",
    "VmGone": lambda row: f"VM {row['vm']} gone",
    "SlotSet": lambda row: f"memslot {row['slot']} at {row['gpa']:#x}, {_size(row['size'])}",
    "RegionSet": lambda row: f"region of {_size(row['size'])} " + ("registered" if row["registered"] else "given up"),
    "ContextCopied": lambda row: f"VM {row['mirror']} mirrors VM {row['owner']}",
    "ContextMoved": lambda row: f"context of VM {row['src']} moved to VM {row['dst']}",
    "MirrorGone": lambda row: f"mirror {row['mirror']} gone",
    "MpState": lambda row: f"vCPU {row['vcpu']}: mp_state {row['was']} to {row['state']}",
    "SipiDelivered": lambda row: f"SIPI {row['vector']:#x} to vCPU {row['vcpu']}",
    "Probed": lambda row: f"{row['length']} bytes read at {row['hpa']:#x}",
    "XrayTaken": lambda row: f"x-ray: {row['what']}",
    "Logged": lambda row: f"dmesg: {row['line']}",
    "TripleFaulted": lambda row: f"shutdown: {row['why']}",
    "ProcessMade": lambda row: f"process {row['process']}, cgroup {row['cgroup']}",
    "ProcessGone": lambda row: f"process {row['process']} gone",
    "KeyMade": lambda row: "a key of the platform made",
    "Clflush": lambda row: "cache lines flushed",
    "Wbinvd": lambda row: "WBINVD on all processors",
    "MeasurementChecked": lambda row: (
        "the measurement is as expected" if row["ok"] else f"the measurement is refused: {row['reason']}"
    ),
}
# kind of row -> from, to, label: what goes from one party to another.
ARROWS: dict[str, Callable[[Fields], tuple[str, str, str, str]]] = {
    "CommandDone": lambda row: (KERNEL, PSP, cmd_name(row["cmd"]), "0" if not row["status"] else status_name(row["status"])),
    "KeyInstalled": lambda row: (PSP, ENGINE, f"key into slot {row['asid']}", ""),
    "KeyRemoved": lambda row: (PSP, ENGINE, f"key out of slot {row['asid']}", ""),
    "VmExit": lambda row: (GUEST, KERNEL, f"exit {row['code']:#x}", ""),
    "SessionMade": lambda row: (OWNER, VMM, f"session, policy {row['policy']:#x}", ""),
    "SecretWrapped": lambda row: (OWNER, VMM, "secret", ""),
}


class Reader:
    """Makes rows into lines; it remembers the names of processes. `locks` keeps the rows of locks, each call a lifeline."""

    def __init__(self, host: Any = None, *, locks: bool = False) -> None:
        self.host, self.locks = host, locks
        self.number = getattr(getattr(host, "gate", None), "host", 0)
        self.names: dict[int, str] = {}
        self.vms: dict[int, int] = {}

    def lines(self, rows: Iterable[Fields]) -> list[dict[str, Any]]:
        """The lines of these rows, as the fields of a picture's Line."""
        found: list[dict[str, Any]] = []
        for _, entry in groupby(rows, key=lambda row: (row["host"], row["n"])):
            found += self._entry([row for row in entry if row["host"] == self.number or row["lane"] == "owner"])
        return found

    def _entry(self, rows: Sequence[Fields]) -> list[dict[str, Any]]:
        """The lines of one entry, outer calls first."""
        commands = any(row["kind"] == "SevCommand" for row in rows)
        outer: list[dict[str, Any]] = []
        inner: list[dict[str, Any]] = []
        effects: list[dict[str, Any]] = []
        for row in rows:
            if row["kind"] == "ProcessMade":
                self.names[row["pid"]] = row["process"]
            elif row["kind"] == "VmMade":
                self.vms[row["vm"]] = row["pid"]
            if row["kind"] in LEFT_OUT or (row["kind"] == "Ioctl" and commands and row["nr"] == KVM_MEMORY_ENCRYPT_OP):
                continue
            if (row["kind"] in LOCKS and not self.locks) or (row["kind"] == "Syscall" and row["what"] in MEMORY):
                continue
            line = self._line(row)
            if row["kind"] in ("Ioctl", "Syscall", "SevCommand"):
                outer.append(line)
            elif row["kind"] == "CommandDone":  # what a command caused was written before it
                inner += [line, *effects]
                effects = []
            else:
                (effects if row["lane"] in ("psp", "engine") else inner).append(line)
        return outer + inner + effects

    def _line(self, row: Fields) -> dict[str, Any]:
        kind = row["kind"]
        fields = {"kind": kind, "virtual time": f"{row['t'] / 1000:,.1f} µs"}
        fields |= {key: value for key, value in row.items() if key not in HEADER}
        line: dict[str, Any] = {
            "n": row["n"],
            "kind": kind,
            "fields": fields,
            "source": LANES[row["lane"]],
            "target": "",
            "label": kind,
            "answer": "",
        }
        if kind in ("Ioctl", "Syscall", "SevCommand"):
            line |= self._call(row, fields)
        elif kind in ARROWS:
            line["source"], line["target"], line["label"], line["answer"] = ARROWS[kind](row)
            if line["target"] == VMM:  # whoever is there; before there is a process, nobody
                line["target"] = next(reversed(self.names.values()), "")
        elif kind in LOCKS:
            words = {"LockTaken": "takes", "LockGiven": "gives back", "LockAwaited": "waits for"}
            line |= {"source": f"call {row['call']}", "label": f"{words[kind]} {row['lock']}", "lock": LOCKS[kind]}
        elif kind in NOTES:
            line["label"] = NOTES[kind](row)
        if kind in ("ProcessMade", "ProcessGone"):
            line["source"] = row["process"]
        line["bad"] = line["answer"] not in ("", "0")
        return line

    def _call(self, row: Fields, fields: Fields) -> dict[str, Any]:
        """A system call: from the process to the kernel, with the structure that went along."""
        if row["kind"] == "SevCommand":
            pid = self.vms.get(row["vm"], 0)
            label, answer = f"KVM_SEV_{SEV_CMD_NAMES.get(row['id'], row['id'])}", _code(row["errno"], row["error"])
        elif row["kind"] == "Ioctl":
            pid, label, answer = row["pid"], ioctl_name(row["nr"]), _code(row["errno"], row["fw"])
        else:
            pid, label, answer = row["pid"], row["what"], _code(row["errno"])
        kind, data = self._argument(row["n"])
        if kind:
            fields["structure"] = kind
        return {
            "source": self.names.get(pid, f"pid {pid}" if pid else VMM),
            "target": KERNEL,
            "label": label,
            "answer": answer,
            "data": data,
        }

    def _argument(self, n: int) -> tuple[str, bytes]:
        """The structure that an entry's call was given, from the journal."""
        entries = getattr(getattr(self.host, "journal", None), "entries", ())
        if not 0 < n <= len(entries):
            return "", b""
        packed = next((arg for arg in entries[n - 1][3] if isinstance(arg, Packed)), None)
        return (packed.kind.__name__, packed.data) if packed is not None else ("", b"")


def lifelines(host: Any) -> list[tuple[str, str]]:
    """The lifelines of a host's trace from left to right, each with its party's letter."""
    names = list(dict.fromkeys(row["process"] for row in host.trace.rows() if row["kind"] == "ProcessMade"))
    return [(OWNER, "O"), *((name, "V") for name in names), (KERNEL, "K"), (PSP, "P"), (ENGINE, "E"), (GUEST, "G"), (BUS, "B")]


class Story:
    """A trace to look at: displayed, a sequence diagram or text."""

    def __init__(self, make: Callable[[], Any], lines: Sequence[Mapping[str, Any]], title: str = "") -> None:
        self._make, self.lines, self.title = make, list(lines), title
        self._card: Any = None

    def describe(self) -> str:
        """The lines as a table."""
        rows = [
            {
                "entry": line["n"],
                "from": line["source"],
                "to": line["target"] or "",
                "what": line["label"],
                "answer": line["answer"],
            }
            for line in self.lines
        ]
        return repr(Text(table(rows).text, self.title)) if rows else "Nothing has happened. Each call you make becomes an arrow."

    __repr__ = describe

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from sevlab.lab.ask import live

        if not live():
            return {"text/plain": self.describe()}
        self._card = self._card or self._make()
        return self._card._repr_mimebundle_()


def lanes(host: Any, *, beside: Any = None, locks: bool = False) -> Story:
    """The host's trace as a sequence diagram, live; with `beside` another host's, joined at their common beginning."""
    mine = Reader(host, locks=locks).lines(host.trace.rows())

    def make() -> Any:
        from sevlab.lab.ask import widgets

        made = widgets("lanes")
        if beside is None:
            reader = Reader(host, locks=locks)
            known = lifelines(host)
            others = sum(letter in "OV" for _, letter in known), "V"  # a new process stands behind those there are
            return made.Lanes.of(host, lambda rows: [made.Line(**line) for line in reader.lines(rows)], known, others=others)
        theirs = Reader(beside, locks=locks).lines(beside.trace.rows())
        left, right = ([made.Line(**line) for line in lines] for lines in (mine, theirs))
        names = host.design.name, beside.design.name
        return made.Lanes(left, against=right, names=names, lifelines=lifelines(host))

    return Story(make, mine)


def schedules(found: Any) -> Story:
    """Every outcome of an `explore`: a grid of tiles; one that is picked shows its steps, with every lock taken and awaited."""

    def steps(schedule: str) -> list[dict[str, Any]]:
        twin = found.replay(schedule)
        return [
            line
            for line in Reader(twin, locks=True).lines(twin.trace.rows())
            if line["kind"] in LOCKS or line["kind"] in ("Ioctl", "ContextMoved")
        ]

    def make() -> Any:
        from sevlab.lab.ask import widgets

        made = widgets("lanes")
        first = found.outcomes[0].schedule if found.outcomes else ""
        picture = made.Lanes(
            schedules=found.outcomes, on_pick=lambda schedule: [made.Line(**line) for line in steps(schedule)], title="schedules"
        )
        if first:
            picture.got_pick("", first)
        return picture

    lines = steps(found.outcomes[0].schedule) if found.outcomes else []
    return Story(make, lines, title=repr(found))
