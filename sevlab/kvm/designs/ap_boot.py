"""The seam `ap_boot`: what an SEV-ES guest's "hold me until a SIPI comes" does to its vCPU.

`HltLoopFlag` was posted: Tom Lendacky, "[PATCH v5 27/34] KVM: SVM: Add support for
booting APs for an SEV-ES guest", 10 December 2020. The hold was a bool beside the
vCPU and otherwise a HLT. Paolo Bonzini's review, "Re: [PATCH v5 27/34] KVM: SVM: Add
support for booting APs for an SEV-ES guest", 14 December 2020, asked that it be
communicated to user space. `ResetHold` is what went into 5.11 (647daca25d24): a state of its own,
KVM_MP_STATE_AP_RESET_HOLD, an exit of its own where user space has the interrupt
controllers, and in place of the bool one that says only whether a first SIPI was
ever received. Since 5.16 a bad jump-table request is answered as malformed input
(ad5b353240c8); `ResetHoldKind` (6.10) knows how the guest asked, since the MSR
protocol can ask too. `ResetHoldUnchecked` is 5.11 before a3ba26ecfb56: a SIPI for a
vCPU that is not parked writes to a GHCB that is not mapped.

| | v5 | 5.11 to 5.15 | 5.16 to 6.9 | 6.10 |
|---|---|---|---|---|
| KVM_GET_MP_STATE of a parked AP | HALTED, as after HLT | AP_RESET_HOLD | AP_RESET_HOLD | AP_RESET_HOLD |
| KVM_SET_MP_STATE 9 | EINVAL | 0 | 0 | 0 |
| without an irqchip | KVM_EXIT_HLT | KVM_EXIT_AP_RESET_HOLD | the same | the same |
| a bad jump-table request | #UD | #UD | malformed, 5 | malformed, 5 |
| a hold by the MSR protocol | - | - | - | yes |
| a SIPI completes | a hold that was asked for | any VMGEXIT under way | the same | a hold that is under way |
"""

from __future__ import annotations

from errno import ESRCH
from typing import TYPE_CHECKING, Any, Protocol

from sevlab.abi.ghcb import GHCB_ERR_INVALID_INPUT, GHCB_RESP_ERROR, GHCB_RESP_EXCEPTION, exception_info
from sevlab.abi.kvm import KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_HLT, KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_HALTED
from sevlab.kvm import ap
from sevlab.kvm.designs.absent import Absent
from sevlab.kvm.fd import Oops
from sevlab.kvm.mp_state import halt

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

UD = 6
NEVER = (
    "This kernel never existed: the hold as posted in December 2020 and the move of October 2021 met in no tree;"
    " it shows what the review was about."
)


class ApBootSeam(Protocol):
    """What the kernel asks of this seam."""

    states: frozenset[int]  # what KVM_SET_MP_STATE takes beside the states of 2008

    def hold(self, vcpu: Vcpu, kind: int) -> int:
        """A sealed vCPU parks itself: the outcome of its exit."""

    def sipi(self, vcpu: Vcpu) -> bool:
        """A SIPI reaches a sealed vCPU: whether it was the first of its life, or is taken for that."""

    def bad_request(self) -> tuple[int, int]:
        """The answer, info1 and info2, to a jump-table request that is neither set nor get."""

    def imaginary(self, design: Any) -> str:
        """Why no kernel ever was this design, in one sentence; "" where one was, or might have been."""


class HltLoopFlag:
    """As posted in v5."""

    states: frozenset[int] = frozenset()

    def hold(self, vcpu: Vcpu, kind: int) -> int:
        """svm->ap_hlt_loop = true, and then as after HLT (kvm_emulate_halt). User space learns nothing of the first."""
        vcpu.ap_hlt_loop = True
        return halt(vcpu, KVM_MP_STATE_HALTED, KVM_EXIT_HLT)

    def sipi(self, vcpu: Vcpu) -> bool:
        """A hold that is remembered is completed; without one every SIPI is a first one.

        It is remembered too when something else has ended the wait meanwhile. The GHCB is not mapped then.
        """
        if not vcpu.ap_hlt_loop:
            return True  # First SIPI: Use the values as initially set by the VMM
        if not ap.complete(vcpu):
            raise Oops(ESRCH, why="kernel NULL pointer dereference in sev_vcpu_deliver_sipi_vector(): svm->ghcb")
        vcpu.ap_hlt_loop = False
        return False

    def bad_request(self) -> tuple[int, int]:
        return GHCB_RESP_EXCEPTION, exception_info(UD)

    def imaginary(self, design: Any) -> str:
        return "" if isinstance(design.move, Absent) else NEVER

    def __repr__(self) -> str:
        return "HltLoopFlag()"


class ResetHold:
    """As merged, from 5.16 to 6.9."""

    states = frozenset({KVM_MP_STATE_AP_RESET_HOLD})

    def hold(self, vcpu: Vcpu, kind: int) -> int:
        """kvm_emulate_ap_reset_hold."""
        return halt(vcpu, KVM_MP_STATE_AP_RESET_HOLD, KVM_EXIT_AP_RESET_HOLD)

    def sipi(self, vcpu: Vcpu) -> bool:
        """The first one in the vCPU's life is only remembered; a later one writes into the GHCB, if it is mapped."""
        if not vcpu.received_first_sipi:
            vcpu.received_first_sipi = True
            return True
        ap.complete(vcpu)  # if (!svm->sev_es.ghcb) return
        return False

    def bad_request(self) -> tuple[int, int]:
        return GHCB_RESP_ERROR, GHCB_ERR_INVALID_INPUT

    def imaginary(self, design: Any) -> str:
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class ResetHold511(ResetHold):
    """From 5.11 to 5.15."""

    def bad_request(self) -> tuple[int, int]:
        return GHCB_RESP_EXCEPTION, exception_info(UD)


class ResetHoldUnchecked(ResetHold511):
    """5.11 as first merged: nobody asks whether there is a GHCB."""

    def sipi(self, vcpu: Vcpu) -> bool:
        if vcpu.received_first_sipi and vcpu.ghcb is None:
            raise Oops(ESRCH, why="kernel NULL pointer dereference in sev_vcpu_deliver_sipi_vector(): svm->ghcb")
        return super().sipi(vcpu)


class ResetHoldKind(ResetHold):
    """6.10 and later: how the guest asked to be held is remembered until its GHCB is unmapped."""

    def hold(self, vcpu: Vcpu, kind: int) -> int:
        vcpu.ap_reset_hold_type = kind
        return super().hold(vcpu, kind)

    def sipi(self, vcpu: Vcpu) -> bool:
        if not vcpu.received_first_sipi:
            vcpu.received_first_sipi = True
            return True
        if vcpu.ap_reset_hold_type != ap.NONE:
            ap.complete(vcpu, vcpu.ap_reset_hold_type)
        return False


HLT_LOOP_FLAG, RESET_HOLD, RESET_HOLD_KIND = HltLoopFlag(), ResetHold(), ResetHoldKind()
RESET_HOLD_511, RESET_HOLD_UNCHECKED = ResetHold511(), ResetHoldUnchecked()
