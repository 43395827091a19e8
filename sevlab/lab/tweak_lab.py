"""Lab `tweak`: what a host tries with ciphertext, and what the machine says to each question.

The instrument is `sevlab.lab.tweak.Box`, the picture `sevlab.lab.picture`. The questions
stand in the notebook, the answers here. An answer only looks; what acts is said to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sevlab import vmm
from sevlab.abi.sev import Cmd, status_name
from sevlab.abi.sev_buffers import Copy, LaunchUpdateData
from sevlab.crypto import Stream, sha256
from sevlab.host import Host
from sevlab.hw import chips
from sevlab.hw.isa import hlt, load, program, store
from sevlab.kvm import designs
from sevlab.lab.attempt import Refusal
from sevlab.lab.bus import bus
from sevlab.lab.prediction import Answer
from sevlab.lab.show import Structure, Text, layout, table
from sevlab.lab.tweak import Box, solve_tweaks, xor
from sevlab.vmm import ram

BLOCK, PAGE = 16, 4096
BAR, OUT = 0x4000_0000, 0x6000
LINE = b"a line in a BAR."
# 6.1 with the pinning of 2017: the two never met, and nothing else of the kernel differs.
PIN_SLOTS = designs.replace(designs.LINUX_6_1, name="6.1, pins as posted", pinning=designs.PIN_SLOTS)
NEVER = "This machine never existed: a Linux of 2022 with the pins as they were posted in 2017."


@program
async def keeper() -> None:
    """Keep a line in the BAR; woken again, copy what stands there to where everybody can read it."""
    await store(BAR, LINE)
    await hlt()
    await store(OUT, await load(BAR, 16), c=False)
    await hlt()


# ------------------------------------------------------------------ acts


def frame_of_ones_own(host: Host, name: str = "scratch") -> int:
    """The hpa of a page that a new process of the host has: a place to copy to that is nobody else's."""
    process = host.process(next(one for one in (name, f"{name}-2", f"{name}-3") if one not in host.processes))
    hva = process.mmap(PAGE)
    process.write(hva, b"\0")
    return host.hpa(process, hva)


def pairs(box: Box, count: int, line: bytes = b"a line one knows", seed: int = 5) -> list[tuple[int, bytes]]:
    """`count` copies between scattered places of the first 4 GiB: (p xor q, what the guest then reads xor what it wrote)."""
    stream, found = Stream(seed).fork("lab/tweak/pairs"), []
    for _ in range(count):
        drawn = (int.from_bytes(stream.draw("place", 4), "little") for _ in range(2))
        p, q = ((1 << 28) + number % (15 << 28) & -BLOCK for number in drawn)
        found.append((p ^ q, box.difference(p, q, line)))
    return found


def unregister(vm: Any) -> None:
    """Tell the kernel that the guest's RAM holds no ciphertext: its pages lose their pins."""
    slot = next(slot for slot in vm.slots if slot.gpa == 0)
    ram.register(vm, ram.RamBlock(slot.hva, slot.size), False)


def firmware_copy(host: Host, vm: Any, source: int, target: int) -> str:
    """Have the PSP move a page of the guest from hpa to hpa, re-encrypted: its status by name. Linux has never asked for it."""
    return status_name(host.mailbox(Cmd.COPY, Copy(handle=vm.handle, len=PAGE, src_paddr=source, dst_paddr=target)))


def load_without_flush(host: Host, vm: Any, gpa: int) -> str:
    """A modified kernel hands a page to LAUNCH_UPDATE_DATA and forgets the CLFLUSH before it."""
    paddr = host.hpa(vm.process, vm.hva(gpa)) | 1 << host.chip.c_bit  # as Linux names it: __sme_page_pa
    buffer = LaunchUpdateData(handle=vm.handle, paddr=paddr, len=PAGE)
    return status_name(host.mailbox(Cmd.LAUNCH_UPDATE_DATA, buffer))


class Bar(NamedTuple):
    """What became of a BAR on one kernel: the machine, its guest, the story as a row, and in which frames (hpas) its page lay."""

    host: Host
    vm: Any
    row: dict[str, Any]
    frames: tuple[int, int]


def bar(design: Any, *, scrub: bool = True, seed: int = 7) -> Bar:
    """A BAR with RAM behind it is hidden and shown again; with `scrub` the host compacts meanwhile. What became of its line."""
    chip = replace(chips.ROME, banner=NEVER) if design is PIN_SLOTS else chips.ROME
    host = Host(chip, design, seed=seed, memory=8 << 20)
    vm = vmm.launch(host, program=keeper, name="guest", memory=1 << 20)  # so little that a map of it can be read
    vm.finish()
    block = ram.add_block(vm, PAGE)
    slot = ram.show(vm, block, BAR)
    ram.tell(vm, block, True)
    vm.run()
    seen = _pins(host, vm, block)
    ram.hide(vm, slot)
    hidden, frame = _pins(host, vm, block), host.hpa(vm.process, block.hva)
    moved = host.compact(vm.process, block.hva) if scrub else []
    ram.show(vm, block, BAR)
    vm.run()
    read = vm.read(OUT, 16)
    return Bar(host, vm, {
        "kernel": design.name, "pins in sight": seen, "pins hidden": hidden, "pages moved": len(moved),
        "the guest reads": "its line" if read == LINE else "noise",
    }, (frame, host.hpa(vm.process, block.hva)))  # fmt: skip


def _pins(host: Host, vm: Any, block: ram.RamBlock) -> int:
    return int(host.pages.pins(host.hpa(vm.process, block.hva) // PAGE))


# ------------------------------------------------------------------ what is shown


def ledger(host: Host, vms: Mapping[str, Any]) -> Text:
    """For each VM: how many pages it has locked, what its process may lock, and how many are left."""
    rows = []
    for name, vm in vms.items():
        locked, limit = host.kernel.vm_of(vm.process, vm.fd).sev.pages_locked, vm.process.memlock // PAGE
        rows.append({"VM": name, "pages_locked": locked, "RLIMIT_MEMLOCK": limit, "left": limit - locked})
    return table(rows)


def compared(found: Mapping[int, bytes], published: Mapping[int, str]) -> Structure:
    """Constants that were found beside those that were published, a field for each address bit."""
    notes = {f"t_{bit}": "not four times the same" for bit in sorted(found) if found[bit] != found[bit][:4] * 4}
    mine = [(f"t_{bit}", found[bit][:4]) for bit in sorted(found)]
    theirs = b"".join(bytes.fromhex(published[bit]) for bit in sorted(found))
    title = f"{len(mine)} constants, the first 4 of 16 bytes"
    return layout(mine, notes, title=title, beside=theirs, names=("found", "published"))


def frames(*bars: Bar) -> Text:
    """In which frame of each machine the BAR's page lay, before it was hidden and after it came back."""
    return table([
        {"kernel": one.row["kernel"], "the BAR's frame": f"{one.frames[0]:#x}", "in the end": f"{one.frames[1]:#x}"} for one in bars
    ])  # fmt: skip


def contradiction(equations: Sequence[tuple[int, bytes]]) -> Text:
    """What the equations of an XEX engine come to: the sentence with which solving them is refused, or that they agree."""
    try:
        return Text(f"{len(solve_tweaks(equations))} constants follow")
    except ValueError as no:
        return Text(str(no))


def repeated(data: bytes) -> float:
    """The share of 16-byte blocks that are like another one."""
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return 1 - len(set(blocks)) / max(len(blocks), 1)


def changed(one: bytes, other: bytes) -> set[int]:
    """The numbers of the 16-byte blocks in which two byte strings differ."""
    return {at // BLOCK for at in range(0, len(one), BLOCK) if one[at : at + BLOCK] != other[at : at + BLOCK]}


# ------------------------------------------------------------------ answers, part A


def recognised(carried: bytes) -> Answer:
    """Scene 1: can one recognise a picture in the ciphertext of an engine without a tweak?"""
    share = repeated(carried)
    because = "Equal blocks have equal ciphertext, and a flat grey is one block again and again: the outlines stay."
    return Answer("yes" if share > 0.5 else "no", f"{share:.0%} of the blocks on the bus are like another one", because)


def two_places(one: bytes, other: bytes) -> Answer:
    """Scene 2: has one text the same ciphertext at two addresses?"""
    because = "Into each block goes a number made from its address, the tweak T, so that equal text does not show."
    return Answer("yes" if one == other else "no", f"{one.hex(' ')}\n{other.hex(' ')}", because)


def two_times(one: bytes, other: bytes) -> Answer:
    """Scene 2: and at one address, at two times?"""
    because = "Same key, same address, same text: the same ciphertext. Memory has no room for a counter or a nonce."
    return Answer("yes" if one == other else "no", f"{one.hex(' ')}\n{other.hex(' ')}", because)


def redrawn(pictures: Sequence[bytes], carried: Sequence[bytes]) -> Answer:
    """Scene 3: which blocks on the bus change when a picture does?"""
    wanted, found = changed(*pictures), changed(*carried)
    total = len(pictures[0]) // BLOCK
    says = "those in which the picture did" if found == wanted else "all" if len(found) == total else "others"
    says = says if found else "none"
    evidence = f"{len(wanted):,} of {total:,} blocks of the picture changed, {len(found):,} on the bus"
    because = "What does not change stays the same on the bus. Hidden in space, visible in time."
    return Answer(says, evidence, because)


FORMULAS = ["m", "m ⊕ T(q)", "m ⊕ T(p) ⊕ T(q)", "noise"]


def read_at_q(host: Host, p: int, q: int, line: bytes, found: bytes) -> Answer:
    """Scene 4: what does the guest read where the ciphertext of its line was copied to?"""
    at_p, at_q = host.xray.tweak(p), host.xray.tweak(q)
    means = {line: "m", xor(line, at_q): "m ⊕ T(q)", xor(xor(line, at_p), at_q): "m ⊕ T(p) ⊕ T(q)"}
    says = means.get(found, "noise")
    because = {
        "noise": "D(E(m ⊕ T(p)) ⊕ T(p) ⊕ T(q)) ⊕ T(q): here T is outside the cipher too, and nothing cancels out.",
        "m ⊕ T(p) ⊕ T(q)": "What stands before the cipher is what it gives back; encrypted with T(p), opened with T(q).",
    }
    shown = {"m": line, "reads": found, "T(p)": at_p, "T(q)": at_q}
    evidence = "\n".join([f"p {p:#x}  q {q:#x}", *(f"{name:5}  {data.hex()}" for name, data in shown.items())])
    return Answer(says, evidence, because.get(says, ""))


def linear(host: Host, bit: int, difference: bytes) -> Answer:
    """Scene 5: p and q differ in one bit. What is the difference that the guest reads?"""
    constant = host.xray.tweak(1 << bit)
    because = "All constants of the bits that p and q share cancel out. One is left."
    evidence = f"read ⊕ written  {difference.hex()}\nt_{bit}            {constant.hex()}"
    return Answer("the constant of that bit" if difference == constant else "noise", evidence, because)


# ------------------------------------------------------------------ answers, part B


def places_changed(first: bytes, second: bytes, one: bytes, other: bytes) -> Answer:
    """Scene 6: two mappings changed places. What does the guest read at its first page? It held `one`, the second `other`."""
    says = {one: "its own line, as ever", other: "the line of the other page"}.get(first, "noise")
    because = "The tweak knows machine addresses and not the guest's. The frame did not move, so everything still decrypts."
    return Answer(says, f"first page   {_text(first)}\nsecond page  {_text(second)}", because)


def after_compaction(text: bytes, found: bytes, mode: str) -> Answer:
    """Scene 7: an honest host copied a frame. What does the guest read?"""
    apart = {xor(found[at : at + BLOCK], text[at : at + BLOCK]) for at in range(0, len(text), BLOCK)}
    says = "its text" if found == text else "its text, xored with one constant" if len(apart) == 1 else "noise"
    whole, each = "one constant for the whole page, T(p) ⊕ T(q).", "another value in each block. The text is lost."
    evidence = f"{found[:32].hex(' ')}\n{len(apart)} different values of read ⊕ written, in {len(text) // BLOCK} blocks"
    return Answer(says, evidence, f"{mode}: {whole if len(apart) == 1 else each}")


def nothing_moved(moved: Sequence[Any]) -> Answer:
    """Scene 7: how many pages of a registered guest does the host's compaction move?"""
    because = "KVM_MEMORY_ENCRYPT_REG_REGION has pinned them: a pin is the promise that a page stays in its frame."
    return Answer("none" if not moved else "all it was asked for", f"{len(moved)} pages moved", because)


def copied(status: str, text: bytes, found: bytes) -> Answer:
    """Scene 7: the firmware's COPY moved the page. What does the guest read?"""
    because = "COPY decrypts at the old address and encrypts at the new one, inside the PSP. Linux has never used it, and pins."
    return Answer("its text" if found == text else "noise", f"{status}: {_text(found[:32])}", because)


def too_many(answer: Any, dmesg: Sequence[str]) -> Answer:
    """Scene 8: one region too many."""
    says = answer.errno_name if isinstance(answer, Refusal) else "0"
    because = "The limit is the process's, the count each VM's own. Whoever starts SEV guests raises RLIMIT_MEMLOCK first."
    return Answer(says, f"{answer}\ndmesg: {dmesg[-1]}", because)


def bars(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Scene 9: on which kernel has the BAR lost its line?"""
    lost = [str(row["kernel"]) for row in rows if row["the guest reads"] != "its line"]
    because = "As posted, the pin went with the slot. As merged, it goes with the memory, and outlives every slot that shows it."
    return Answer({0: "neither", 1: lost[0] if lost else "", 2: "both"}[len(lost)], table(rows), because)


def measured(digest: bytes, page: bytes) -> Answer:
    """Scene 10: what went into the digest without the flush?"""
    means = {sha256(page): "the page", sha256(bytes(PAGE)): "zeros"}
    because = "The page still sat in the cache, dirty. The PSP reads DRAM, and DRAM held what was there before."
    return Answer(means.get(digest, "something else"), f"x-ray  {digest.hex()}", because)


def later(host: Host, vm: Any, gpa: int, page: bytes) -> Answer:
    """Scene 10: and what lies on the bus when the line is written back at last?"""
    found = bus(host, vm, gpa, 32)
    because = "The host's line, in clear, was written over the ciphertext. Too late twice: not measured, and not secret."
    return Answer("the page, in clear" if found == page[:32] else "ciphertext", _text(found), because)


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
