"""The whole machine: how it is made, what it lets an observer see, and what it lets anybody do."""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL, ENOENT
from typing import Any

import pytest
from rigs_of_time import host, state_of, vms

from sevlab import Host, designs, guest, vmm
from sevlab.abi.sev import Cmd, Status
from sevlab.abi.sev_buffers import PlatformStatus
from sevlab.host import HostMade, Probed, XrayTaken


def test_the_same_seed_is_the_same_machine_and_another_is_another() -> None:
    assert state_of(host(seed=5)) == state_of(host(seed=5))
    assert host(seed=5).chain()["pek"] != host(seed=6).chain()["pek"]


def test_a_seed_may_be_bytes_and_is_shown_in_hex() -> None:
    one = host(seed=b"\xab\xcd")

    assert repr(one) == "<Host: rome, linux-6.1, seed abcd>"
    assert one.trace.rows(HostMade)[0]["seed"] == "abcd"


def test_without_a_seed_one_is_chosen_and_repeats_the_machine() -> None:
    one = host(seed=None)

    assert state_of(host(seed=one.seed)) == state_of(one)


def test_a_design_may_be_named() -> None:
    assert Host(design="linux-6.12", seed=1, memory=1 << 26).design is designs.LINUX_6_12  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"chip": "z80"}, "z80"),
        ({"design": "linux-9"}, "no design 'linux-9'"),
        ({"memory": 5}, "whole pages"),
        ({"memory": 0}, "whole pages"),
        ({"nv": b"short"}, "the persistent area has 32768 bytes"),
    ],
)
def test_what_no_machine_can_be_is_refused_in_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as told:
        host(**settings)
    assert "\n" not in str(told.value)


def test_a_process_of_an_unknown_cgroup_or_a_used_name_is_refused() -> None:
    one = host()
    one.process("qemu")

    for name, cgroup, code in (("other", "/none", ENOENT), ("qemu", "/", EINVAL)):
        with pytest.raises(OSError) as refused:
            one.process(name, cgroup=cgroup)
        assert refused.value.errno == code


# ------------------------------------------------------------------ looks


def test_a_probe_is_a_row_and_no_entry() -> None:
    one = host()

    assert one.probe(0x1000, 4) == one.dram.read(0x1000, 4)
    assert [(row["n"], row["hpa"], row["length"]) for row in one.trace.rows(Probed)] == [(1, 0x1000, 4)]
    assert one.n == 1


@pytest.mark.parametrize(("hpa", "n"), [(-1, 4), (1 << 40, 1), (0, -1)])
def test_a_probe_outside_of_memory_is_refused(hpa: int, n: int) -> None:
    one = host()
    for look in (one.dram.read, one.dram.view, one.probe):
        with pytest.raises(ValueError, match="not inside"):
            look(hpa, n)


def test_what_the_memory_shows_cannot_be_written_through() -> None:
    with pytest.raises(TypeError):
        host().dram.view(0, 16)[0] = 1


def test_every_look_through_the_x_ray_is_a_row_and_is_kept() -> None:
    one = host()
    vm = vmm.launch(one, program=guest.hello)
    one.xray.guest(vm.handle)
    one.xray.digest(vm.handle)
    one.xray.read(one.psp.guests[vm.handle].asid, 0, 16)
    one.xray.tweak(0)
    assert one.xray.keys().pdh.d

    whats = [row["what"] for row in one.trace.rows(XrayTaken)]
    assert [what.split()[0] for what in whats] == ["guest", "digest", "read", "tweak", "the"]
    assert [look.what for look in one.journal.looks] == whats


def test_a_look_at_what_is_not_there_is_a_row_too() -> None:
    one = host()
    with pytest.raises(KeyError):
        one.xray.guest(99)

    assert one.trace.rows(XrayTaken)[0]["what"] == "guest 99"


def test_an_untouched_pointer_has_no_address_in_the_machine() -> None:
    one = host()
    process = one.process("qemu")
    hva = process.mmap(8192)
    for at in (hva, hva - 0x100000):
        with pytest.raises(OSError) as refused:
            one.hpa(process, at)
        assert refused.value.errno == EFAULT


# ------------------------------------------------------------------ acts


def test_a_write_to_the_bus_is_an_entry_and_no_byte_of_it_is_lost() -> None:
    one = host()
    data = bytearray(range(16))
    one.dram.write(0x5000, data)
    data[0] = 99

    assert one.n == 2 and one.fork().dram.read(0x5000, 16) == bytes(range(16))


def test_a_write_outside_of_memory_is_refused_and_has_never_been() -> None:
    one = host()
    with pytest.raises(ValueError, match="not inside"):
        one.dram.write(one.dram.size - 1, b"ab")

    assert one.n == 1 and len(one.dram) == one.dram.size


def test_a_hostile_kernel_s_command_goes_to_the_firmware_and_its_buffer_comes_back() -> None:
    one, status = host(), PlatformStatus()

    assert one.mailbox(Cmd.PLATFORM_STATUS, status) == Status.SUCCESS
    assert (status.api_major, status.api_minor) == (0, 24)
    assert one.mailbox(0x7777) == Status.INVALID_COMMAND
    assert state_of(one.fork()) == state_of(one)


def test_compaction_moves_what_may_move_and_leaves_what_is_pinned() -> None:
    one = host()
    process = one.process("qemu")
    hva = process.mmap(4 << 12)
    for page in (0, 1, 3):
        process.write(hva + (page << 12), bytes([page + 1]) * 4096)
    pin = process.mm.pin(hva + 4096, 1)
    before = [one.hpa(process, hva + (page << 12)) for page in (0, 1, 3)]
    moved = one.compact(process, hva, 4 << 12)

    assert [(va - hva) >> 12 for va, _, _ in moved] == [0, 3]
    assert [old for _, old, _ in moved] == [before[0], before[2]]
    assert one.hpa(process, hva + 4096) == before[1]
    assert process.read(hva, 4 << 12) == b"".join(bytes([page]) * 4096 for page in (1, 2, 0, 4))
    pin.release()


def test_compaction_to_a_frame_in_use_or_of_nothing_is_refused() -> None:
    one = host()
    process = one.process("qemu")
    hva = process.mmap(8192)
    process.write(hva, b"x" * 8192)

    for at, to, code in ((hva, one.hpa(process, hva + 4096), EBUSY), (0x1000, None, EFAULT)):
        with pytest.raises(OSError) as refused:
            one.compact(process, at, to=to)
        assert refused.value.errno == code


def test_a_nested_table_is_read_by_anybody_and_changed_by_an_entry() -> None:
    one = host()
    vm = vmm.launch(one, program=guest.hello)
    vm.finish()
    vm.run()
    table, n = one.npt(vm), one.n
    gpa = next(iter(table.table)) << 12
    hpa = table.translate(gpa)
    assert one.n == n and table.translate(gpa + 5) == hpa + 5
    table.remap(gpa, hpa + 0x3000)

    assert one.n == n + 1 and table.translate(gpa) == hpa + 0x3000
    twin = one.fork()
    assert twin.kernel.vm_of(twin.processes[vm.process.name], vm.fd).npt.table == table.table
    table.drop(gpa >> 12)
    assert gpa >> 12 not in table.table and len(table) == len(table.table)


def test_a_nested_table_refuses_what_is_no_page_and_what_no_slot_covers() -> None:
    one = host()
    vm = vmm.launch(one, program=guest.hello)
    n = one.n
    with pytest.raises(ValueError, match="a mapping is a page to a page"):
        one.npt(vm).remap(0x10, 0x1000)
    with pytest.raises(OSError, match="no memory slot is at gpa"):
        one.npt(vm).translate(1 << 40)

    assert one.n == n


def test_an_action_that_is_none_is_refused() -> None:
    with pytest.raises(LookupError, match="fly is no action of a host; there are host, process, "):
        host().act("fly")


def test_closing_gives_everything_back() -> None:
    one = host()
    vms(one.process("qemu"), 2, 1)
    with one:
        pass

    assert not one.processes and not one.psp.guests
    one.close()
