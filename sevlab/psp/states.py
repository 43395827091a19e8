"""The two state machines of the SEV firmware, whole.

A row says in which states a command may run and which state it leaves behind.
The dispatcher, the handlers, the exhaustive tests and the diagrams all read
these tables. What fits no row stands below them as a short function, and
nowhere else. Source: firmware.md 1.1, 1.5, 2.1, 2.4.

PLATFORM is asked by the dispatcher, before a handler sees the command. GUEST is
asked by the handler, because the firmware asks it at a different rung in each
command. Commands that sevlab does not model have their rows here too: these are
the firmware's machines, not ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized

from sevlab.abi.sev import Cmd, GuestState, PlatformState

P, G = PlatformState, GuestState

_STAYS = {P.UNINIT: P.UNINIT, P.INIT: P.INIT, P.WORKING: P.WORKING}
_ONCE_UP = {P.INIT: P.INIT, P.WORKING: P.WORKING}
_WORKING = {P.WORKING: P.WORKING}
_STARTS = {P.INIT: P.WORKING, P.WORKING: P.WORKING}

PLATFORM: Mapping[int, Mapping[PlatformState, PlatformState]] = {
    Cmd.INIT: {P.UNINIT: P.INIT},
    Cmd.INIT_EX: {P.UNINIT: P.INIT},
    Cmd.SHUTDOWN: {P.UNINIT: P.UNINIT, P.INIT: P.UNINIT, P.WORKING: P.UNINIT},
    Cmd.PLATFORM_RESET: {P.UNINIT: P.UNINIT},
    Cmd.PLATFORM_STATUS: _STAYS,
    Cmd.DOWNLOAD_FIRMWARE: {P.UNINIT: P.UNINIT},
    Cmd.NOP: _STAYS,
    Cmd.GET_ID: _STAYS,
    Cmd.PEK_GEN: {P.INIT: P.INIT},
    Cmd.PEK_CSR: _ONCE_UP,
    Cmd.PEK_CERT_IMPORT: {P.INIT: P.INIT},
    Cmd.PDH_GEN: _ONCE_UP,
    Cmd.PDH_CERT_EXPORT: _ONCE_UP,
    Cmd.DF_FLUSH: _ONCE_UP,  # 0.24; firmware 1.x answers in any state
    Cmd.GUEST_STATUS: _ONCE_UP,
    Cmd.LAUNCH_START: _STARTS,
    Cmd.RECEIVE_START: _STARTS,
    Cmd.DECOMMISSION: _WORKING,  # but see platform_after
    Cmd.ACTIVATE: _WORKING,
    Cmd.ACTIVATE_EX: _WORKING,
    Cmd.DEACTIVATE: _WORKING,
    Cmd.COPY: _WORKING,
    Cmd.LAUNCH_UPDATE_DATA: _WORKING,
    Cmd.LAUNCH_UPDATE_VMSA: _WORKING,
    Cmd.LAUNCH_MEASURE: _WORKING,
    Cmd.LAUNCH_SECRET: _WORKING,
    Cmd.LAUNCH_FINISH: _WORKING,
    Cmd.ATTESTATION: _WORKING,
    Cmd.SEND_START: _WORKING,
    Cmd.SEND_UPDATE_DATA: _WORKING,
    Cmd.SEND_UPDATE_VMSA: _WORKING,
    Cmd.SEND_FINISH: _WORKING,
    Cmd.SEND_CANCEL: _WORKING,
    Cmd.RECEIVE_UPDATE_DATA: _WORKING,
    Cmd.RECEIVE_UPDATE_VMSA: _WORKING,
    Cmd.RECEIVE_FINISH: _WORKING,
    Cmd.DBG_DECRYPT: _WORKING,
    Cmd.DBG_ENCRYPT: _WORKING,
    Cmd.SWAP_OUT: _WORKING,
    Cmd.SWAP_IN: _WORKING,
}

_LIVING = (G.LUPDATE, G.LSECRET, G.RUNNING, G.SUPDATE, G.RUPDATE, G.SENT)
_ANY = {state: state for state in _LIVING}

GUEST: Mapping[int, Mapping[GuestState, GuestState]] = {
    Cmd.LAUNCH_START: {G.UNINIT: G.LUPDATE},
    Cmd.LAUNCH_UPDATE_DATA: {G.LUPDATE: G.LUPDATE},
    Cmd.LAUNCH_UPDATE_VMSA: {G.LUPDATE: G.LUPDATE},
    Cmd.LAUNCH_MEASURE: {G.LUPDATE: G.LSECRET},
    Cmd.LAUNCH_SECRET: {G.LSECRET: G.LSECRET},
    Cmd.LAUNCH_FINISH: {G.LSECRET: G.RUNNING},
    Cmd.ATTESTATION: {state: state for state in (G.LSECRET, G.RUNNING, G.SUPDATE, G.SENT)},
    Cmd.SEND_START: {G.RUNNING: G.SUPDATE},
    Cmd.SEND_UPDATE_DATA: {G.SUPDATE: G.SUPDATE},
    Cmd.SEND_UPDATE_VMSA: {G.SUPDATE: G.SUPDATE},
    Cmd.SEND_FINISH: {G.SUPDATE: G.SENT},
    Cmd.SEND_CANCEL: {G.SUPDATE: G.RUNNING},
    Cmd.RECEIVE_START: {G.UNINIT: G.RUPDATE},
    Cmd.RECEIVE_UPDATE_DATA: {G.RUPDATE: G.RUPDATE},
    Cmd.RECEIVE_UPDATE_VMSA: {G.RUPDATE: G.RUPDATE},
    Cmd.RECEIVE_FINISH: {G.RUPDATE: G.RUNNING},
    Cmd.ACTIVATE: {state: state for state in _LIVING if state is not G.SENT},
    Cmd.DEACTIVATE: _ANY,
    Cmd.DECOMMISSION: {state: G.UNINIT for state in _LIVING},
    Cmd.COPY: _ANY,
    Cmd.DBG_DECRYPT: _ANY,
    Cmd.DBG_ENCRYPT: _ANY,
    Cmd.GUEST_STATUS: {G.UNINIT: G.UNINIT, **_ANY},  # an unknown handle is answered, not refused
}

# The API version, (major, minor), that first had the command; the others were always there.
SINCE: Mapping[int, tuple[int, int]] = {
    Cmd.GET_ID: (0, 16),
    Cmd.COPY: (0, 17),
    Cmd.ATTESTATION: (0, 22),
    Cmd.SEND_CANCEL: (0, 22),
    Cmd.INIT_EX: (0, 23),
}


def knows(api: tuple[int, ...], cmd: int) -> bool:
    """Does firmware of this API version have the command?"""
    return api[:2] >= SINCE.get(cmd, (0, 0))


def platform_after(cmd: int, state: PlatformState, guests: Sized) -> PlatformState:
    """The platform's state after `cmd` has succeeded in `state`, with `guests` left.

    The one transition that no row can say: WORKING means that there is a guest,
    so the last DECOMMISSION takes the platform back to INIT.
    """
    if cmd == Cmd.DECOMMISSION and not guests:
        return P.INIT
    return PLATFORM[cmd][state]
