"""KVM_SEV_DBG_DECRYPT and KVM_SEV_DBG_ENCRYPT: the host reads and writes a guest's memory, where the owner's policy lets it.

Both addresses are hvas: guest memory on one side, a plain buffer on the other,
and nobody asks whether the one is the guest's. The firmware wants 16-byte blocks;
what is not aligned goes through a page of the kernel's. Source: kvm.md B10
(sev_dbg_crypt, __sev_dbg_decrypt_user, __sev_dbg_encrypt_user).
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from sevlab.abi.kvm import KVM_SEV_DBG_DECRYPT, kvm_sev_cmd, kvm_sev_dbg
from sevlab.abi.sev import Cmd, Dbg
from sevlab.kvm import copy_from_user
from sevlab.kvm.fd import need
from sevlab.kvm.sev_info import PAGE, flush, pin_memory

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vm import Vm

BLOCK = 16


class Piece:
    """A stretch within one source page and one destination page, and how to tell the firmware of it."""

    def __init__(self, vm: Vm, caller: Task, cmd: kvm_sev_cmd, src: int, dst: int, size: int) -> None:
        self.vm = vm
        self.caller = caller
        self.cmd = cmd
        self.src = src
        self.dst = dst
        self.size = size
        self.src_hpa = 0  # known once the pages are pinned
        self.dst_hpa = 0

    def firmware(self, what: Cmd, src: int, dst: int, size: int) -> None:
        """One firmware command between two machine addresses (__sev_issue_dbg_cmd)."""
        vm = self.vm
        buffer = Dbg(vm.sev.handle, 0, vm.kernel.private(src), vm.kernel.private(dst), size)
        vm.kernel.ccp.issue(self.caller, vm.sev.fd, what, buffer, self.cmd)  # EBADF, EIO

    def decrypt_blocks(self, src: int, dst: int) -> None:
        """The blocks around `size` bytes of guest memory at `src`, in clear to `dst` (__sev_dbg_decrypt)."""
        self.firmware(Cmd.DBG_DECRYPT, _down(src), dst, _up(self.size + src % BLOCK))


def dbg_crypt(vm: Vm, caller: Task, cmd: kvm_sev_cmd) -> None:
    """KVM_SEV_DBG_DECRYPT: guest memory at `src_uaddr`, in clear to `dst_uaddr`; KVM_SEV_DBG_ENCRYPT: the other way.

    Piece by piece; what was done before a refusal stays done (sev_dbg_crypt).
    """
    need(vm.sev.active, ENOTTY)  # !sev_guest(kvm)
    user = copy_from_user(caller, cmd.data, kvm_sev_dbg)  # EFAULT
    need(user.len and user.src_uaddr + user.len < 1 << 64, EINVAL)  # !debug.len || src_uaddr + len < src_uaddr
    need(user.dst_uaddr, EINVAL)  # !debug.dst_uaddr; nobody asks whether the destination wraps

    crypt = _decrypt if cmd.id == KVM_SEV_DBG_DECRYPT else _encrypt
    src, dst, rest = user.src_uaddr, user.dst_uaddr, user.len
    while rest:
        size = min(PAGE - src % PAGE, PAGE - dst % PAGE, rest)
        piece = Piece(vm, caller, cmd, src, dst, size)
        with (
            pin_memory(vm, caller, src & -PAGE, PAGE, write=False) as source,  # EINVAL, ENOMEM
            pin_memory(vm, caller, dst & -PAGE, PAGE, write=True) as destination,  # EINVAL, ENOMEM
        ):
            flush(vm.kernel, source)
            flush(vm.kernel, destination)
            piece.src_hpa = source.pieces[0][0] + src % PAGE
            piece.dst_hpa = destination.pieces[0][0] + dst % PAGE
            crypt(piece)  # EFAULT, EBADF, EIO
        src, dst, rest = src + size, dst + size, rest - size


def _decrypt(piece: Piece) -> None:
    """Straight to its place, or by way of a kernel page when anything is not aligned (__sev_dbg_decrypt_user)."""
    if not (piece.src_hpa | piece.dst_hpa | piece.size) % BLOCK:
        return piece.decrypt_blocks(piece.src_hpa, piece.dst_hpa)
    with piece.vm.kernel.ccp.heap() as heap:
        page = heap.alloc(PAGE)
        piece.decrypt_blocks(piece.src_hpa, page)
        piece.caller.write(piece.dst, heap.read(page + piece.src_hpa % BLOCK, piece.size))  # EFAULT


def _encrypt(piece: Piece) -> None:
    """Straight from its place (__sev_dbg_encrypt_user).

    A source that is not aligned is copied first; a destination or a size that is
    not is read in clear, changed, and encrypted back.
    """
    src, dst, size = piece.src_hpa, piece.dst_hpa, piece.size
    with piece.vm.kernel.ccp.heap() as heap:
        if piece.src % BLOCK:
            src = heap.copy_in(piece.caller.read(piece.src, size))  # EFAULT
        if piece.dst % BLOCK or size % BLOCK:
            into, src = dst % BLOCK, heap.alloc(PAGE)
            piece.decrypt_blocks(dst, src)
            heap.dram.write(src + into, piece.caller.read(piece.src, size))  # EFAULT
            dst, size = _down(dst), piece.vm.kernel.design.quirks.dbg_encrypt_size(into, size)
        piece.firmware(Cmd.DBG_ENCRYPT, src, dst, size)


def _down(n: int) -> int:
    return n & -BLOCK


def _up(n: int) -> int:
    return n + BLOCK - 1 & -BLOCK
