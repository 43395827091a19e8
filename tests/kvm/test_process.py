"""Processes: system calls, descriptors, memory, fork, and what is left after kill -9."""

from __future__ import annotations

from errno import EBADF, EFAULT, EINVAL, EMFILE, ENODEV, ENOENT, ENOMEM, ENOTTY, ESRCH
from typing import Annotated, Any

import pytest
from bare_kernel import BareKernel, Device
from hypothesis import given
from hypothesis import strategies as st

from sevlab.kvm.fd import KvmError, Oops, need
from sevlab.kvm.mm import PAGE, Backing
from sevlab.kvm.process import Process
from sevlab.wire import Wire, u32, u64

ECHO, MAKE, REFUSE, STORE = 1, 2, 3, 4


class Order(Wire):
    """An argument: a number in, a number out."""

    ask: u32 = 0  # 0x00
    answer: u32 = 0  # 0x04
    where: u64 = 0  # 0x08


@pytest.fixture
def kernel() -> BareKernel:
    return BareKernel()


@pytest.fixture
def qemu(kernel: BareKernel) -> Process:
    return kernel.process()


def refused(function: Any, *args: Any, **kw: Any) -> int:
    with pytest.raises(OSError) as no:
        function(*args, **kw)
    return no.value.errno or 0


# ---------------------------------------------------------------- descriptors


def test_a_process_starts_with_0_1_and_2_taken(qemu: Process) -> None:
    assert sorted(qemu.fds) == [0, 1, 2]
    assert qemu.open("/dev/test") == 3


def test_the_lowest_free_number_is_given_out(qemu: Process) -> None:
    assert [qemu.open("/dev/test") for _ in range(3)] == [3, 4, 5]
    qemu.close(4)
    qemu.close(0)

    assert [qemu.dup(3) for _ in range(3)] == [0, 4, 6]


def test_close_gives_up_the_number_and_the_last_reference_releases(qemu: Process, kernel: BareKernel) -> None:
    fd = qemu.open("/dev/test")
    twin = qemu.dup(fd)
    kernel.dev.put()
    qemu.close(fd)
    assert kernel.dev.released == 0

    qemu.close(twin)
    assert kernel.dev.released == 1


def test_dup2_replaces_what_was_there(qemu: Process) -> None:
    fd = qemu.open("/dev/test")
    old = qemu.fds[0]
    assert qemu.dup2(fd, 0) == 0

    assert qemu.fds[0] is qemu.fds[fd]
    assert old.refs == 2
    assert qemu.dup2(fd, fd) == fd
    assert qemu.dup2(fd, 100) == 100


def test_a_descriptor_travels_to_another_process_as_the_same_file(qemu: Process, kernel: BareKernel) -> None:
    other = kernel.process("other")
    fd = qemu.open("/dev/test")
    there = qemu.send_fd(fd, other)
    qemu.close(fd)

    assert other.fds[there] is kernel.dev
    assert kernel.dev.refs == 2


def test_a_descriptor_does_not_travel_to_another_host(qemu: Process) -> None:
    assert refused(qemu.send_fd, 0, BareKernel().process()) == EINVAL


@pytest.mark.parametrize("fd", [3, -1, 1 << 40])
def test_a_number_that_is_no_descriptor_is_ebadf_everywhere(qemu: Process, kernel: BareKernel, fd: int) -> None:
    other = kernel.process("other")
    for use in (
        lambda: qemu.close(fd),
        lambda: qemu.dup(fd),
        lambda: qemu.dup2(fd, 0),
        lambda: qemu.ioctl(fd, ECHO),
        lambda: qemu.begin(fd, ECHO).finish(),
        lambda: qemu.send_fd(fd, other),
    ):
        assert refused(use) == EBADF
    if fd != -1:
        assert refused(qemu.mmap, PAGE, fd=fd) == EBADF
    assert sorted(qemu.fds) == [0, 1, 2]


@pytest.mark.parametrize("number", [-1, 1024])
def test_dup2_to_a_number_that_no_descriptor_has_is_ebadf(qemu: Process, number: int) -> None:
    assert refused(qemu.dup2, 0, number) == EBADF


@pytest.mark.parametrize(("path", "mode", "code"), [("/dev/null", "r", ENOENT), ("", "r", ENOENT), ("/dev/test", "rw+", EINVAL)])
def test_what_open_refuses(qemu: Process, path: str, mode: str, code: int) -> None:
    assert refused(qemu.open, path, mode) == code


def test_with_1024_descriptors_there_is_no_more_and_nothing_leaks(qemu: Process, kernel: BareKernel) -> None:
    kernel.dev.table[MAKE] = lambda caller, arg: kernel.dev.get()
    fd = qemu.open("/dev/test")
    for _ in range(1020):
        qemu.dup(fd)

    for use in (lambda: qemu.open("/dev/test"), lambda: qemu.dup(fd), lambda: qemu.ioctl(fd, MAKE), lambda: qemu.memfd(PAGE)):
        assert refused(use) == EMFILE
    assert kernel.dev.refs == 1022


# ----------------------------------------------------------------------- ioctl


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


# ---------------------------------------------------------------------- memory


def test_memory_is_written_and_read(qemu: Process) -> None:
    hva = qemu.mmap(3 * PAGE)
    qemu.write(hva + 100, b"hello" * 1000)

    assert qemu.read(hva + 98, 7) == b"\0\0hello"
    qemu.munmap(hva, PAGE)
    assert refused(qemu.read, hva + 100, 1) == EFAULT


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda p: p.read(0, 1), EFAULT),
        (lambda p: p.read(p.mmap(PAGE), -1), EINVAL),
        (lambda p: p.write(0x7FFF_FFFF_F000, b"x"), EFAULT),
        (lambda p: p.get(0, Order), EFAULT),
        (lambda p: p.mmap(0), EINVAL),
        (lambda p: p.mmap(PAGE, fd=0), ENODEV),
        (lambda p: p.mmap(PAGE, fd=p.memfd(PAGE), offset=5), EINVAL),
        (lambda p: p.mmap(PAGE, fd=p.memfd(PAGE), offset=-PAGE), EINVAL),
        (lambda p: p.memfd(0), EINVAL),
        (lambda p: p.munmap(1, PAGE), EINVAL),
        (lambda p: p.setrlimit(memlock=-1), EINVAL),
        (lambda p: p.write(p.mmap(1 << 30), bytes(65 << 20)), ENOMEM),
    ],
)
def test_what_memory_calls_refuse(qemu: Process, call: Any, code: int) -> None:
    assert refused(call, qemu) == code


def test_put_keeps_everything_it_was_given(qemu: Process) -> None:
    orders = [Order(n, where=n) for n in range(3000)]
    places = [qemu.put(order) for order in orders]
    large = qemu.put(b"L" * 100_000)

    assert [qemu.get(place, Order) for place in places] == orders
    assert all(place % 16 == 0 for place in places)
    assert qemu.read(large, 100_000) == b"L" * 100_000


def test_two_processes_share_a_memfd_and_its_memory_outlives_the_first(qemu: Process, kernel: BareKernel) -> None:
    free = kernel.frames.free
    other = kernel.process("other")
    fd = qemu.memfd(5 * PAGE)
    here = qemu.mmap(5 * PAGE, fd=fd)
    there = other.mmap(2 * PAGE, fd=qemu.send_fd(fd, other), offset=3 * PAGE)
    qemu.write(here + 4 * PAGE, b"ours")
    qemu.kill()

    assert other.read(there + PAGE, 4) == b"ours"
    other.kill()
    assert kernel.frames.free == free


def test_a_mapping_keeps_the_file_that_it_shows(qemu: Process, kernel: BareKernel) -> None:
    made = Device(backing=Backing(kernel.frames, 1, shared=True).hold())
    kernel.dev.table[MAKE] = lambda caller, arg: made
    fd = qemu.ioctl(qemu.open("/dev/test"), MAKE)
    hva = qemu.mmap(PAGE, fd=fd)
    qemu.close(fd)
    assert made.released == 0

    qemu.munmap(hva, PAGE)
    assert made.released == 1


# ------------------------------------------------- the process and its limits


def test_fork_copies_memory_and_shares_files(qemu: Process, kernel: BareKernel) -> None:
    fd, hva = qemu.open("/dev/test"), qemu.mmap(PAGE)
    order = qemu.put(Order(ask=1))
    qemu.write(hva, b"before")
    child = qemu.fork()
    qemu.write(hva, b"after!")

    assert child.read(hva, 6) == b"before"
    assert child.get(order, Order).ask == 1
    assert child.fds[fd] is qemu.fds[fd]
    assert child.mm is not qemu.mm
    assert (child.name, child.cgroup, child.memlock) == ("qemu-1", qemu.cgroup, qemu.memlock)
    assert qemu.fork().name == "qemu-2"
    assert qemu.fork("twin").name == "twin"
    assert child.put(b"child") != qemu.put(b"parent") or child.mm is not qemu.mm


def test_a_fork_without_the_memory_for_it_makes_no_process(qemu: Process, kernel: BareKernel) -> None:
    hva = qemu.mmap(40 << 20)
    qemu.write(hva, bytes(40 << 20))
    refs = {number: file.refs for number, file in qemu.fds.items()}

    assert refused(qemu.fork) == ENOMEM
    assert list(kernel.processes) == ["qemu"]
    assert {number: file.refs for number, file in qemu.fds.items()} == refs


def test_one_name_is_one_process(qemu: Process, kernel: BareKernel) -> None:
    assert refused(kernel.process, "qemu") == EINVAL
    assert refused(qemu.fork, "qemu") == EINVAL

    qemu.kill()
    assert kernel.process("qemu").pid != qemu.pid


def test_a_process_lives_in_a_cgroup_that_exists(qemu: Process, kernel: BareKernel) -> None:
    assert qemu.cgroup.path == "/"
    assert kernel.process("other", cgroup="/a/b").cgroup.path == "/a/b"
    assert refused(kernel.process, "third", cgroup="/none") == ENOENT
    assert "third" not in kernel.processes

    qemu.cgroup = "/a"  # type: ignore[assignment]
    assert qemu.cgroup is kernel.root_cgroup.find("/a")
    with pytest.raises(OSError):
        qemu.cgroup = "/none"  # type: ignore[assignment]
    assert str(qemu.cgroup) == "/a"


def test_limits_and_capabilities_are_what_handlers_see(qemu: Process, kernel: BareKernel) -> None:
    seen: list[Any] = []
    kernel.dev.table[ECHO] = lambda caller, arg: seen.extend([caller.memlock, caller.caps, caller.cgroup.path, caller.pid]) or 0
    other = kernel.process("other", memlock=5, caps={"CAP_IPC_LOCK"}, cgroup="/a")
    other.setrlimit(memlock=1 << 20)
    other.ioctl(other.open("/dev/test"), ECHO)

    assert seen == [1 << 20, frozenset({"CAP_IPC_LOCK"}), "/a", other.pid]
    assert qemu.memlock == 64 << 20


def test_a_caller_shows_descriptors_pins_and_raw_frames(qemu: Process, kernel: BareKernel) -> None:
    hva = qemu.mmap(2 * PAGE)
    qemu.write(hva, b"raw")

    def look(caller: Any, arg: int) -> int:
        assert caller.fget(fd) is kernel.dev
        assert caller.fget(77) is None
        with caller.pin(arg, 10, False) as pin:
            assert bytes(caller.buffer(pin.runs[0], False)[:3]) == b"raw"
            caller.buffer(pin.runs[0], True)[:3] = b"RAW"
        return 0

    kernel.dev.table[ECHO] = look
    fd = qemu.open("/dev/test")
    qemu.ioctl(fd, ECHO, hva)

    assert qemu.read(hva, 3) == b"RAW"


# ------------------------------------------------------------------- kill -9


def test_kill_gives_everything_back_memory_before_descriptors(kernel: BareKernel) -> None:
    free, order = kernel.frames.free, []
    qemu = kernel.process()
    made = Device(backing=Backing(kernel.frames, 1, shared=True))
    made.release = lambda: order.append("file")  # type: ignore[method-assign]
    kernel.dev.table[MAKE] = lambda caller, arg: made
    fd = qemu.ioctl(qemu.open("/dev/test"), MAKE)
    qemu.mmap(PAGE, fd=fd)
    qemu.put(b"x" * 5000)
    qemu.mm.notifiers.append(lambda va, n: order.append("memory"))

    qemu.kill()

    assert order[-1] == "file"
    assert "memory" in order
    assert (kernel.frames.free, kernel.processes, qemu.fds) == (free, {}, {})


def test_after_death_every_call_is_esrch(qemu: Process, kernel: BareKernel) -> None:
    fd = qemu.open("/dev/test")
    qemu.kill()
    for use in (
        lambda: qemu.ioctl(fd, ECHO),
        lambda: qemu.ioctl(fd, ECHO, Order()),
        lambda: qemu.begin(fd, ECHO),
        lambda: qemu.open("/dev/test"),
        lambda: qemu.mmap(PAGE),
        lambda: qemu.fork(),
        lambda: qemu.kill(),
        lambda: qemu.close(0),
    ):
        assert refused(use) == ESRCH
    assert refused(kernel.process("other").send_fd, 0, qemu) == EINVAL


def test_a_process_shows_itself(qemu: Process) -> None:
    assert repr(qemu) == "<Process 1: qemu, 3 descriptors, cgroup />"
    qemu.kill()
    assert repr(qemu) == "<Process 1: qemu, dead, 0 descriptors, cgroup />"


def test_every_system_call_is_an_entry_with_a_name_and_a_row(kernel: BareKernel) -> None:
    qemu = kernel.process()
    before = kernel.gate.n
    hva = qemu.mmap(PAGE)
    qemu.write(hva, b"abc")
    refused(qemu.close, 99)
    qemu.cgroup = "/a"  # type: ignore[assignment]

    rows = [(row["n"] - before, row["what"], row["errno"]) for row in kernel.trace.rows() if row["kind"] == "Syscall"]
    assert rows == [(1, "mmap", 0), (2, "write", 0), (3, "close", EBADF), (4, "join", 0)]


# ------------------------------------------------------------------------ laws

CALLS = ["open", "close", "dup", "dup2", "send", "make", "memfd", "map", "unmap", "fork", "kill", "write", "pin", "move"]
ACTIONS = st.tuples(
    st.sampled_from(CALLS),
    st.integers(0, 5),
    st.integers(0, 9),
)


@given(st.lists(ACTIONS, max_size=40))
def test_law_descriptors_references_and_frames_balance_after_any_script(script: list[tuple[str, int, int]]) -> None:
    kernel = BareKernel()
    free = kernel.frames.free
    made: list[Device] = []

    def make(caller: Any, arg: int) -> Device:
        made.append(Device(backing=Backing(kernel.frames, 2, shared=True)))
        return made[-1]

    kernel.dev.table[MAKE] = make
    people = [kernel.process("p0"), kernel.process("p1")]
    maps: list[int] = []
    pins = []
    for what, who, number in script:
        process, peer = people[who % len(people)], people[number % len(people)]
        try:
            match what:
                case "open":
                    process.open("/dev/test")
                case "close":
                    process.close(number)
                case "dup":
                    process.dup(number)
                case "dup2":
                    process.dup2(number, who)
                case "send":
                    process.send_fd(number, peer)
                case "make":
                    process.ioctl(number, MAKE)
                case "memfd":
                    process.memfd(3 * PAGE)
                case "map":
                    maps.append(process.mmap(2 * PAGE, fd=number if number > 2 else -1))
                case "unmap":
                    process.munmap(maps[number % len(maps)], PAGE) if maps else None
                case "write":
                    process.write(maps[number % len(maps)] + PAGE // 2, b"x" * PAGE) if maps else None
                case "pin":
                    pins.append(process.mm.pin(maps[number % len(maps)], PAGE + 1)) if maps else None
                case "move":
                    process.mm.move(maps[number % len(maps)]) if maps else None
                case "fork":
                    people.append(process.fork())
                case "kill":
                    process.kill()
        except OSError as no:
            assert no.errno is not None

    for process in people:
        if not process.dead:
            process.kill()
    for pin in pins:
        pin.release()
    assert kernel.dev.refs == 1
    assert [file.released for file in made] == [1] * len(made)
    assert kernel.frames.free == free
    assert kernel.frames.pages.pinned() == 0
    assert kernel.processes == {}


@given(st.integers(0, 30))
def test_law_a_kill_at_any_point_of_a_story_gives_everything_back(point: int) -> None:
    kernel = BareKernel()
    free = kernel.frames.free
    kernel.dev.table[MAKE] = lambda caller, arg: Device(backing=Backing(kernel.frames, 2, shared=True))
    kernel.dev.table[ECHO] = lambda caller, arg: arg
    qemu, other = kernel.process("qemu"), kernel.process("other")
    state: dict[str, int] = {}
    story = [
        lambda: state.update(dev=qemu.open("/dev/test")),
        lambda: state.update(vm=qemu.ioctl(state["dev"], MAKE)),
        lambda: state.update(run=qemu.mmap(2 * PAGE, fd=state["vm"])),
        lambda: qemu.write(state["run"], b"x" * 5000),
        lambda: state.update(memory=qemu.mmap(8 << 20)),
        lambda: qemu.write(state["memory"] + 12345, b"y" * 100_000),
        lambda: state.update(there=qemu.send_fd(state["vm"], other)),
        lambda: qemu.ioctl(state["dev"], ECHO, Order()),
        lambda: qemu.begin(state["dev"], ECHO, Order()).step(),
        lambda: qemu.begin(state["dev"], ECHO, Order()),
        lambda: qemu.munmap(state["memory"], 4 << 20),
        lambda: qemu.fork("child"),
    ]
    for step in story[: point % (len(story) + 1)]:
        step()
    qemu.kill()

    for process in list(kernel.processes.values()):
        process.kill()
    assert kernel.frames.free == free
    assert kernel.dev.refs == 1
    assert kernel.calls.begun == {}
