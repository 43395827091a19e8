"""Guests that receive a secret: the measured kernel that reads its table, and the stand-in for foreign firmware."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab import Host, guest, owner, vmm
from sevlab.abi import boot
from sevlab.abi.secret import LUKS_KEY_GUID, build_secret, parse_secret
from sevlab.guest.secret import table_length
from sevlab.vmm.vm import Vm

FOREIGN = b"\xf4" * 0x1000 + bytes(range(256)) * 16
ENTRIES = [(LUKS_KEY_GUID, b"the disk's key"), (bytes(range(16)), b"a token")]


def inject(host: Host, vm: Vm, payload: bytes, gpa: int | None = None) -> None:
    """The owner's packet for this launch: LAUNCH_SECRET with the transport keys of zeros that no session leaves."""
    assert vm.measurement is not None
    header, packet = owner.wrap_secret(bytes(16), bytes(16), vm.measurement[:32], payload)
    vm.inject_secret(header, packet, gpa)


def answer(vm: Vm) -> tuple[int, bytes]:
    vm.finish()
    assert vm.run().name == "HLT"
    return boot.read_answer(vm.read(boot.MAILBOX, 0x1000))


@pytest.mark.parametrize("policy", [1, 5], ids=["SEV", "SEV-ES"])
def test_the_measured_kernel_shows_the_secret_it_was_sent(host: Host, policy: int) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret, policy=policy)
    inject(host, vm, build_secret(ENTRIES))

    status, table = answer(vm)

    assert status == boot.ANSWER and parse_secret(table) == ENTRIES


def test_without_a_secret_it_says_so(host: Host) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret)

    assert answer(vm) == (boot.NO_SECRET, b"")


def test_what_is_no_table_is_no_secret_for_it(host: Host) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret)
    inject(host, vm, b"sixteen letters." * 4)

    assert answer(vm) == (boot.NO_SECRET, b"")


def test_a_table_that_the_host_wrote_in_clear_is_not_read(host: Host) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(), kernel=guest.read_secret)
    vm.write(boot.SECRET_AREA[0], build_secret(ENTRIES))

    assert answer(vm) == (boot.NO_SECRET, b"")


@pytest.mark.parametrize("size", [16, 512, 4096])
def test_the_stand_in_shows_a_secret_of_any_form(host: Host, size: int) -> None:
    secret = bytes(i * 7 & 0xFF for i in range(size))
    vm = vmm.launch(host, firmware=FOREIGN, program=guest.ovmf, args=(0x900000, size, 0x30000))
    inject(host, vm, secret, 0x900000)
    vm.finish()

    assert vm.run().name == "HLT"
    assert boot.read_answer(vm.read(0x30000, 0x2000)) == (boot.ANSWER, secret)


def test_the_stand_in_without_a_secret_says_so(host: Host) -> None:
    vm = vmm.launch(host, firmware=FOREIGN, program=guest.ovmf)

    assert answer(vm) == (boot.NO_SECRET, b"")


@pytest.mark.parametrize("at", [-1, -4096, -0x30])
def test_the_stand_in_runs_for_exactly_that_page(host: Host, at: int) -> None:
    vmm.launch(host, firmware=FOREIGN, program=guest.ovmf, name="known")
    other = bytearray(FOREIGN)
    other[at] ^= 1

    assert vmm.launch(host, firmware=bytes(other), name="other").run().name == "SHUTDOWN"


def test_code_below_the_page_of_the_reset_vector_is_measured_but_not_looked_at(host: Host) -> None:
    vmm.launch(host, firmware=FOREIGN, program=guest.ovmf, name="known")

    assert vmm.launch(host, firmware=bytes(4096) + FOREIGN[4096:], name="other").run().name == "HLT"


@given(
    entries=st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=40)), max_size=4),
    rest=st.binary(max_size=40),
)
def test_a_guest_and_an_owners_tool_agree_on_where_a_table_ends(entries: list[tuple[bytes, bytes]], rest: bytes) -> None:
    table = build_secret(entries)

    assert table_length(table + rest) == int.from_bytes(table[16:20], "little")


@given(data=st.binary(max_size=120), change=st.integers(0, 200), to=st.integers(0, 255))
def test_and_on_what_is_none(data: bytes, change: int, to: int) -> None:
    table = bytearray(build_secret([(bytes(16), data)]))
    table[change % len(table)] = to
    try:
        parse_secret(bytes(table))
        sound = True
    except ValueError:
        sound = False

    assert bool(table_length(bytes(table))) is sound


@pytest.mark.parametrize("area", [b"", bytes(16), bytes(0xC00), build_secret([])[:19], build_secret(ENTRIES)[:-20]])
def test_what_is_too_short_or_empty_is_no_table(area: bytes) -> None:
    assert table_length(area) == 0
