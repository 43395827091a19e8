"""An entry undone: the machine as before it, and every object that the user holds the object it was."""

from __future__ import annotations

from errno import EBUSY
from typing import Any

import pytest
from rigs_of_time import begin_move, host, state_of, vms

from sevlab import Host
from sevlab.abi.kvm import KVM_CHECK_EXTENSION
from sevlab.kvm.call import Blocked


def test_an_exception_that_is_no_refusal_undoes_its_entry_in_place() -> None:
    one = host()
    process = one.process("qemu")
    kvm, hva = process.open("/dev/kvm"), process.mmap(4096)
    process.write(hva, b"kept")
    one.kernel.devices["/dev/broken"] = lambda kernel, mode: _broken(process)
    before = state_of(one)

    with pytest.raises(ZeroDivisionError):
        process.open("/dev/broken")

    assert state_of(one) == before
    assert one.processes["qemu"] is process and process.read(hva, 4) == b"kept"
    assert process.ioctl(kvm, KVM_CHECK_EXTENSION, 206) == 1
    assert state_of(one.fork()) == state_of(one)


def _broken(process: Any) -> Any:
    process.task.mm.write(process.task.mm.mmap(4096), b"half done")
    return 1 // 0


def test_a_call_under_way_survives_another_entry_s_undoing() -> None:
    one = host()
    process = one.process("qemu")
    a, b = vms(process, 2, 1)
    call = begin_move(process, b, a)
    call.step()
    call.step()
    before = call.state, repr(call.waits_for)

    with pytest.raises(TypeError):
        process.open()  # type: ignore[call-arg]

    assert (call.state, repr(call.waits_for)) == before
    assert call.finish() == 0 and call.done and not one.kernel.calls.begun


def test_a_call_that_was_blocked_is_still_the_one_that_its_refusal_named() -> None:
    one = host()
    process = one.process("qemu")
    a, b = vms(process, 2, 1)
    holder = begin_move(process, b, a)
    while "kvm->lock" not in str(holder._request):
        holder.step()
    blocked = _blocked(process, b, a)
    with pytest.raises(TypeError):
        process.open()  # type: ignore[call-arg]

    assert blocked is None or blocked.number in one.kernel.calls.kept
    assert holder.finish() == 0


def _blocked(process: Any, to: int, of: int) -> Any:
    with pytest.raises(OSError) as refused:
        begin_move(process, to, of).finish()
    assert refused.value.errno == EBUSY or isinstance(refused.value, Blocked)
    return getattr(refused.value, "call", None)


def test_a_dead_process_is_dead_after_an_undoing_too() -> None:
    one = host()
    process, other = one.process("qemu"), one.process("other")
    process.kill()
    with pytest.raises(TypeError):
        other.dup()  # type: ignore[call-arg]

    with pytest.raises(OSError, match="the process qemu is dead"):
        process.open("/dev/kvm")
    assert process.dead and list(one.processes) == ["other"]


def test_an_entry_that_makes_a_host_is_undone_when_there_is_no_such_host() -> None:
    one = host()
    before = state_of(one)
    with pytest.raises(ValueError, match="DRAM comes in whole pages"):
        Host(seed=2, memory=5, trace=one.trace)

    assert state_of(one) == before and one.world == (one,)
    assert host(seed=2, trace=one.trace).world[0] is one


def test_the_host_s_flash_is_put_back_as_well() -> None:
    class Flash:
        def __init__(self) -> None:
            self.data = b"\xff" * 0x8000

        def read(self) -> bytes:
            return self.data

        def write(self, data: bytes) -> None:
            self.data = bytes(data)

    flash = Flash()
    one = host(nv=flash)
    sev = one.process("qemu")
    vms(sev, 1, 1)
    kept = flash.data
    with pytest.raises(TypeError):
        sev.dup()  # type: ignore[call-arg]

    assert kept != b"\xff" * 0x8000 and flash.data == kept
    assert state_of(one.fork()) == state_of(one)
