"""The course's own firmware: what it boots, what it refuses to boot, and what its image says of itself."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from sevlab import Host, guest, vmm
from sevlab.abi import boot, hashes, ovmf
from sevlab.abi.boot import MAILBOX, BootHeader
from sevlab.guest.firmware import SIZE, measured_hash
from sevlab.hw.isa import hlt, load, program, store
from sevlab.vmm.vm import Vm

POLICIES = {"SEV": 1, "SEV-ES": 5}


@program
async def kernel(secret_gpa: int, secret_len: int, append_gpa: int, append_len: int, initrd_gpa: int, initrd_len: int) -> None:
    """Shows what it was handed: six numbers, then the command line and the initrd as it reads them through its key."""
    numbers = (secret_gpa, secret_len, append_gpa, append_len, initrd_gpa, initrd_len)
    line = await load(append_gpa, append_len, c=True)
    initrd = await load(initrd_gpa, initrd_len, c=True) if initrd_len else b""
    await store(MAILBOX, b"".join([number.to_bytes(8, "little") for number in numbers]) + line + initrd, c=False)
    await hlt()


def launched(host: Host, **what: Any) -> Vm:
    """A launch of the course's firmware, finished and not yet run."""
    vm = vmm.launch(host, firmware=guest.firmware_image(), **{"kernel": kernel, **what})
    vm.finish()
    return vm


def status(vm: Vm) -> int:
    """What the firmware says in the mailbox when it has stopped."""
    assert vm.run().name == "HLT"
    return boot.read_answer(vm.read(MAILBOX, 16))[0]


# ------------------------------------------------------------------ stories


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_the_measured_kernel_is_booted_with_what_a_boot_loader_hands_over(host: Host, policy: int) -> None:
    vm = launched(host, policy=policy, initrd=b"a small initrd", append="console=ttyS0")

    assert vm.run().name == "HLT"
    numbers = [int.from_bytes(vm.read(MAILBOX + 8 * i, 8), "little") for i in range(6)]
    assert numbers == [*boot.SECRET_AREA, boot.APPEND, 14, boot.KERNEL + 0x1000, 14]
    assert vm.read(MAILBOX + 48, 28) == b"console=ttyS0\0a small initrd"


def test_what_was_put_in_clear_is_noise_afterwards_and_the_guests_own(host: Host) -> None:
    initrd = b"0123456789abcdef" * 600
    vm = launched(host, initrd=initrd, append="quiet")
    assert vm.read(boot.KERNEL, 14) == b"sevlab program" and vm.read(boot.KERNEL + 0x1000, 16) == initrd[:16]

    vm.run()

    assert b"sevlab" not in vm.read(boot.KERNEL, 0x1000)
    assert b"0123" not in vm.read(boot.KERNEL + 0x1000, 0x3000)
    assert b"quiet" not in vm.read(boot.APPEND, 0x1000)


def test_a_large_initrd_is_taken_in_pieces(host: Host) -> None:
    initrd = bytes(range(256)) * (5 << 11)  # 2.5 MiB
    vm = launched(host, initrd=initrd)
    vm.run()

    assert vm.read(MAILBOX + 40, 8) == len(initrd).to_bytes(8, "little")
    assert vm.read(MAILBOX + 49, 4000) == initrd[:4000]


def test_without_a_kernel_there_is_nothing_to_boot(host: Host) -> None:
    vm = launched(host, kernel=None)

    assert vm.run().name == "HLT"
    assert vm.read(MAILBOX, 16) == bytes(16)


def test_a_kernel_that_is_no_program_is_booted_and_shuts_down(host: Host) -> None:
    vm = launched(host, kernel=b"\x7fELF" + bytes(5000))

    assert vm.run().name == "SHUTDOWN"


# ------------------------------------------------------------------ what it refuses

TAMPERED = {
    "kernel": (boot.KERNEL + 70, boot.BAD_KERNEL),
    "kernel's last byte": (boot.KERNEL + 4095, boot.BAD_KERNEL),
    "initrd": (boot.KERNEL + 0x1000, boot.BAD_INITRD),
    "command line": (boot.APPEND + 2, boot.BAD_APPEND),
    "measured table": (boot.HASH_AREA[0], boot.NO_HASHES),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(("at", "expected"), TAMPERED.values(), ids=TAMPERED)
def test_one_bit_of_what_is_booted_is_enough(host: Host, at: int, expected: int, policy: int) -> None:
    vm = launched(host, initrd=b"an initrd", append="console=ttyS0", policy=policy)

    vm.write(at, bytes([vm.read(at, 1)[0] ^ 1]))

    assert status(vm) == expected
    assert status(vm) == expected, "an interrupt changes nothing"


@pytest.mark.parametrize("at", range(0x10, 0xB0, 16))
def test_no_block_of_the_table_can_be_scrambled_so_that_a_check_is_left_out(host: Host, at: int) -> None:
    vm = launched(host, initrd=b"an initrd", append="console=ttyS0")
    vm.write(boot.KERNEL + 70, b"changed")

    vm.write(boot.HASH_AREA[0] + at, bytes(16))

    assert status(vm) in (boot.BAD_KERNEL, boot.BAD_INITRD, boot.BAD_APPEND)


def test_a_table_that_was_never_measured_is_no_table(host: Host) -> None:
    vm = launched(host, kernel=None)
    image = kernel.image()
    for gpa, data in boot.placement(image):
        vm.write(gpa, data)
    vm.write(boot.HASH_AREA[0], hashes.kernel_hashes(image))

    assert status(vm) == boot.NO_HASHES


HEADERS = [
    BootHeader(kernel_len=0, append_len=1),
    BootHeader(kernel_len=4096, append_len=0),
    BootHeader(kernel_len=boot.BLOB_LIMIT + 1, append_len=1),
    BootHeader(kernel_len=4096, initrd_len=0xFFFF_FFFF, append_len=1),
    BootHeader(kernel_len=4096, append_len=boot.APPEND_LIMIT + 1),
]


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_lengths_that_cannot_be_are_refused_before_anything_is_read(host: Host, header: BootHeader) -> None:
    vm = launched(host)

    vm.write(boot.HEADER, header.pack())

    assert status(vm) == boot.BAD_HEADER
    assert vm.read(boot.KERNEL, 14) == b"sevlab program", "nothing was taken"


@pytest.mark.parametrize("change", [{"kernel_len": 4095}, {"kernel_len": 8192}, {"append_len": 2}, {"initrd_len": 16}])
def test_lengths_that_are_merely_wrong_are_caught_by_a_hash(host: Host, change: dict[str, int]) -> None:
    vm = launched(host, initrd=b"fifteen letters", append="")
    vm.write(boot.HEADER, BootHeader.unpack(vm.read(boot.HEADER, BootHeader.SIZE)).replace(**change).pack())

    assert status(vm) in (boot.BAD_KERNEL, boot.BAD_INITRD, boot.BAD_APPEND)


def test_a_firmware_whose_last_page_was_changed_does_not_run(host: Host) -> None:
    image = bytearray(guest.firmware_image())
    image[-1] ^= 1
    vm = vmm.launch(host, firmware=bytes(image), kernel=kernel)

    assert vm.run().name == "SHUTDOWN"


# ------------------------------------------------------------------ the table of hashes


def test_the_firmware_reads_the_table_as_the_owners_tools_write_it() -> None:
    table = hashes.kernel_hashes(b"kernel", b"initrd", "append")

    assert measured_hash(table, hashes.HASH_KERNEL_GUID) == hashlib.sha256(b"kernel").digest()
    assert measured_hash(table, hashes.HASH_INITRD_GUID) == hashlib.sha256(b"initrd").digest()
    assert measured_hash(table, hashes.HASH_CMDLINE_GUID) == hashlib.sha256(b"append\0").digest()


def test_an_entry_that_is_not_there_or_is_damaged_fits_nothing() -> None:
    table = bytearray(hashes.kernel_hashes(b"kernel"))
    assert measured_hash(bytes(table), bytes(16)) == b""
    assert measured_hash(bytes(18), hashes.HASH_KERNEL_GUID) == b""
    assert measured_hash(b"", hashes.HASH_KERNEL_GUID) == b""

    for size in (0, 17, 49, 51, 0xFFFF):
        damaged = bytearray(table)
        damaged[0x76 + 16 : 0x76 + 18] = size.to_bytes(2, "little")
        assert measured_hash(bytes(damaged), hashes.HASH_KERNEL_GUID) == b""
    table[0x12 + 16 : 0x12 + 18] = bytes(2)
    assert measured_hash(bytes(table), hashes.HASH_KERNEL_GUID) == b"", "a walk that does not move ends"


# ------------------------------------------------------------------ the image


def test_the_image_tells_a_vmm_what_it_needs_to_know() -> None:
    image = guest.firmware_image()
    table = ovmf.parse(image)

    assert len(image) == SIZE == table.size and table.gpa == 0xFFFF_0000
    assert table.reset_block == boot.RESET_BLOCK
    assert (table.secret_area, table.hash_area) == (boot.SECRET_AREA, boot.HASH_AREA)


def test_the_image_is_the_same_bytes_each_time_and_names_its_program() -> None:
    assert guest.firmware_image() == guest.firmware_image()
    assert guest.firmware_image()[-4096:][64:96] == guest.firmware.digest


def test_another_program_or_argument_is_another_image() -> None:
    images = {
        guest.firmware_image(*what) for what in ((), (guest.hello,), (guest.counter,), (guest.counter, 1), (guest.counter, 2))
    }

    assert len(images) == 5


def test_an_image_around_a_program_of_ones_own_runs_it(host: Host) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(kernel), program=guest.hello)
    vm.run()

    assert vm.read(0x2000, 12) == b"hello, cloud"


def test_a_program_is_no_image_for_a_host_that_does_not_know_it(host: Host) -> None:
    vm = vmm.launch(host, firmware=guest.firmware_image(kernel))

    assert vm.run().name == "SHUTDOWN"
