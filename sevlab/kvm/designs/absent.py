"""A capability that this kernel does not have.

KVM_CHECK_EXTENSION answers 0 for it, KVM_ENABLE_CAP refuses it as any number that
means nothing. It stands wherever a seam has no other answer.
"""

from __future__ import annotations

from errno import EINVAL
from typing import Any, Protocol

from sevlab.kvm.fd import KvmError


class Capability(Protocol):
    """A seam that user space meets as a capability of the VM: `extension` for KVM_CHECK_EXTENSION, `enable` for KVM_ENABLE_CAP."""

    extension: int

    def enable(self, vm: Any, caller: Any, source_fd: int) -> Any:
        """Serve KVM_ENABLE_CAP on `vm` with args[0] cut to 32 bits: an int, or a coroutine of one."""


class MoveSeam(Capability, Protocol):
    """What the kernel asks of the seam `move`, and the course: why no kernel ever was like that, in one sentence, or ""."""

    imaginary: str


class Absent:
    """The kernel does not know it."""

    extension = 0
    imaginary = ""
    may: frozenset[int] = frozenset()  # as the seam `mirror`: no VM is one

    def enable(self, vm: Any, caller: Any, source_fd: int) -> int:
        """EINVAL, as for a capability that was never invented."""
        raise KvmError(EINVAL)  # default: of the switch in kvm_vm_ioctl_enable_cap()

    def destroy(self, vm: Any) -> None:
        """As the seam `mirror`: there is none to destroy."""

    def __repr__(self) -> str:
        return "Absent()"


ABSENT = Absent()
