"""The seam `quirks`: bugs that ship, as they are, and mended.

`AS_IS` is what the kernel does, `MENDED` what it was meant to do: the exercise
"find the bug that still ships" runs on both. All as read, up to 6.12 and later
(kvm.md J26, F2, F5, B10); none was reported as a vulnerability.

* MOVE does not carry the *number* of /dev/sev. The destination looks up number 0,
  so the first firmware command after a move is EBADF.
* That it is a number and no reference is a bug of its own: whoever closes that
  descriptor, or puts another file in its place, takes the firmware away.
* MOVE leaves the address of the AP jump table, the GHCB version and `need_init`
  behind. A VM of an SEV type that was moved can then never run; COPY leaves the
  GHCB version and the VMSA features behind.
* MOVE of an SEV-ES VM to another cgroup charges and releases "sev": the flag that
  says "sev_es" is not set yet on one side and cleared already on the other.
* MOVE of a mirror charges the new one, though mirrors are free, and nobody gives
  that back.
* DBG_ENCRYPT to a destination that is not 16-byte aligned decrypts the blocks
  around it, patches them and encrypts them back; but it rounds up the length
  alone and forgets how far into the first block it began. Where the two together
  reach into one more block, that block is never written, and the call succeeds.
  Rewritten in 7.x (8d6297a3e73e).

What each leaves behind on the books is a row of `LEAKS`.
"""

from __future__ import annotations

from errno import EBADF
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sevlab.kvm.fd import File, KvmError

if TYPE_CHECKING:
    from sevlab.kvm.sev_info import SevInfo
    from sevlab.kvm.task import Task

BLOCK = 16


class Leak(NamedTuple):
    """What is left in the cgroups when every VM is gone: by how much the source's and the destination's stay charged."""

    source: dict[str, int]
    destination: dict[str, int]


# A move from one cgroup to another, as it is: the kind of guest to what never balances. MENDED leaves nothing.
LEAKS: dict[str, Leak] = {
    "plain SEV": Leak({}, {}),
    "SEV-ES": Leak({"sev": -1, "sev_es": 1}, {"sev": 1, "sev_es": -1}),
    "a mirror": Leak({}, {"sev": 1}),
}


class Quirks(Protocol):
    """What the kernel asks of this seam."""

    def remember(self, caller: Any, fd: int) -> int | File:
        """LAUNCH_START: what a VM keeps of the /dev/sev it was started with."""

    def forget(self, sev: Any) -> None:
        """A VM is destroyed: what it kept is given back."""

    def copied(self, mirror: Any, owner: Any) -> None:
        """COPY: what a mirror gets beside slot, kind, handle and descriptor."""

    def carry(self, dst: Any, src: Any) -> None:
        """MOVE: what goes along beside slot, kind, handle, regions and mirrors."""

    def move_pays(self, src: Any) -> bool:
        """MOVE: whether a VM that takes over this one pays for it."""

    def move_charges_es(self, es: bool) -> bool:
        """MOVE to another cgroup: whether "sev_es" is charged and released, for a VM of this kind."""

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        """How many bytes DBG_ENCRYPT writes back for `size` bytes that begin `into` a block."""


class AsIs:
    """As the kernels ship."""

    def remember(self, caller: Task, fd: int) -> int | File:
        return fd

    def forget(self, sev: SevInfo) -> None:
        """A number is nothing to give back."""

    def copied(self, mirror: SevInfo, owner: SevInfo) -> None:
        """GHCB version and features stay behind."""

    def carry(self, dst: SevInfo, src: SevInfo) -> None:
        """The number of /dev/sev, the jump table, the GHCB version and need_init stay behind."""

    def move_pays(self, src: Any) -> bool:
        return True

    def move_charges_es(self, es: bool) -> bool:
        return False

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        return size + BLOCK - 1 & -BLOCK

    def __repr__(self) -> str:
        return "AsIs()"


class Mended:
    """As they were meant."""

    def remember(self, caller: Task, fd: int) -> int | File:
        file = caller.fget(fd)
        if file is None:
            raise KvmError(EBADF)  # closed while LAUNCH_START was under way
        kept: File = file.get()
        return kept

    def forget(self, sev: SevInfo) -> None:
        if isinstance(sev.fd, File):
            sev.fd.put()
        sev.fd = 0

    def copied(self, mirror: SevInfo, owner: SevInfo) -> None:
        if isinstance(owner.fd, File):
            owner.fd.get()
        mirror.ghcb_version, mirror.vmsa_features = owner.ghcb_version, owner.vmsa_features

    def carry(self, dst: SevInfo, src: SevInfo) -> None:
        dst.fd, src.fd = src.fd, 0  # the reference goes along
        dst.ap_jump_table, dst.ghcb_version, dst.need_init = src.ap_jump_table, src.ghcb_version, src.need_init

    def move_pays(self, src: Any) -> bool:
        return src.sev.owner is None

    def move_charges_es(self, es: bool) -> bool:
        return es

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        return into + size + BLOCK - 1 & -BLOCK

    def __repr__(self) -> str:
        return "Mended()"


AS_IS, MENDED = AsIs(), Mended()
