"""The coverage page: what the machine models and what each row of it leaves out.

    python -m sevlab.cli.coverage           writes notebooks/reference/coverage.md of this checkout

Everything is read from the tables that the machine itself runs by, so the page
says what is true, or the tests say that it is stale.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sevlab
from sevlab import Host
from sevlab.abi import kvm, sev_dev
from sevlab.abi.sev import cmd_name
from sevlab.hw import chips, vmcb
from sevlab.kvm import designs, exits, sev_commands, system, vcpu, vm, vmgexit, vmgexit_msr
from sevlab.kvm import sev_dev as sev_device
from sevlab.psp import commands
from sevlab.psp.states import SINCE

PAGE = Path(sevlab.__file__).resolve().parents[1] / "notebooks" / "reference" / "coverage.md"
WHOLE = "–"  # what a row says that leaves nothing out
NUMBER = re.compile(r"-?[0-9.]+|")  # or nothing

HEAD = """# Coverage: what is modelled, row by row

This page is generated from the tables that the emulated machine itself runs by (`make coverage`), and a test fails when it is
stale. The last column says what a row leaves out; a dash says that nothing is missing that its caller could see.

What has no row here answers as a machine without it. A command that real firmware has and this one has not is
`INVALID_COMMAND`, and leaves a row of the kind `NotModelled` in the trace. KVM's other ioctls, for interrupts, timers, dirty
logs and the like, are `EINVAL` or `ENOTTY`, as a number is that nobody has ever used. What one must not conclude from any of
this is on [a page of its own](limitations.md)."""

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table whose source is as legible as its page: columns as wide as their widest cell, numbers at the right."""
    lines = [list(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    right = [all(NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    rule = ["-" * (width - number) + ":" * number for width, number in zip(widths, right, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [lines[0], rule, *lines[1:]]))


def code(text: object) -> str:
    return f"`{text}`"


def _names(module: Any, prefix: str, *, but: str = "-") -> dict[int, str]:
    """Number to name of a module's constants, but for those that begin with `but`."""
    found = {key: value for key, value in vars(module).items() if key.startswith(prefix) and isinstance(value, int)}
    return {value: key for key, value in found.items() if not key.startswith(but)}


def _argument(kind: Any) -> tuple[str, str]:
    """A structure's name, and its size in bytes."""
    return (code(kind.__name__), str(kind.SIZE)) if kind else (WHOLE, "")


# ------------------------------------------------------------- sections


def firmware() -> Iterator[str]:
    """The commands of the mailbox."""
    yield "## The firmware's commands"
    yield "The mailbox of the PSP, SEV API 0.24. *Since*: the API version that first had the command; a dash: every version."
    rows = [
        (code(f"{cmd:#04x}"), code(cmd_name(cmd)), *_argument(row.buffer), _since(cmd), row.leaves_out or WHOLE)
        for cmd, row in sorted(commands.COMMANDS.items())
    ]
    yield table(("id", "command", "command buffer", "bytes", "since", "leaves out"), rows)
    yield "### Not modelled"
    yield "These answer `INVALID_COMMAND`, with a `NotModelled` row in the trace."
    missing = sorted(commands.NOT_MODELLED.items())
    yield table(
        ("id", "command", "since", "why"), [(code(f"{cmd:#04x}"), code(cmd_name(cmd)), _since(cmd), why) for cmd, why in missing]
    )


def _since(cmd: int) -> str:
    return ".".join(map(str, SINCE[cmd])) if cmd in SINCE else WHOLE


def _ioctls(rows: Mapping[int, Any], names: Mapping[int, str], width: int = 10) -> str:
    """A table of ioctls or sub-commands."""
    cells = [
        (code(f"{nr:#0{width}x}"), code(names.get(nr, "?")), *_argument(row.arg), row.leaves_out or WHOLE)
        for nr, row in rows.items()
    ]
    return table(("number", "name", "argument", "bytes", "leaves out"), cells)


def kernel() -> Iterator[str]:
    """The ioctls of the four kinds of descriptor."""
    yield "## `/dev/kvm`"
    yield _ioctls(system.IOCTLS, kvm.IOCTL_NAMES)
    yield from capabilities()
    yield "## A VM's descriptor"
    yield _ioctls(vm.IOCTLS, kvm.IOCTL_NAMES)
    yield from sub_commands()
    yield "## A vCPU's descriptor"
    yield _ioctls(vcpu.IOCTLS, kvm.IOCTL_NAMES)
    yield "## `/dev/sev`"
    yield f"One ioctl, `SEV_ISSUE_CMD` (`{sev_dev.SEV_ISSUE_CMD:#010x}`), and its commands:"
    yield _ioctls(sev_device.COMMANDS, _names(sev_dev, "SEV_", but="SEV_STATUS_"), 1)


def sub_commands() -> Iterator[str]:
    """KVM_MEMORY_ENCRYPT_OP, and which kernels have which sub-command."""
    yield "### `KVM_MEMORY_ENCRYPT_OP`"
    yield (
        "The sub-commands, by the kernels that have them. An id without a row is `EINVAL`: 10, 14 and 19 have no handler in any "
        "kernel, those of a migration between platforms (8 to 15, 21) have none here."
    )
    have = {design.name: sev_commands.commands(design) for design in designs.DESIGNS.values()}
    rows: dict[int, Any] = {}
    for found in have.values():
        rows = found | rows
    cells = []
    for nr, row in sorted(rows.items()):
        those = [name for name, found in have.items() if nr in found]
        kernels = "all" if len(those) == len(have) else ", ".join(those)
        cells.append((nr, code(f"KVM_SEV_{kvm.SEV_CMD_NAMES[nr]}"), *_argument(row.arg), kernels, row.leaves_out or WHOLE))
    yield table(("id", "sub-command", "argument", "bytes", "kernels", "leaves out"), cells)


def capabilities() -> Iterator[str]:
    """What KVM_CHECK_EXTENSION answers, kernel by kernel."""
    yield "### Capabilities"
    yield "What `KVM_CHECK_EXTENSION` answers; 0 is no. A capability without a row is 0 everywhere."
    made = {name: Host("rome", design, seed=1, memory=256 << 20) for name, design in designs.DESIGNS.items()}
    numbers = sorted({*system.EXTENSIONS, *(cap for host in made.values() for cap in host.kernel.capabilities)})
    names = _names(kvm, "KVM_CAP_")
    cells = [(cap, code(names[cap]), *(host.kernel.extension(cap) for host in made.values())) for cap in numbers]
    yield table(("number", "capability", *made), cells)
    for host in made.values():
        host.close()


def processor() -> Iterator[str]:
    """What a guest's exit leads to."""
    yield "## Exits of the processor"
    yield "Every exit code that the emulated processor can say. *Number*: AMD's, in the control block."
    names = {
        value: key.removeprefix("EXIT_") for key, value in vars(vmcb).items() if key.startswith("EXIT_") and isinstance(value, int)
    }
    cells = [
        (code(f"{nr:#x}" if nr >= 0 else nr), code(names.get(nr, "?")), row.leaves_out or WHOLE) for nr, row in exits.EXITS.items()
    ]
    yield table(("number", "exit", "leaves out"), cells)


def guests() -> Iterator[str]:
    """What an SEV-ES guest may ask of KVM."""
    yield "## What an SEV-ES guest asks"
    yield (
        "A VMGEXIT with a GHCB, by its exit code. *Protocol* 2 is that of 6.10 and newer. A code without a row gets its guest an "
        "error, or from older kernels ends `KVM_RUN` with `EINVAL`."
    )
    cells = [
        (code(f"{nr:#x}"), code(row.name), 2 if row.v2 else 1, row.leaves_out or WHOLE) for nr, row in vmgexit.VMGEXITS.items()
    ]
    yield table(("number", "request", "protocol", "leaves out"), cells)
    yield "### The MSR protocol"
    yield "Requests that fit into one number, for a guest that has no GHCB yet. One without a row stays where it is, unanswered."
    cells = [
        (code(f"{nr:#05x}"), code(row.name), 2 if row.v2 else 1, row.leaves_out or WHOLE)
        for nr, row in vmgexit_msr.REQUESTS.items()
    ]
    yield table(("number", "request", "protocol", "leaves out"), cells)


def silicon() -> Iterator[str]:
    """The chips, fact by fact."""
    yield "## Chips"
    yield (
        "*Measured* facts come from published measurements on hardware. Those *not verified* are stated from memory of AMD's "
        "documents, or are a choice of this emulation."
    )
    rows = list(chips.CHIPS.values())
    facts: list[tuple[str, list[Any]]] = [
        ("product", [chip.product for chip in rows]),
        ("encryption", [chip.mode for chip in rows]),
        ("position of the C-bit", [chip.c_bit for chip in rows]),
        ("address bits lost", [chip.reduction for chip in rows]),
        ("key slots", [chip.max_asid for chip in rows]),
        ("of these for SEV-ES", [f"1 to {chip.min_asid - 1}" for chip in rows]),
        ("coherent caches (SME_COHERENT)", ["yes" if chip.sme_coherent else "no" for chip in rows]),
        ("CPUID 1.EAX", [code(f"{chip.signature:#x}") for chip in rows]),
        ("family, model, stepping", [f"{chip.family}, {chip.model}, {chip.stepping}" for chip in rows]),
    ]
    yield table(("", *(code(chip.name) for chip in rows)), [(name, *values) for name, values in facts])
    yield "\n".join(_known(chip) for chip in rows)


def _known(chip: chips.Chip) -> str:
    """How the facts of one chip are known, as a line of a list."""
    facts = {"c_bit": "position of the C-bit", "max_asid": "key slots", "mode": "encryption", "reduction": "address bits lost"}
    measured, stated = ("; ".join(facts.get(fact, fact) for fact in which) for which in (chip.measured, chip.from_memory))
    return f"* {code(chip.name)}. " + (f"*Measured*: {measured}. " if measured else "") + f"*Not verified*: {stated}."


def kernels() -> Iterator[str]:
    """The designs: which answer each has at each seam."""
    yield "## Kernel designs"
    yield (
        "A seam is a place where the kernel's history forks. A design takes one answer at each; an answer of your own is as legal "
        "as these. `Absent()`: this kernel has no such capability."
    )
    made = list(designs.DESIGNS.values())
    seams = [field.name for field in dataclasses.fields(designs.Design) if field.name != "name"]
    yield table(
        ("seam", *(code(design.name) for design in made)),
        [(code(seam), *(code(repr(getattr(one, seam))) for one in made)) for seam in seams],
    )
    dreams = [f"* {code(design.name)}: {design.imaginary}" for design in made if design.imaginary]
    if dreams:
        yield "\n".join(dreams)
    for seam in seams:
        answers = list(dict.fromkeys(getattr(design, seam) for design in made))
        if dataclasses.is_dataclass(answers[0]) and len(dataclasses.fields(answers[0])) > 1:
            yield from differences(seam, answers)


def differences(seam: str, answers: Sequence[Any]) -> Iterator[str]:
    """A seam whose answers are switches: what each is, from the comment beside it, and how it stands."""
    yield f"### The seam `{seam}`, switch by switch"
    words = dict(re.findall(r"^    (\w+): .*?  # (.*)$", inspect.getsource(type(answers[0])), re.M))
    fields = [field.name for field in dataclasses.fields(answers[0]) if field.name != "version"]
    cells = [(code(field), words.get(field, ""), *(_yes(getattr(answer, field)) for answer in answers)) for field in fields]
    yield table(("", "what", *(code(answer.version) for answer in answers)), cells)


def _yes(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def summary() -> Iterator[str]:
    """How many rows there are, and how many of them are whole."""
    tables: dict[str, Iterable[Any]] = {
        "commands of the firmware": commands.COMMANDS.values(),
        "ioctls of `/dev/kvm`": system.IOCTLS.values(),
        "ioctls of a VM": vm.IOCTLS.values(),
        "sub-commands of `KVM_MEMORY_ENCRYPT_OP`": {**designs.INIT2.commands, **sev_commands.COMMANDS}.values(),
        "ioctls of a vCPU": vcpu.IOCTLS.values(),
        "commands of `/dev/sev`": sev_device.COMMANDS.values(),
        "exits of the processor": exits.EXITS.values(),
        "VMGEXITs": vmgexit.VMGEXITS.values(),
        "requests of the MSR protocol": vmgexit_msr.REQUESTS.values(),
    }
    rows = []
    for name, found in tables.items():
        left = [bool(row.leaves_out) for row in found]
        rows.append((name, len(left), left.count(False), left.count(True)))
    missing = len(commands.NOT_MODELLED)
    yield table(("", "modelled", "nothing left out", "with a gap"), rows)
    yield f"Beside these the firmware has {missing} commands that are not modelled at all."


SECTIONS = (summary, firmware, kernel, processor, guests, silicon, kernels)


def page() -> str:
    """The whole page."""
    parts = [HEAD, *(part for section in SECTIONS for part in section())]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the page into this checkout."""
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
