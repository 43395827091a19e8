"""`tour.errno`: five refusals, judged from the journal: a machine that repeats it must have refused them too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EBUSY, EINVAL, errorcode
from typing import Any, NamedTuple

from sevlab import vmm
from sevlab.abi.kvm import KVM_CREATE_VM, KVM_RUN, SEV_CMD_NAMES, ioctl_name
from sevlab.host import Host
from sevlab.journal_format import JournalError
from sevlab.kvm import designs
from sevlab.lab.attempt import attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row, repeated, student

NAMES = ("ENOTTY", "EBADF", "EINVAL", "EIO", "EBUSY")
CLOSED = "/closed"  # a cgroup that may have no key slot


class ErrnoCase:
    """A machine with nobody on it, of one kernel or the other; in cgroup /closed nobody gets a key slot."""

    gives: tuple[str, ...] = ("host",)
    closed = CLOSED

    def __init__(self, seed: int) -> None:
        self.kernel = designs.LINUX_6_1 if seed % 3 == 2 else designs.LINUX_6_12  # three other cases are never all 6.1
        self.host = Host(design=self.kernel, seed=seed, memory=1 << 30, cgroups={CLOSED: {"sev": 0}})


class Refused(NamedTuple):
    """An entry of the journal that was refused: its number, which call it was, and with what."""

    n: int
    call: str
    errno: int


def refused(host: Host) -> list[Refused]:
    """Every call that a host's kernel refused, from its trace: one for each entry."""
    found: dict[int, Refused] = {}
    for row in host.trace.rows():
        if row["kind"] == "SevCommand" and row["errno"]:
            found[row["n"]] = Refused(row["n"], f"KVM_SEV_{SEV_CMD_NAMES.get(row['id'], row['id'])}", row["errno"])
        elif row["kind"] in ("Ioctl", "Syscall") and row["errno"]:
            call = ioctl_name(row["nr"]) if row["kind"] == "Ioctl" else row["what"]
            found.setdefault(row["n"], Refused(row["n"], call, row["errno"]))
    return [found[n] for n in sorted(found)]


def paired(errors: Sequence[OSError], entries: Sequence[Refused]) -> list[Refused | None]:
    """For each error the first entry that was refused with its number and is not another's yet; None where there is none."""
    left, found = list(entries), []
    for error in errors:
        one = next((entry for entry in left if entry.errno == error.errno), None)
        if one is not None:
            left.remove(one)
        found.append(one)
    return found


def _name(error: Any) -> str:
    return errorcode.get(error.errno or 0, str(error)) if isinstance(error, OSError) else repr(error)[:20]


def _check(case: ErrnoCase, answer: Callable[[Any], Any]) -> Finding:
    given = student(answer, case.host)
    many = list(given) if isinstance(given, list | tuple) else [given]
    errors = [error for error in many if isinstance(error, OSError)]
    try:
        entries = refused(repeated(case.host))
    except JournalError as no:
        return Finding([Row("the journal", f"cannot be repeated: {no}", "repeats what you did", False)])
    pairs = paired(errors, entries)
    kept = {_name(error): entry for error, entry in zip(errors, pairs, strict=True) if entry is not None}
    rows = [Row("errors", str(len(many)), "5"), *(_row(name, errors, kept.get(name)) for name in NAMES)]
    reasons = {(entry.call, getattr(error, "why", "")) for error, entry in zip(errors, pairs, strict=True) if entry is not None}
    rows.append(Row("calls and reasons", f"{len(reasons)} different", "5 different"))
    return Finding(rows, {"errors": errors, "pairs": pairs, "entries": entries})


def _row(name: str, errors: Sequence[OSError], entry: Refused | None) -> Row:
    you = name if name in map(_name, errors) else "-"
    return Row(name, you, "refused nothing with it" if entry is None else f"entry {entry.n}, {entry.call}", entry is not None)


# ------------------------------------------------------------- what is said


def _invented(case: ErrnoCase, answer: Any, found: Finding) -> object:
    """An error that no entry of the journal bears out."""
    errors, pairs = found.facts.get("errors", ()), found.facts.get("pairs", ())
    alone = [error for error, entry in zip(errors, pairs, strict=True) if entry is None]
    return bool(alone) and {"name": _name(alone[0])}


def _initialised_twice(case: ErrnoCase, answer: Any, found: Finding) -> object:
    """A second INIT on a kernel that answers it with EINVAL, where EBUSY was wanted."""
    entries = found.facts.get("entries", ())
    tried = any(entry.call.startswith("KVM_SEV_") and "INIT" in entry.call and entry.errno == EINVAL for entry in entries)
    missing = not any(entry.errno == EBUSY for entry in entries)
    return tried and missing and {"kernel": case.host.design.name}


def _same_rung(case: ErrnoCase, answer: Any, found: Finding) -> object:
    """Two errors of one call, refused by one rung."""
    seen: dict[tuple[str, str], Refused] = {}
    for error, entry in zip(found.facts.get("errors", ()), found.facts.get("pairs", ()), strict=True):
        if entry is None:
            continue
        first = seen.setdefault((entry.call, getattr(error, "why", "")), entry)
        if first is not entry:
            return {"a": first.n, "b": entry.n}
    return False


def _reference(case: ErrnoCase) -> Callable[[Any], Any]:
    def five(host: Any) -> list[OSError]:
        qemu, other = host.process("qemu"), host.process("other", cgroup="/closed")
        plain = vmm.steps.create_vm(qemu, plain=True)
        calls: list[Callable[[], Any]] = [
            lambda: vmm.steps.launch_start(plain, 1),  # ENOTTY: an ordinary VM is no SEV guest
            lambda: qemu.ioctl(99, KVM_CREATE_VM, 0),  # EBADF: nothing is open there
            lambda: qemu.ioctl(plain.kvm, KVM_RUN, 0),  # EINVAL: /dev/kvm has no such call
            lambda: qemu.fork().ioctl(plain.fd, KVM_RUN, 0),  # EIO: a child is another process
            lambda: vmm.steps.create_vm(other),  # EBUSY: its group may have no slot
        ]
        return [attempt(call).error for call in calls]

    return five


ERRNO = Exercise(
    id="tour.errno",
    title="Five refusals",
    minutes=8,
    level="core",
    kind="journal",
    ask="Write five(host): it makes a fresh host answer ENOTTY, EBADF, EINVAL, EIO and EBUSY, each for a\n"
    "reason of its own, and returns the five OSErrors. Try it on case.host. The check runs it on three\n"
    "others, not all of that kernel, and believes the journal only. In cgroup {closed} a process gets no\n"
    "key slot. answer = five",
    setup=ErrnoCase,
    check=_check,
    reference=_reference,
    wants=lambda answer: "" if callable(answer) else "Give the function itself: answer = five.",
    heads=("errno", "you", "the machine"),
    look="the ladder of a call that you expect to say no: lab.ladder('LAUNCH_START')",
    hints=(
        "lab.attempt(call).error is the error of a refused call. vmm.steps.create_vm(process, plain=True) makes an ordinary VM.",
        "A command for which the VM is of the wrong kind; a descriptor that nobody opened, or that is not what the call wants.",
        "EIO: another process than the one that made the VM. EBUSY: something is taken already, or there is none left for you.",
    ),
    diagnoses=(
        Diagnosis(
            "invented",
            _invented,
            "This one was raised by Python, not by the machine: there is no call in the journal that was refused with {name}.",
        ),
        Diagnosis(
            "twice",
            _initialised_twice,
            "On {kernel} the answer to a second INIT is EINVAL (it was EBUSY until 6.9). Ask the kernel you are on, "
            "host.design.name, or choose another cause.",
        ),
        Diagnosis(
            "same",
            _same_rung,
            "Entries {a} and {b} are the same call refused by the same rung. Look for another rung.",
        ),
    ),
)
