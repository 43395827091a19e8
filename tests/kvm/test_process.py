"""Processes: system calls, descriptors, memory, fork, and what is left after kill -9."""

from __future__ import annotations

from errno import EBADF, EFAULT, EINVAL, EMFILE, ENODEV, ENOENT, ENOMEM
from typing import Any

import pytest
from bare_kernel import BareKernel, Device
from hypothesis import given
from hypothesis import strategies as st
from kvm.orders import ECHO, MAKE, Order, refused

from sevlab.kvm.mm import PAGE, Backing
from sevlab.kvm.process import Process


@pytest.fixture
def kernel() -> BareKernel:
    return BareKernel()


@pytest.fixture
def qemu(kernel: BareKernel) -> Process:
    return kernel.process()


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
