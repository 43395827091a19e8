"""The processor: runs a guest's coroutine from VMRUN to the next VMEXIT.

A running guest is a *thread*: its program, the arguments it began with, and the
log of everything its instructions have given it. The live coroutine is a cache
of that, and can be rebuilt from it at any moment (a copied VM, a moved one, a
journal replayed); RIP is the address of the page it was fetched from.

Loads and stores are the processor's own: nested page tables, then the engine
with the guest's ASID and the C-bit. What a hypervisor must see ends in an exit
code by AMD's numbers; with SEV-ES most of those become #VC in the guest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sevlab.hw import xstate
from sevlab.hw.access import fetch, fetch_again, load, load_cr3, store
from sevlab.hw.clock import COSTS
from sevlab.hw.engine import NoKey
from sevlab.hw.isa import UD, VC, Fault, Instruction
from sevlab.hw.leave import LEAVE, NON_AUTOMATIC, RESULT
from sevlab.hw.measure import encode
from sevlab.hw.mistake import GuestError, mistake
from sevlab.hw.npt import NestedFault
from sevlab.hw.registers import EFFECTS, pass_through
from sevlab.hw.savearea import enter
from sevlab.hw.thread import Thread, TripleFault
from sevlab.hw.vmcb import (
    EXIT_CPUID,
    EXIT_INTR,
    EXIT_INVALID,
    EXIT_NPF,
    EXIT_SHUTDOWN,
    NPF_FETCH,
    NPF_GUEST_PAGE,
    NPF_GUEST_TABLE,
    NPF_WRITE,
    Vmcb,
)
from sevlab.trace import Event, name, u16

if TYPE_CHECKING:
    from sevlab.hw.savearea import SaveArea
    from sevlab.hw.soc import Soc

__all__ = ["GuestError", "Thread", "Vmcb", "exits", "vmrun"]

# MSRs that the processor answers itself in an SEV guest (firmware.md 7.2).
MSR_GHCB, MSR_SEV_STATUS = 0xC001_0130, 0xC001_0131

CR4_OSXSAVE = 1 << 18

FETCH: Instruction = ("fetch",)  # what a processor does before its first instruction
WORLD_SWITCH = COSTS["VMRUN"].ns + COSTS["VMEXIT"].ns


class TripleFaulted(Event, lane="guest"):
    """A processor could not go on and shut down; `why` is what the guest can never tell."""

    asid: u16
    why: name


# ------------------------------------------------------------------ entry


def _enter(soc: Soc, vmcb: Vmcb) -> bool:
    """VMRUN's own part: check and load the state, fetch. False when the processor refuses to enter.

    Raises TripleFault and NestedFault as a fetch does.
    """
    if vmcb.exit_code == EXIT_SHUTDOWN:
        raise TripleFault(vmcb.why)  # only a reset ends this
    if vmcb.sev and not vmcb.asid:
        vmcb.why = "ASID 0 is the host's"
        return False
    if vmcb.es and not enter(soc, vmcb):
        return False
    thread = vmcb.thread
    if thread is None:
        start = vmcb.vmsa.start if vmcb.vmsa else vmcb.save.cs.base + vmcb.regs.rip
        thread = Thread(*fetch(soc, vmcb, start))
        vmcb.skip, vmcb.event = False, None
    else:
        fetch_again(soc, vmcb, thread)
    vmcb.thread = thread
    if thread.send is None:
        thread.rebuild()
    return True


# ----------------------------------------- instructions that stay inside


def _jump(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> None:
    _, gpa, args = instruction
    encode(args)
    program, given = fetch(soc, vmcb, gpa)
    vmcb.thread = Thread(program, (*given, *args)[: program.arity])
    if not vmcb.es:
        vmcb.save.cs.base, vmcb.regs.rip = 0, gpa


def _checkpoint(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> None:
    assert vmcb.thread
    encode(instruction[1])
    vmcb.thread = Thread(vmcb.thread.program, instruction[1])


def _xsave(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> bytes | Fault:
    if vmcb.es and vmcb.vmsa is not None:
        cr4, image = int.from_bytes(vmcb.vmsa.image[0x148:0x150], "little"), xstate.from_area(vmcb.vmsa.image)
    else:
        cr4, image = vmcb.save.cr4, xstate.finish(vmcb.xsave)
    return image if cr4 & CR4_OSXSAVE else Fault(UD)


LOCAL: dict[str, Callable[[Any, Vmcb, Instruction], Any]] = {
    "load": load,
    "store": store,
    "load_cr3": load_cr3,
    "pause": lambda soc, vmcb, instruction: None,
    "rdtsc": lambda soc, vmcb, instruction: soc.clock.now,
    "xsave": _xsave,
    "ud2": lambda soc, vmcb, instruction: Fault(UD),
    "jump": _jump,
    "checkpoint": _checkpoint,
}
AWAY = ("jump", "checkpoint")  # these do not come back

# ------------------------------------------------------------------ VMRUN


def vmrun(soc: Soc, vmcb: Vmcb, budget: int = 10_000) -> int:
    """Run the guest once, until it leaves: the exit code, which the control block also holds."""
    return next(exits(soc, vmcb, budget))


def exits(soc: Soc, vmcb: Vmcb, budget: int = 10_000) -> Iterator[int]:
    """Run the guest from exit to exit: yields the exit code each time it has left; to go on is the next VMRUN.

    Begin anew whenever somebody else may have run: only the beginning checks state and program. `budget` instructions
    in all, then a physical interrupt takes the processor away (EXIT_INTR); that, SHUTDOWN, INVALID and a nested page
    fault are the last. An error of Python inside a guest program is a GuestError that names the line; an OSError of
    the kernel's page-fault handler comes through. The guest then stands before the instruction that met them.
    """
    trace, instruction = soc.trace, FETCH
    trace.now += WORLD_SWITCH  # soc.clock.spend(), in place
    try:
        if not _enter(soc, vmcb):
            yield vmcb.exit(EXIT_INVALID)
            return
        thread: Thread = vmcb.thread  # type: ignore[assignment]
        if vmcb.es:
            yield from _sealed(soc, vmcb, thread, budget)
            budget = 0
        regs, note = vmcb.regs, thread.log.append
        instruction = _resume(vmcb, thread) if budget else FETCH
        value: Any
        for _ in range(budget):
            if instruction[0] == "cpuid":  # what the rest of this loop would do, in place: the hot path
                _, regs.rax, regs.rcx = instruction
                vmcb.exit_code, vmcb.exit_info_1, vmcb.exit_info_2 = EXIT_CPUID, 0, 0
                yield EXIT_CPUID
                trace.now += WORLD_SWITCH
                if vmcb.skip:
                    value = (regs.rax, regs.rbx, regs.rcx, regs.rdx)
                    thread.pending = instruction = thread.send(value)  # type: ignore[misc]
                    note(value)
                    vmcb.skip = False
                continue
            leave = LEAVE.get(instruction[0])
            value = _inside(soc, vmcb, instruction) if leave is None or vmcb.sev else OUTSIDE
            if value is OUTSIDE:
                yield leave(vmcb, instruction)  # type: ignore[misc]
                trace.now += WORLD_SWITCH
                instruction = _resume(vmcb, thread)
                continue
            trace.now += 1
            if instruction[0] in AWAY:
                thread = vmcb.thread  # type: ignore[assignment]
                thread.rebuild()
                instruction, note = thread.pending, thread.log.append
            else:
                instruction = thread.step(value)
        code = vmcb.exit(EXIT_INTR)
    except NestedFault as fault:
        code = _nested(vmcb, instruction, fault)
    except (TripleFault, NoKey, StopIteration, Fault) as fault:
        code = _shut_down(soc, vmcb, fault)
    except GeneratorExit:
        raise
    except BaseException as error:
        if vmcb.thread is not None:
            vmcb.thread.send = None  # to be rebuilt from the log
            told = mistake(vmcb.thread, error) if isinstance(error, Exception) else None
            if told is not None:
                raise told from error
        raise
    if vmcb.es and vmcb.vmsa is not None:
        vmcb.vmsa.leave(vmcb)
    yield code


def _sealed(soc: Soc, vmcb: Vmcb, thread: Thread, budget: int) -> Iterator[int]:
    """The same for an SEV-ES guest: its registers are the save area's, and only automatic exits leave; RIP is past them."""
    trace, area = soc.trace, vmcb.vmsa
    assert area is not None
    instruction = _resume_sealed(vmcb, area, thread)
    for _ in range(budget):
        value = _inside(soc, vmcb, instruction)
        if value is OUTSIDE:
            vmcb.skip = True
            LEAVE[instruction[0]](vmcb, instruction)
            area.leave(vmcb)
            yield vmcb.exit_code
            trace.now += WORLD_SWITCH
            instruction = _resume_sealed(vmcb, area, thread)
            continue
        trace.now += 1
        if instruction[0] in AWAY:
            thread = vmcb.thread  # type: ignore[assignment]
            thread.rebuild()
            instruction = thread.pending
            area.saved.clear()
        else:
            instruction = _step(area, thread, value)


def _resume_sealed(vmcb: Vmcb, area: SaveArea, thread: Thread) -> Instruction:
    if vmcb.skip:
        instruction = _step(area, thread, None)
        vmcb.skip = False
        return instruction
    if vmcb.event is not None:
        instruction = _step(area, thread, vmcb.event)
        vmcb.event = None
        return instruction
    return thread.pending


def _step(area: SaveArea, thread: Thread, value: Any) -> Instruction:
    """Thread.step with registers: a #VC handler finds those of the instruction that it answers for, and puts back all others."""
    frames = thread.frames
    depth = len(frames)
    if thread.pending[0] in EFFECTS:
        pass_through(area.registers, thread.pending, value)
    instruction = thread.step(value)
    if len(frames) == depth:
        return instruction
    if len(frames) > depth:
        area.saved.append(tuple(area.registers))
    elif area.saved:
        area.registers[:] = area.saved.pop()
        pass_through(area.registers, thread.interrupted, thread.returned)
    return instruction


def _resume(vmcb: Vmcb, thread: Thread) -> Instruction:
    """The instruction that comes next after an exit: past the one that left, into an exception, or that one again."""
    if vmcb.skip:
        instruction = thread.step(RESULT[thread.pending[0]](vmcb, thread.pending))
        vmcb.skip = False
        return instruction
    if vmcb.event is not None:
        instruction = thread.step(vmcb.event)
        vmcb.event = None
        return instruction
    return thread.pending


OUTSIDE = object()


def _inside(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> Any:
    """The result of an instruction that does not leave the guest, a Fault to be raised there; OUTSIDE if it does leave.

    In an SEV guest the processor answers for the guest's own MSRs, and with SEV-ES a non-automatic exit, or access to
    a device's page, is first of all #VC.
    """
    op = instruction[0]
    inside = LOCAL.get(op)
    if inside is not None:
        try:
            return inside(soc, vmcb, instruction)
        except NestedFault as fault:
            if not vmcb.es or op == "jump" or fault.table:
                raise
            return Fault(VC, EXIT_NPF)
        except Fault as fault:
            return fault
    if op in ("rdmsr", "wrmsr"):
        msr, write = instruction[1], op == "wrmsr"
        if msr == MSR_SEV_STATUS and not write:
            return vmcb.sev | vmcb.es << 1
        if msr == MSR_GHCB and vmcb.es:
            vmcb.ghcb_gpa = instruction[2] if write else vmcb.ghcb_gpa
            return None if write else vmcb.ghcb_gpa
    if op not in LEAVE:
        raise TypeError(f"a guest awaited {instruction!r}, which is no instruction")
    return Fault(VC, NON_AUTOMATIC[op]) if vmcb.es and op in NON_AUTOMATIC else OUTSIDE


def _shut_down(soc: Soc, vmcb: Vmcb, fault: Exception) -> int:
    """A triple fault: nothing but a reset makes this processor run again."""
    who = vmcb.thread.program.name if vmcb.thread else ""
    match fault:
        case StopIteration():
            vmcb.why = f"{who} ran off its end"
        case Fault():
            vmcb.why = f"{who} has no handler for {fault}"
        case _:
            vmcb.why = str(fault)
    if vmcb.thread is not None:
        vmcb.thread.send = None
    soc.trace.emit(TripleFaulted, vmcb.asid, vmcb.why)
    return vmcb.exit(EXIT_SHUTDOWN)


def _nested(vmcb: Vmcb, instruction: Instruction, fault: NestedFault) -> int:
    """A nested page fault that the kernel has no memory for."""
    kind = {"store": NPF_WRITE, "fetch": NPF_FETCH, "jump": NPF_FETCH}.get(instruction[0], 0)
    return vmcb.exit(EXIT_NPF, (NPF_GUEST_TABLE if fault.table else NPF_GUEST_PAGE) | kind, fault.gpa)
