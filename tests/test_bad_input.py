"""What can be nothing of the kind: one sentence at the border, and the machine as it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from errno import EINVAL, EMFILE
from typing import Any

import pytest

from sevlab import Host, Trace, explore, guest, owner, vmm
from sevlab.abi.sev import NV_LEN
from sevlab.hw.cpu import GuestError
from sevlab.hw.isa import hlt, program, store


class Short:
    """A flash that reads too little."""

    def read(self) -> bytes:
        return b"x"

    def write(self, data: bytes) -> None:
        raise AssertionError("nothing was to be written")


@pytest.fixture(scope="module")
def bench() -> Any:
    """A host with a process that has two pages, and a guest that was launched; only looked at, and refused."""
    host = Host(seed=1, memory=256 << 20)
    process = host.process("p")
    hva = process.mmap(0x2000)
    vm = vmm.launch(host, program=guest.counter, shared=True)
    return host, process, hva, vm


SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"seed": "7"}, TypeError, "seed is a number or bytes, not str"),
    ({"seed": 1.5}, TypeError, "seed is a number or bytes, not 1.5"),
    ({"seed": -1}, ValueError, "a seed is not negative, this one is -1"),
    ({"nv": 3}, TypeError, f"nv is {NV_LEN} bytes, or has read() and write(bytes), not 3"),
    ({"nv": "flash.bin"}, TypeError, f"nv is {NV_LEN} bytes, or has read() and write(bytes), not 'flash.bin'"),
    ({"nv": Short()}, ValueError, f"the persistent area has {NV_LEN} bytes, this one 1"),
    ({"api": None}, TypeError, "api is the firmware's version in three numbers, such as (0, 24, 15), not None"),
    ({"api": "0.24.15"}, TypeError, "api is the firmware's version in three numbers, such as (0, 24, 15), not '0.24.15'"),
    ({"api": (0, "24", 15)}, TypeError, "a part of the firmware's version is a number, not '24'"),
    ({"api": (0, 24)}, ValueError, "a firmware version is three numbers from 0 to 255, not (0, 24)"),
    ({"memory": "1G"}, TypeError, "memory is a number, not '1G'"),
    ({"memory": -4096}, ValueError, "DRAM comes in whole pages of 4096 bytes, not in -4096"),
    ({"chip": 3}, TypeError, "chip is a text or a Chip, not 3"),
    ({"design": 3}, TypeError, "design is a text or a Design, not 3"),
    ({"trace": 3}, TypeError, "trace is a Trace, not 3"),
    ({"caches": "yes"}, TypeError, "caches is True or False, not 'yes'"),
    ({"cgroups": 3}, TypeError, "cgroups is a dictionary such as {'/tenant-a': {'sev': 3}}, not 3"),
    ({"cgroups": {"/a": 3}}, TypeError, "cgroups is a dictionary such as {'/tenant-a': {'sev': 3}}, not 3"),
    ({"cgroups": {"/a": {"cpu": 3}}}, ValueError, "cgroup /a limits 'cpu'; a limit is of sev or sev_es"),
    ({"cgroups": {"/a": {"sev": "3"}}}, TypeError, "the limit of sev for /a is a number, not '3'"),
    ({"cgroups": {"/a": {"sev": -3}}}, ValueError, "the limit of sev for /a is at least 0, not -3"),
]


@pytest.mark.parametrize(("settings", "error", "sentence"), SETTINGS, ids=[row[2] for row in SETTINGS])
def test_what_is_no_setting_of_a_machine_is_told_so(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as told:
        Host(**{"seed": 1, "memory": 64 << 20, **settings})
    assert str(told.value) == sentence


Do = Callable[[Host, Any, int, Any], Any]

CALLS: list[tuple[Do, type[Exception], str]] = [
    # what is done with (host, process, hva, vm), the error, and what it says
    (lambda h, p, at, vm: h.process(3), TypeError, "name is a text, not 3"),
    (lambda h, p, at, vm: h.process(""), ValueError, "a process has a name: it is how host.processes finds it"),
    (lambda h, p, at, vm: h.process("q", memlock=-1), ValueError, "memlock is at least 0, not -1"),
    (lambda h, p, at, vm: h.process("q", memlock="64M"), TypeError, "memlock is a number, not '64M'"),
    (lambda h, p, at, vm: h.process("q", caps={"CAP_NONE"}),
     ValueError, "no capability 'CAP_NONE'; there are CAP_IPC_LOCK, CAP_SYS_ADMIN"),
    (lambda h, p, at, vm: h.process("q", caps="CAP_IPC_LOCK"),
     TypeError, "caps is a set of names, such as {'CAP_IPC_LOCK'}, not 'CAP_IPC_LOCK'"),
    (lambda h, p, at, vm: h.process("q", cgroup=3), TypeError, "cgroup is a text, not 3"),
    (lambda h, p, at, vm: h.mailbox(-1), ValueError, "command is a number from 0 to 0xffffffff, not -1"),
    (lambda h, p, at, vm: h.mailbox("x"), TypeError, "command is a number, not 'x'"),
    (lambda h, p, at, vm: h.mailbox(1, b"buffer"), TypeError, "buffer is a Wire, not b'buffer'"),
    (lambda h, p, at, vm: h.npt(3), TypeError, "vm is a VM, such as vmm.launch returns, not 3"),
    (lambda h, p, at, vm: h.npt(vm).translate("x"), TypeError, "gpa is a number, not 'x'"),
    (lambda h, p, at, vm: h.compact(3, 3), TypeError, "process is a Process, not 3"),
    (lambda h, p, at, vm: h.compact(p, at, to="x"), TypeError, "to is a number, not 'x'"),
    (lambda h, p, at, vm: h.swap_out(p, None), TypeError, "hva is a number, not None"),
    (lambda h, p, at, vm: h.balance(None, at), TypeError, "process is a Process, not None"),
    (lambda h, p, at, vm: h.hpa(p, "x"), TypeError, "hva is a number, not 'x'"),
    (lambda h, p, at, vm: h.same_pages(vm, 0, 1), TypeError, "process is a Process, not <Vm: SEV"),
    (lambda h, p, at, vm: h.probe("x"), TypeError, "hpa is a number, not 'x'"),
    (lambda h, p, at, vm: h.dram.write(0, "x"), TypeError, "data is bytes, not str"),
    (lambda h, p, at, vm: h.dram.write(0, 3), TypeError, "data is bytes, not 3"),
    (lambda h, p, at, vm: h.at("x"), TypeError, "n is a number, not 'x'"),
    (lambda h, p, at, vm: h.fork("x"), TypeError, "n is a number, not 'x'"),
    (lambda h, p, at, vm: h.save(3), TypeError, "a journal's file is a path, or a file open for bytes, not 3"),
    (lambda h, p, at, vm: h.save(io.StringIO()), TypeError, "a journal's file is a path, or a file open for bytes, not <_io"),
    (lambda h, p, at, vm: Host.load(3), TypeError, "a journal's file is a path, or a file open for bytes, not 3"),
    (lambda h, p, at, vm: h.register(h.seed, page="x"), TypeError, "page is bytes, not str"),
    (lambda h, p, at, vm: h.xray.guest("x"), TypeError, "handle is a number, not 'x'"),
    (lambda h, p, at, vm: p.open(3), TypeError, "path is a text, not 3"),
    (lambda h, p, at, vm: p.read("x", 3), TypeError, "hva is a number, not 'x'"),
    (lambda h, p, at, vm: p.write(at, "x"), TypeError, "data is bytes, not str"),
    (lambda h, p, at, vm: p.put(3), TypeError, "value is a Wire or bytes, not 3"),
    (lambda h, p, at, vm: p.get(at, int), TypeError, "kind is a class of Wire, not <class 'int'>"),
    (lambda h, p, at, vm: p.mmap("x"), TypeError, "length is a number, not 'x'"),
    (lambda h, p, at, vm: p.ioctl("x", 3), TypeError, "fd is a number, not 'x'"),
    (lambda h, p, at, vm: p.ioctl(0, None), TypeError, "nr is a number, not None"),
    (lambda h, p, at, vm: p.ioctl(0, 3, "x"), TypeError, "the argument of an ioctl is a number or a Wire, not 'x'"),
    (lambda h, p, at, vm: p.begin(0, "x"), TypeError, "nr is a number, not 'x'"),
    (lambda h, p, at, vm: p.setrlimit(memlock="x"), TypeError, "memlock is a number, not 'x'"),
    (lambda h, p, at, vm: setattr(p, "cgroup", 3), TypeError, "path is a text, not 3"),
    (lambda h, p, at, vm: p.send_fd(0, None), TypeError, "to is a Process, not None"),
    (lambda h, p, at, vm: vmm.mirror(3), TypeError, "vm is a Vm, not 3"),
    (lambda h, p, at, vm: vmm.mirror(vm, vcpus=-1), ValueError, "vcpus is at least 0, not -1"),
    (lambda h, p, at, vm: vmm.mirror(vm, vcpus=0, start=0), ValueError, "vcpus is at least 1, not 0"),
    (lambda h, p, at, vm: vmm.mirror(vm, start=5), ValueError, "start is the address of a page, a multiple of 0x1000, not 0x5"),
    (lambda h, p, at, vm: vmm.mirror(vm, 3), TypeError, "process is a Process, not 3"),
    (lambda h, p, at, vm: vmm.move(vm, None), TypeError, "to is a Process, not None"),
    (lambda h, p, at, vm: vm.read(None, 3), TypeError, "gpa is a number, not None"),
    (lambda h, p, at, vm: vm.write(0, 3), TypeError, "data is bytes, not 3"),
    (lambda h, p, at, vm: vm.run(rounds="x"), TypeError, "rounds is a number, not 'x'"),
    (lambda h, p, at, vm: vmm.launch(h, program=guest.counter, args=3),
     TypeError, "args is a tuple of the program's arguments, not 3"),
    (lambda h, p, at, vm: vmm.launch(h, program=guest.counter, name=3), TypeError, "name is a text, not 3"),
    (lambda h, p, at, vm: vmm.launch(h, program=guest.counter, memory=-5), ValueError, "memory is at least 0, not -5"),
    (lambda h, p, at, vm: vmm.launch(h, program=guest.counter, es="yes"), TypeError, "es is True or False, not 'yes'"),
    (lambda h, p, at, vm: explore(3, 4), TypeError, "call 1 is a Call, as process.begin makes them, not 3"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("do", "sentence"),
    [
        (lambda: Trace(ring="many"), "ring is a number, not 'many'"),
        (lambda: Trace().rows("HostMade"), "a kind of row is a class of Event, such as sevlab.host.HostMade, not 'HostMade'"),
        (lambda: Trace().packed(3), "a kind of row is a class of Event, such as sevlab.host.HostMade, not 3"),
        (lambda: Trace().watch(3), "a watcher is a function of the new rows, not 3"),
        (lambda: vmm.loop.together(3), "vm is a VM, such as vmm.launch returns, not 3"),
        (lambda: owner.verify_chain(owner.Chain(ark=3)), "the ARK certificate is bytes, not int"),
        (lambda: owner.verify_chain({}, trace=3), "trace is a Trace, such as host.trace, not 3"),
        (lambda: owner.new_session(b"", 1, trace=3), "trace is a Trace, such as host.trace, not 3"),
        (lambda: owner.expected_digest(b"", pages=3), "pages are a list of bytes, one after the other, not int"),
        (lambda: check(others=3), "others is a dictionary of words to digests, not 3"),
        (lambda: check(trace=3), "trace is a Trace, such as host.trace, not 3"),
        (lambda: owner.wrap_secret(b"", b"", b"", b"", trace=3), "trace is a Trace, such as host.trace, not 3"),
        (lambda: owner.secret_entries(3), "a secret table is bytes, not int"),
    ],
)
def test_the_owner_and_the_trace_say_what_they_were_handed(do: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(TypeError) as told:
        do()
    assert str(told.value) == sentence


def check(**kw: Any) -> Any:
    """A measurement, judged with these words beside it."""
    return owner.check_measurement(bytes(48), digest=bytes(32), tik=bytes(16), policy=1, **kw)


@pytest.mark.parametrize(("do", "error", "sentence"), CALLS, ids=[str(number) for number in range(len(CALLS))])
def test_what_is_no_argument_is_told_so_and_nothing_has_happened(bench: Any, do: Do, error: type[Exception], sentence: str) -> None:
    host, process, _, _ = bench
    before = host.n, set(host.processes), sorted(process.fds), len(host.trace.rows())

    with pytest.raises(error) as told:
        do(*bench)

    assert str(told.value).startswith(sentence) and "\n" not in str(told.value)
    assert (host.n, set(host.processes), sorted(process.fds), len(host.trace.rows())) == before


def test_a_process_of_another_machine_is_refused_and_so_is_one_of_the_present_in_the_past(bench: Any) -> None:
    host, process, hva, _ = bench
    other = Host(seed=2, memory=64 << 20)

    for use in (other.compact, other.swap_out, other.balance, other.hpa, host.at(host.n).hpa):
        with pytest.raises(ValueError, match=r"process p is another machine's; this one's own are in host\.processes"):
            use(process, hva)


def test_a_guest_moves_on_its_own_machine_only_and_stays_where_it_is(bench: Any) -> None:
    _, process, _, vm = bench
    other = Host(seed=2, memory=64 << 20).process("b")
    before = process.fds

    with pytest.raises(OSError) as told:
        vmm.move(vm, other)

    assert (told.value.errno, process.fds, len(other.fds)) == (EINVAL, before, 3)


def test_more_vcpus_than_descriptors_are_refused_by_the_limit_s_name_and_nothing_is_left() -> None:
    host = Host(seed=1, memory=256 << 20)

    with pytest.raises(OSError, match="vmm has all 1024 descriptors of its RLIMIT_NOFILE in use") as told:
        vmm.launch(host, program=guest.counter, vcpus=1024)

    assert told.value.errno == EMFILE and not host.processes


# ------------------------------------------------------------- a guest's own mistake


@program
async def mistaken() -> None:
    await store(0x1000, b"before", c=False)
    raise LookupError("no such page")


@program
async def waits() -> None:
    while True:
        await hlt()


def test_a_guest_s_own_mistake_names_program_line_and_error_and_no_run_is_left() -> None:
    host = Host(seed=1, memory=256 << 20)
    vm = vmm.launch(host, program=mistaken)
    vm.finish()

    for _ in range(2):  # it stands before its mistake, and meets it again
        with pytest.raises(GuestError) as told:
            vm.run()
        assert str(told.value).startswith("the guest program mistaken made a mistake at `raise LookupError(")
        assert str(told.value).endswith(": LookupError: no such page")
        assert isinstance(told.value.__cause__, LookupError)
        assert not host.kernel.calls.begun and vm.vcpus[0].call is None

    twin = host.fork()
    assert [row["what"] for row in twin.journal.rows()] == [row["what"] for row in host.journal.rows()]


def test_another_guest_goes_on_after_one_made_a_mistake() -> None:
    host = Host(seed=1, memory=512 << 20)
    wrong, right = vmm.launch(host, program=mistaken), vmm.launch(host, program=waits)
    wrong.finish(), right.finish()

    with pytest.raises(GuestError):
        vmm.loop.together(right, wrong)

    assert right.run().name == "HLT"


# ------------------------------------------------------------- after close


def test_a_closed_host_can_be_looked_at_and_not_used() -> None:
    host = Host(seed=1, memory=64 << 20)
    host.process("p")
    before = host.n
    host.close()
    rows = len(host.trace.rows())

    for use in (lambda: host.process("q"), lambda: host.mailbox(1), lambda: host.dram.write(0, b"x"), host.wbinvd):
        with pytest.raises(RuntimeError, match=rf"its processes are gone; host\.fork\({before}\) goes on from before"):
            use()

    assert (len(host.trace.rows()), host.probe(0, 4)) == (rows, bytes(4))
    assert list(host.fork(before).processes) == ["p"]


def test_closing_twice_is_closing_once() -> None:
    host = Host(seed=1, memory=64 << 20)
    host.process("p")
    host.close()
    n = host.n
    host.close()

    assert host.n == n


def test_closing_a_vm_twice_does_not_close_what_has_its_numbers_by_now() -> None:
    host = Host(seed=1, memory=512 << 20)
    first = vmm.launch(host, program=waits)
    first.close()
    second = vmm.launch(host, program=waits, process=first.process)
    assert second.fd == first.fd
    first.close()
    second.finish()

    assert second.run().name == "HLT"
