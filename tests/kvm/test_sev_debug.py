"""DBG_DECRYPT and DBG_ENCRYPT: every alignment, both ways, and the tail that still ships."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT, kvm_sev_dbg
from sevlab.abi.sev import Cmd, Status
from sevlab.kvm import designs
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_debug import dbg_crypt
from sevlab.psp.firmware import CommandDone

PAGE = 4096
NOWHERE = 0x6660_0000
IDS = pytest.mark.parametrize("id", [KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT], ids=["decrypt", "encrypt"])

# The sizes and offsets of the kernel's own sev_dbg_test (tools/testing/selftests/kvm; kvm.md H4).
SIZES = [1, 8, 15, 16, 17, 32, 33, PAGE - 17, PAGE - 1, PAGE, PAGE + 1, PAGE + 17]
OFFSETS = [0, 1, 8, 15, 16, 23, PAGE - 24, PAGE - 23, PAGE - 9, PAGE - 8]


class Debugged:
    """A guest of two pages, all 0xAA, that may be debugged, and a plain buffer."""

    def __init__(self, design: designs.Design = designs.LINUX_6_1_FIXED, policy: int = 0) -> None:
        self.rig = Rig(design)
        self.vm = self.rig.started(policy)
        self.guest = self.rig.memory(b"\xaa" * 2 * PAGE)
        self.plain = self.rig.memory(bytes(3 * PAGE))
        self.rig.update(self.vm, self.guest, 2 * PAGE)

    def text(self) -> bytes:
        """What the guest would read."""
        return self.rig.soc.engine.read(self.rig.file(self.vm).sev.asid, self.rig.qemu.task.mm.translate(self.guest), 2 * PAGE)

    def decrypt(self, at: int, size: int, to: int = 0) -> bytes:
        self.rig.op(self.vm, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(self.guest + at, self.plain + to, size))
        return self.rig.qemu.read(self.plain + to, size)

    def encrypt(self, at: int, data: bytes, source: int = 0) -> None:
        self.rig.qemu.write(self.plain + source, data)
        self.rig.op(self.vm, KVM_SEV_DBG_ENCRYPT, kvm_sev_dbg(self.plain + source, self.guest + at, len(data)))

    def commands(self) -> list[int]:
        return [row["cmd"] for row in self.rig.rows(CommandDone) if row["cmd"] in (Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT)]


# ------------------------------------------------------------------ it does what it says


@pytest.mark.parametrize("policy", [0, 4], ids=["SEV", "SEV-ES"])
def test_the_kernels_own_sizes_and_offsets(policy: int) -> None:
    it = Debugged(policy=policy)
    expected = bytearray(b"\xaa" * 2 * PAGE)
    for offset in OFFSETS:
        for size in (size for size in SIZES if offset + size <= 2 * PAGE):
            assert it.decrypt(offset, size) == expected[offset : offset + size]
            pattern = bytes((0x55 ^ size & 0xF,)) * size
            it.encrypt(offset, pattern, source=offset % 32)
            expected[offset : offset + size] = pattern
            assert it.text() == expected
    assert it.rig.last.error == 0


@given(st.integers(0, PAGE), st.integers(1, PAGE), st.integers(0, 64))
def test_law_decrypting_gives_exactly_the_bytes_asked_for(at: int, size: int, to: int) -> None:
    it = Debugged()
    it.rig.qemu.write(it.plain, b"\xee" * 3 * PAGE)
    assert it.decrypt(at, size, to) == b"\xaa" * size

    around = it.rig.qemu.read(it.plain, 3 * PAGE)
    assert around[:to] + around[to + size :] == b"\xee" * (3 * PAGE - size)


@given(st.integers(0, PAGE), st.integers(1, PAGE), st.integers(0, 64))
def test_law_encrypting_changes_exactly_the_bytes_named(at: int, size: int, source: int) -> None:
    it = Debugged()
    data = bytes(i * 7 & 0xFF for i in range(size))
    it.encrypt(at, data, source)

    expected = bytearray(b"\xaa" * 2 * PAGE)
    expected[at : at + size] = data
    assert it.text() == expected


def test_decrypting_in_place_turns_a_page_of_the_guest_into_plaintext() -> None:
    it = Debugged()
    it.rig.op(it.vm, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(it.guest, it.guest, PAGE))

    assert it.rig.qemu.read(it.guest, PAGE) == b"\xaa" * PAGE


def test_what_is_aligned_goes_straight_and_what_is_not_by_way_of_a_kernel_page() -> None:
    it = Debugged()
    it.encrypt(0, bytes(32))
    assert it.commands() == [Cmd.DBG_ENCRYPT]
    it.encrypt(0, bytes(32), source=1)
    assert it.commands()[1:] == [Cmd.DBG_ENCRYPT]
    it.encrypt(8, bytes(32))

    assert it.commands()[2:] == [Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT]


def test_pieces_end_at_the_page_of_the_source_and_of_the_destination() -> None:
    it = Debugged()
    it.decrypt(16, PAGE, to=32)

    assert len(it.commands()) == 3


# ------------------------------------------------------------------ the bug that still ships


LOST = [(8, 16), (1, 16), (15, 2), (9, 8), (8, 40)]
KEPT = [(0, 8), (8, 8), (0, 16), (4, 12), (1, 31), (16, 5)]


@pytest.mark.parametrize("at, size", LOST)
def test_the_tail_of_an_unaligned_encrypt_is_lost_as_shipped_and_written_when_mended(at: int, size: int) -> None:
    shipped, mended = Debugged(designs.LINUX_6_1), Debugged(designs.LINUX_6_1_FIXED)
    for it in (shipped, mended):
        it.encrypt(at, b"\x55" * size)
    whole = b"\xaa" * at + b"\x55" * size
    written = at // 16 * 16 + (size + 15) // 16 * 16

    assert mended.text()[: at + size] == whole
    assert shipped.text()[: at + size] == whole[:written] + b"\xaa" * (at + size - written)
    assert shipped.rig.last.error == 0  # and the caller was told that all is well


@pytest.mark.parametrize("at, size", KEPT)
def test_where_the_tail_stays_within_its_blocks_both_are_right(at: int, size: int) -> None:
    for design in (designs.LINUX_6_1, designs.LINUX_6_1_FIXED):
        it = Debugged(design)
        it.encrypt(at, b"\x55" * size)

        assert it.text()[: at + size + 16] == b"\xaa" * at + b"\x55" * size + b"\xaa" * 16


def test_every_kernel_up_to_6_12_ships_it() -> None:
    assert {name for name, design in designs.DESIGNS.items() if design.quirks.dbg_encrypt_size(8, 16) == 16} == {
        "posted", "linux-5.13", "linux-6.1", "linux-6.12",
    }  # fmt: skip


# ------------------------------------------------------------------ it refuses


@IDS
def test_rules_in_their_order(rig: Rig, id: int) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), id, NOWHERE)
    vm, page = rig.init(), rig.memory(bytes(PAGE))
    with refuses(EFAULT):
        rig.op(vm, id, NOWHERE)
    for given_dbg, code in [
        (kvm_sev_dbg(NOWHERE, 0, 0), EINVAL),  # no length, no destination
        (kvm_sev_dbg((1 << 64) - 8, NOWHERE, 16), EINVAL),  # a source that wraps
        (kvm_sev_dbg(NOWHERE, 0, 16), EINVAL),  # no destination, and a source that is not there
        (kvm_sev_dbg(NOWHERE, NOWHERE, 16), ENOMEM),
        (kvm_sev_dbg(page, NOWHERE, 16), ENOMEM),
        (kvm_sev_dbg(page, page, 16), EBADF),  # no START
    ]:
        with refuses(code):
            rig.op(vm, id, given_dbg)
        assert rig.last.error == UNTOUCHED
    rig.start(vm, policy=1)
    with refuses(EIO, Status.POLICY_FAILURE):
        rig.op(vm, id, kvm_sev_dbg(page, page, 16))
    assert rig.last.error == Status.POLICY_FAILURE


@IDS
@pytest.mark.parametrize("at, size", [(0, 16), (3, 5)])
def test_an_owner_who_forbids_debugging_is_obeyed_however_it_is_tried(id: int, at: int, size: int) -> None:
    it = Debugged(policy=1)
    before, ends = it.text(), (it.guest + at, it.plain)

    with refuses(EIO, Status.POLICY_FAILURE):
        it.rig.op(it.vm, id, kvm_sev_dbg(*(ends if id == KVM_SEV_DBG_DECRYPT else ends[::-1]), size))
    assert it.text() == before
    assert it.rig.qemu.read(it.plain, PAGE) == bytes(PAGE)


def test_what_was_done_before_a_hole_stays_done() -> None:
    it = Debugged()
    last = it.plain + 3 * PAGE  # the hole begins here
    it.rig.qemu.write(last - PAGE, b"\x55" * PAGE)

    with refuses(ENOMEM):
        it.rig.op(it.vm, KVM_SEV_DBG_ENCRYPT, kvm_sev_dbg(last - PAGE, it.guest, PAGE + 16))
    assert it.text() == b"\x55" * PAGE + b"\xaa" * PAGE
    assert it.rig.soc.pages.pinned() == 0
    assert it.rig.file(it.vm).sev.pages_locked == 0


@pytest.mark.parametrize("limit, ok", [(2, True), (1, False), (0, False)])
def test_both_pages_count_against_the_limit(make_rig: Callable[..., Rig], limit: int, ok: bool) -> None:
    rig = make_rig()
    vm, page = rig.started(), rig.memory(bytes(PAGE))
    rig.qemu.setrlimit(memlock=limit * PAGE)
    if ok:
        rig.op(vm, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(page, page, 16))
    else:
        with refuses(ENOMEM):
            rig.op(vm, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(page, page, 16))


def test_nobody_asks_whose_memory_it_is() -> None:
    it = Debugged()
    it.rig.qemu.write(it.plain + 2 * PAGE, bytes(16))

    it.rig.op(it.vm, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(it.plain + 2 * PAGE, it.plain, 16))
    assert it.rig.qemu.read(it.plain, 16) != bytes(16)


def test_the_ladder_is_the_kernels() -> None:
    codes: list[Any] = [rung.code for rung in ladder(dbg_crypt)]

    assert codes == ["ENOTTY", "EFAULT", "EINVAL", "EINVAL", "EINVAL, ENOMEM", "EFAULT, EBADF, EIO"]
