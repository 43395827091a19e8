"""A trace as lines between parties: what the sequence diagram draws. The picture knows no SEV; this table does.

    lab.lanes(host)                         # live
    lab.lanes(host, since=n)                # what came after entry n
    lab.lanes(host, beside=other)           # joined at their common beginning

A row of the trace is written when something is over, so a call's row comes after
the rows of what it caused. A reader wants it before: within an entry the outer
calls are put first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from errno import errorcode
from itertools import groupby
from typing import Any

from sevlab.abi.kvm import KVM_MEMORY_ENCRYPT_OP, SEV_CMD_NAMES, ioctl_name
from sevlab.abi.sev import GuestState, cmd_name, status_name
from sevlab.journal import Packed
from sevlab.lab import sequence_guest
from sevlab.lab.show import Text, table
from sevlab.lab.views import View, imaginary
from sevlab.wire import Wire

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
    **sequence_guest.NOTES,
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
    **sequence_guest.ARROWS,
    "SessionMade": lambda row: (OWNER, VMM, f"session, policy {row['policy']:#x}", ""),
    "SecretWrapped": lambda row: (OWNER, VMM, "secret", ""),
}


class Reader:
    """Makes rows into lines; it remembers the names of processes. `locks` keeps the rows of locks, each call a lifeline.

    Entries up to `since` have no lines, but the processes that began there have their names.
    """

    def __init__(self, host: Any = None, *, locks: bool = False, since: int = 0) -> None:
        self.host, self.locks, self.since = host, locks, since
        self.number = getattr(getattr(host, "gate", None), "host", 0)
        self.names: dict[int, str] = {}
        self.vms: dict[int, int] = {}

    def lines(self, rows: Iterable[Fields]) -> list[dict[str, Any]]:
        """The lines of these rows, as the fields of a picture's Line."""
        found: list[dict[str, Any]] = []
        for _, entry in groupby(rows, key=lambda row: (row["host"], row["n"])):
            lines = self._entry([row for row in entry if row["host"] == self.number or row["lane"] == "owner"])
            found += [line for line in lines if line["n"] > self.since]
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
            if sequence_guest.quiet(row):
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
            if GUEST in (line["source"], line["target"]) and row.get("vcpu"):  # all but the first stand on one lifeline
                line["label"] += f", AP {row['vcpu']}"
                line |= {end: sequence_guest.APS for end in ("source", "target") if line[end] == GUEST}
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
        if kind is not None:
            fields["structure"] = kind.__name__
        return {
            "source": self.names.get(pid, f"pid {pid}" if pid else VMM),
            "target": KERNEL,
            "label": label,
            "answer": answer,
            "data": data,
            "layout": kind,
        }

    def _argument(self, n: int) -> tuple[type[Wire] | None, bytes]:
        """The structure that an entry's call was given, from the journal."""
        entries = getattr(getattr(self.host, "journal", None), "entries", ())
        if not 0 < n <= len(entries):
            return None, b""
        packed = next((arg for arg in entries[n - 1][3] if isinstance(arg, Packed)), None)
        return (packed.kind, packed.data) if packed is not None else (None, b"")


def lifelines(host: Any) -> list[tuple[str, str]]:
    """The lifelines of a host's trace from left to right, each with its party's letter."""
    names = list(dict.fromkeys(row["process"] for row in host.trace.rows() if row["kind"] == "ProcessMade"))
    aps = [(sequence_guest.APS, "G")] if any(row["kind"] == "VmExit" and row["vcpu"] for row in host.trace.rows()) else []
    return [
        (OWNER, "O"), *((name, "V") for name in names), (KERNEL, "K"), (PSP, "P"), (ENGINE, "E"), (GUEST, "G"), *aps, (BUS, "B"),
    ]  # fmt: skip


class Story(View):
    """A trace to look at: displayed, a sequence diagram or text. `lines` are the lines as fields.

    `against` are another trace's, joined at their common beginning; `names` are those of the two. `unit` is what the number of
    a line counts.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        lines: Sequence[Mapping[str, Any]],
        title: str = "",
        against: Sequence[Mapping[str, Any]] | None = None,
        names: tuple[str, str] = ("", ""),
        unit: str = "entry",
    ) -> None:
        self.lines, self.title, self.against, self.names, self.unit = list(lines), title, against, names, unit
        super().__init__("lanes", make, self._words)

    def _words(self) -> str:
        """The lines as a table; of two traces the lines in which they differ, and the last one that they have in common."""
        if self.against is not None:
            return self._difference(self.against)
        rows = [_row(line, self.unit) for line in self.lines]
        return repr(Text(table(rows).text, self.title)) if rows else NOTHING

    def _difference(self, against: Sequence[Mapping[str, Any]]) -> str:
        same = [_row(a) | {"entry": 0} == _row(b) | {"entry": 0} for a, b in zip(self.lines, against, strict=False)]
        common = [*same, False].index(False)
        name = f"{self.names[0]} and {self.names[1]}"
        if common == len(self.lines) == len(against):
            return f"{name} have all {common} lines in common."
        rows = [{"trace": "both"} | _row(line) for line in self.lines[max(0, common - 1) : common]]
        for trace, lines in zip(self.names, (self.lines, against), strict=True):
            rows += [{"trace": trace} | _row(line) for line in lines[common:]]
        return f"{name} have the first {common} lines in common.\n\n{table(rows)}"


NOTHING = "Nothing has happened. Each call you make becomes an arrow."


def _row(line: Mapping[str, Any], unit: str = "entry") -> dict[str, Any]:
    return {
        unit: line["n"], "from": line["source"], "to": line["target"] or "", "what": line["label"], "answer": line["answer"],
    }  # fmt: skip


def lanes(
    host: Any,
    *,
    beside: Any = None,
    names: tuple[str, str] = ("", ""),
    locks: bool = False,
    since: int = 0,
    kinds: Collection[str] = (),
) -> Story:
    """The host's trace as a sequence diagram, live; with `beside` another host's, joined at their common beginning.

    `locks` draws every lock that is taken, awaited and given back; entries up to `since` are left out. `kinds` are the kinds
    of rows to draw, where a few are enough, `names` those of the two traces (else their kernels'). A machine that never
    existed has its banner.
    """

    def few(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [line for line in lines if not kinds or line["kind"] in kinds]

    mine = few(Reader(host, locks=locks, since=since).lines(host.trace.rows()))
    if beside is not None:
        theirs = few(Reader(beside, locks=locks, since=since).lines(beside.trace.rows()))
        called = names[0] or host.design.name, names[1] or beside.design.name

    def make(made: Any) -> Any:
        if beside is None:
            reader = Reader(host, locks=locks, since=since)
            known = lifelines(host)
            others = sum(letter in "OV" for _, letter in known), "V"  # a new process stands behind those there are
            return made.Lanes.of(
                host, lambda rows: [made.Line(**line) for line in few(reader.lines(rows))], known, others=others,
                imaginary=imaginary(host),
            )  # fmt: skip
        left, right = ([made.Line(**line) for line in lines] for lines in (mine, theirs))
        parting = "here they part" if host.design is beside.design else "here the kernels differ"
        return made.Lanes(
            left, against=right, names=called, lifelines=lifelines(host), parting=parting,
            imaginary=imaginary(host) or imaginary(beside),
        )  # fmt: skip

    return Story(make, mine) if beside is None else Story(make, mine, against=theirs, names=called)
