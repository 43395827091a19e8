"""An ioctl, from the descriptor to the row of the trace."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOTTY, ESRCH
from typing import Annotated, Any

import pytest
from bare_kernel import BareKernel, Device
from kvm.orders import ECHO, MAKE, REFUSE, STORE, Order, refused

from sevlab.kvm.fd import KvmError, Oops, need
from sevlab.kvm.mm import PAGE
from sevlab.kvm.process import Process
from sevlab.wire import Wire


@pytest.fixture
def kernel() -> BareKernel:
    return BareKernel()


@pytest.fixture
def qemu(kernel: BareKernel) -> Process:
    return kernel.process()


def test_an_ioctl_hands_the_number_and_the_argument_to_the_file(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[ECHO] = lambda caller, arg: arg + 1

    assert qemu.ioctl(qemu.open("/dev/test"), ECHO, 41) == 42


def test_a_new_file_gets_a_number(qemu: Process, kernel: BareKernel) -> None:
    made = Device()
    kernel.dev.table[MAKE] = lambda caller, arg: made
    number = qemu.ioctl(qemu.open("/dev/test"), MAKE)

    assert qemu.fds[number] is made
    assert made.refs == 1


def test_true_and_other_kinds_of_number_are_numbers(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[ECHO] = lambda caller, arg: arg == 1

    assert qemu.ioctl(qemu.open("/dev/test"), ECHO, True) == 1  # type: ignore[arg-type]


def test_a_structure_is_passed_by_its_address_and_read_back_in_place(qemu: Process, kernel: BareKernel) -> None:
    def echo(caller: Any, arg: int) -> int:
        order = Order.unpack(caller.read(arg, Order.SIZE))
        caller.write(arg, order.replace(answer=order.ask * 2, where=arg).pack())
        return 0

    kernel.dev.table[ECHO] = echo
    fd, order = qemu.open("/dev/test"), Order(ask=21)
    qemu.ioctl(fd, ECHO, order)

    assert order.answer == 42
    assert qemu.get(order.where, Order).ask == 21
    again = Order(ask=1)
    qemu.ioctl(fd, ECHO, again)
    assert again.where == order.where


def test_also_a_refused_ioctl_reads_its_structure_back(qemu: Process, kernel: BareKernel) -> None:
    def refuse(caller: Any, arg: int) -> int:
        caller.write(arg + 4, (5).to_bytes(4, "little"))
        need(False, EINVAL, fw=2)  # the firmware refused

    kernel.dev.table[REFUSE] = refuse  # type: ignore[assignment]
    order = Order()
    with pytest.raises(KvmError) as no:
        qemu.ioctl(qemu.open("/dev/test"), REFUSE, order)

    assert (order.answer, no.value.fw) == (5, 2)
    assert no.value.why.endswith("# the firmware refused")


def test_an_argument_that_fits_no_slot_or_is_none_is_a_mistake_of_the_caller(qemu: Process) -> None:
    class Large(Wire):
        """More than a page."""

        data: Annotated[bytes, PAGE + 1]  # 0x00

    fd = qemu.open("/dev/test")
    with pytest.raises(TypeError, match="number or a Wire"):
        qemu.ioctl(fd, ECHO, "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 4096"):
        qemu.ioctl(fd, ECHO, Large())
    with pytest.raises(ValueError, match="does not fit"):
        qemu.ioctl(fd, ECHO, Order(ask=1 << 40))
    assert sorted(qemu.fds) == [0, 1, 2, fd]


def test_pointers_of_one_process_mean_nothing_in_another(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[STORE] = lambda caller, arg: caller.write(arg, b"x") or 0
    other = kernel.process("other")
    hva = qemu.mmap(PAGE)

    assert qemu.ioctl(qemu.open("/dev/test"), STORE, hva) == 0
    assert refused(other.ioctl, other.open("/dev/test"), STORE, hva) == EFAULT


def test_an_ioctl_that_the_file_does_not_know(qemu: Process) -> None:
    assert refused(qemu.ioctl, qemu.open("/dev/test"), 99) == ENOTTY
    assert refused(qemu.ioctl, 0, ECHO) == ENOTTY


def test_every_ioctl_is_a_row_of_the_trace(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[ECHO] = lambda caller, arg: arg
    fd = qemu.open("/dev/test")
    qemu.ioctl(fd, ECHO, 7)
    refused(qemu.ioctl, fd, 0xC008AEBA, -1)

    rows = [(row["nr"], row["arg"], row["result"], row["errno"]) for row in kernel.trace.rows() if row["kind"] == "Ioctl"]
    assert rows == [(ECHO, 7, 7, 0), (0xC008AEBA, (1 << 64) - 1, 0, ENOTTY)]


def test_an_oops_takes_the_process_with_it_and_leaves_a_line_in_the_log(qemu: Process, kernel: BareKernel) -> None:
    def fall(caller: Any, arg: int) -> int:
        raise Oops(ESRCH, why="kernel NULL pointer dereference in fput")

    kernel.dev.table[ECHO] = fall
    with pytest.raises(OSError):
        qemu.ioctl(qemu.open("/dev/test"), ECHO)

    assert kernel.dmesg == ["BUG: kernel NULL pointer dereference in fput"]
    assert kernel.processes == {}
    assert kernel.dev.refs == 1
    assert refused(qemu.open, "/dev/test") == ESRCH


def test_an_oops_in_a_call_that_another_process_drives_takes_its_own_process(qemu: Process, kernel: BareKernel) -> None:
    def fall(caller: Any, arg: int) -> int:
        raise Oops(ESRCH, why="BUG")

    kernel.dev.table[ECHO] = fall
    victim = kernel.process("victim")
    call = victim.begin(victim.open("/dev/test"), ECHO)
    call.step()

    assert list(kernel.processes) == ["qemu"]
    assert call.state == "done"


def test_a_handler_that_makes_an_entry_is_told_so(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[ECHO] = lambda caller, arg: qemu.dup(0)

    with pytest.raises(RuntimeError, match="from inside"):
        qemu.ioctl(qemu.open("/dev/test"), ECHO)
