"""The order of the checks: with two things wrong at once, the upper one answers, and nothing is remembered.

A ladder lists a command's rules from the top down, each as (what is spoilt, the
status, how to spoil it). The sources are firmware.md 1.5 and 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from psp.machine import CERT, DATA, HEADER, MEMORY, MIB, NV, OUT, SESSION, TMR, Machine, good, off_curve, owner_oca

from sevlab.abi import sev
from sevlab.abi.cert import SevCert
from sevlab.abi.session import PacketHeader, Session
from sevlab.abi.sev import POLICY_NOKS, Cmd, GuestState, PlatformState, Status
from sevlab.psp.identity import signed
from sevlab.psp.store import EMPTY
from sevlab.wire import Wire

Spoil = Callable[[Machine, Any], object]
Rung = tuple[str, Status, Spoil]

S = Status
BEYOND = 1 << 40


def field(**values: int) -> Spoil:
    """Set fields of the command buffer."""
    return lambda m, buffer: [setattr(buffer, name, value) for name, value in values.items()]


def guest(**values: Any) -> Spoil:
    """Set what the firmware remembers of guest 1."""
    return lambda m, buffer: [setattr(m.psp.guests[1], name, value) for name, value in values.items()]


def platform(**values: Any) -> Spoil:
    return lambda m, buffer: [setattr(m.psp, name, value) for name, value in values.items()]


def in_memory(kind: type[Wire], hpa: int, **values: Any) -> Spoil:
    """Change fields of a structure that lies in memory."""
    return lambda m, buffer: m.dram.write(hpa, kind.unpack(m.dram.read(hpa, kind.SIZE)).replace(**values).pack())


def flip(hpa: int) -> Spoil:
    return lambda m, buffer: m.dram.write(hpa, bytes((m.dram.read(hpa, 1)[0] ^ 1,)))


def slot(asid: int) -> Spoil:
    """The last to go: leave the guest without a slot, as DEACTIVATE would."""
    return guest(asid=asid)


def policy(word: int) -> Spoil:
    """The same LAUNCH_START with a session for another policy."""

    def spoil(m: Machine, buffer: sev.LaunchStart) -> None:
        buffer.policy |= word
        m.with_session(buffer.policy)

    return spoil


def sharing(noks: int, differs: int) -> Spoil:
    """Share the key of another guest, whose policy forbids it or differs."""

    def spoil(m: Machine, buffer: sev.LaunchStart) -> None:
        policy(noks)(m, buffer)
        buffer.handle = 1 if m.psp.guests else m.start()
        m.psp.guests[buffer.handle].policy = buffer.policy ^ differs

    return spoil


def all_handles(m: Machine, buffer: Any) -> None:
    m.start()
    m.psp.guests.update(dict.fromkeys(range(1, 1025), m.psp.guests[1]))


def compressed(m: Machine, buffer: sev.Packet) -> None:
    m.with_secret(1, flags=1)


def imported(**pek: Any) -> Spoil:
    """A PEK that the owner's OCA has signed, with fields changed before."""
    return lambda m, buffer: m.with_import(**pek)


def own_oca(**fields: Any) -> Spoil:
    return lambda m, buffer: m.dram.write(SESSION, owner_oca(**fields).cert.pack())


def foreign_pek(m: Machine, buffer: Any) -> None:
    """A PEK of another platform, properly signed by the owner's OCA."""
    other = Machine(seed=8).up()
    other.with_import()
    m.dram.write(CERT, other.dram.read(CERT, 2084))


def pek_signed_by_another(m: Machine, buffer: Any) -> None:
    csr = SevCert.unpack(m.dram.read(OUT, 2084))
    m.dram.write(CERT, signed(csr, 1, owner_oca()._replace(d=77)).pack())


DOWN: Rung = ("platform down", S.INVALID_PLATFORM_STATE, platform(state=PlatformState.UNINIT))
UP: Rung = ("platform up", S.INVALID_PLATFORM_STATE, platform(state=PlatformState.INIT))
UNKNOWN: Rung = ("unknown handle", S.INVALID_GUEST, field(handle=9))
INACTIVE: Rung = ("inactive", S.INACTIVE, slot(0))


def wrong_state(state: GuestState = GuestState.RUPDATE) -> Rung:
    return ("guest state", S.INVALID_GUEST_STATE, guest(state=state))


TMR_RUNGS: list[Rung] = [
    ("TMR askew", S.INVALID_ADDRESS, field(tmr_paddr=TMR + 0x1000)),
    ("TMR length", S.INVALID_LEN, field(tmr_len=MIB - 1)),
]

LADDERS: dict[Cmd, list[Rung]] = {
    Cmd.INIT: [
        UP,
        ("unknown flag", S.INVALID_CONFIG, field(flags=3)),
        ("flash corrupt", S.SECURE_DATA_INVALID, lambda m, b: m.psp.nv.write(b"x" + EMPTY[1:])),
        *TMR_RUNGS,
    ],
    Cmd.INIT_EX: [
        UP,
        ("unknown flag", S.INVALID_CONFIG, field(flags=0x80000001)),
        ("ex length", S.INVALID_LEN, field(length=0x20)),
        ("area askew", S.INVALID_ADDRESS, field(nv_paddr=NV + 16)),
        ("area length", S.INVALID_LEN, field(nv_len=0x7FFF)),
        ("area corrupt", S.SECURE_DATA_INVALID, lambda m, b: flip(b.nv_paddr + 77)(m, b)),
        *TMR_RUNGS,
        ("area in the TMR", S.INVALID_ADDRESS, lambda m, b: (m.dram.write(TMR, EMPTY), setattr(b, "nv_paddr", TMR))),
    ],
    Cmd.PLATFORM_RESET: [UP],
    Cmd.PEK_GEN: [DOWN],
    Cmd.PDH_GEN: [DOWN],
    Cmd.PEK_CSR: [
        DOWN,
        ("no room", S.INVALID_LEN, field(len=2083)),
        ("address", S.INVALID_ADDRESS, field(paddr=BEYOND)),
    ],
    Cmd.PEK_CERT_IMPORT: [
        DOWN,
        ("owned", S.ALREADY_OWNED, lambda m, b: setattr(m.psp, "keys", m.psp.keys._replace(owner=1))),
        ("PEK length", S.INVALID_LEN, field(pek_len=2083)),
        ("OCA length", S.INVALID_LEN, field(oca_len=2085)),
        ("PEK address", S.INVALID_ADDRESS, field(pek_paddr=BEYOND)),
        ("OCA address", S.INVALID_ADDRESS, field(oca_paddr=MEMORY - 2083)),
        ("OCA key", S.INVALID_CERTIFICATE, own_oca(**off_curve())),
        ("OCA slot half empty", S.BAD_SIGNATURE, in_memory(SevCert, SESSION, sig2_algo=2)),
        ("OCA not signed by itself", S.BAD_SIGNATURE, flip(SESSION + 0x41C)),
        ("OCA version", S.INVALID_CERTIFICATE, own_oca(version=2)),
        ("PEK names another parent", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, sig1_usage=0x1004)),
        ("PEK signed by another", S.BAD_SIGNATURE, pek_signed_by_another),
        ("PEK version", S.INVALID_CERTIFICATE, imported(version=0)),
        ("PEK usage", S.INVALID_CERTIFICATE, imported(usage=0x1003)),
        ("PEK of another platform", S.INVALID_CERTIFICATE, foreign_pek),
    ],
    Cmd.PDH_CERT_EXPORT: [
        DOWN,
        ("no room for the PDH", S.INVALID_LEN, field(pdh_len=0)),
        ("no room for the chain", S.INVALID_LEN, field(chain_len=6251)),
        ("PDH address", S.INVALID_ADDRESS, field(pdh_paddr=BEYOND)),
        ("chain address", S.INVALID_ADDRESS, field(chain_paddr=BEYOND)),
    ],
    Cmd.GET_ID: [
        ("no room", S.INVALID_LEN, field(len=63)),
        ("address", S.INVALID_ADDRESS, field(paddr=MEMORY - 63)),
    ],
    Cmd.DF_FLUSH: [
        DOWN,
        ("caches full", S.WBINVD_REQUIRED, lambda m, b: setattr(m.soc, "written_back", False)),
    ],
    Cmd.LAUNCH_START: [
        DOWN,
        ("session length", S.INVALID_LEN, field(session_len=127)),
        ("certificate length", S.INVALID_LEN, field(dh_cert_len=2083)),
        ("certificate address", S.INVALID_ADDRESS, field(dh_cert_paddr=BEYOND)),
        ("session address", S.INVALID_ADDRESS, field(session_paddr=BEYOND)),
        ("certificate version", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, version=2)),
        ("certificate key", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, **off_curve())),
        ("certificate curve", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, curve=1)),
        ("certificate usage", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, usage=0x1002)),
        ("certificate algorithm", S.INVALID_CERTIFICATE, in_memory(SevCert, CERT, algo=0x103)),
        ("wrap MAC", S.BAD_MEASUREMENT, in_memory(Session, SESSION, wrap_mac=bytes(32))),
        ("policy MAC", S.BAD_MEASUREMENT, in_memory(Session, SESSION, policy_mac=bytes(32))),
        ("policy wants newer firmware", S.POLICY_FAILURE, policy(0xFF000004)),
        ("policy reserved bit", S.POLICY_FAILURE, policy(0x8004)),
        ("unknown guest to share with", S.INVALID_GUEST, field(handle=2000)),
        ("guest of another policy", S.POLICY_FAILURE, sharing(0, differs=1)),
        ("guest that shares no key", S.POLICY_FAILURE, sharing(POLICY_NOKS, differs=0)),
        ("no handle left", S.RESOURCE_LIMIT, all_handles),
        ("no SEV-ES", S.UNSUPPORTED, platform(es=False)),
    ],
    Cmd.LAUNCH_UPDATE_DATA: [
        DOWN,
        UNKNOWN,
        wrong_state(),
        INACTIVE,
        ("address askew", S.INVALID_ADDRESS, field(paddr=DATA + 8)),
        ("address outside", S.INVALID_ADDRESS, field(paddr=BEYOND)),
        ("length", S.INVALID_LEN, field(len=0x1008)),
        ("no length", S.INVALID_LEN, field(len=0)),
    ],
    Cmd.LAUNCH_UPDATE_VMSA: [
        DOWN,
        ("length", S.INVALID_LEN, field(len=0x2000)),
        UNKNOWN,
        wrong_state(),
        ("no ES", S.UNSUPPORTED, guest(policy=0)),
        INACTIVE,
        ("address", S.INVALID_ADDRESS, field(paddr=DATA + 8)),
    ],
    Cmd.LAUNCH_MEASURE: [
        DOWN,
        UNKNOWN,
        wrong_state(),
        ("no room", S.INVALID_LEN, field(len=47)),
        ("address", S.INVALID_ADDRESS, field(paddr=BEYOND)),
    ],
    Cmd.LAUNCH_SECRET: [
        DOWN,
        UNKNOWN,
        ("guest address askew", S.INVALID_ADDRESS, field(guest_paddr=DATA + 1)),
        ("header length", S.INVALID_LEN, field(hdr_len=51)),
        ("guest length", S.INVALID_LEN, field(guest_len=24, trans_len=24)),
        ("no guest length", S.INVALID_LEN, field(guest_len=0, trans_len=0)),
        ("too long", S.INVALID_LEN, field(guest_len=0x5010, trans_len=0x5010)),
        ("lengths differ", S.INVALID_LEN, field(trans_len=48)),
        ("guest address outside", S.INVALID_ADDRESS, field(guest_paddr=MEMORY - 16)),
        ("header address", S.INVALID_ADDRESS, field(hdr_paddr=BEYOND)),
        ("packet address", S.INVALID_ADDRESS, field(trans_paddr=BEYOND)),
        wrong_state(),
        INACTIVE,
        ("MAC", S.BAD_MEASUREMENT, in_memory(PacketHeader, HEADER, mac=bytes(32))),
        ("compressed", S.UNSUPPORTED, compressed),
    ],
    Cmd.LAUNCH_FINISH: [DOWN, UNKNOWN, wrong_state()],
    Cmd.ATTESTATION: [
        DOWN,
        UNKNOWN,
        wrong_state(),
        ("no room", S.INVALID_LEN, field(len=207)),
        ("address", S.INVALID_ADDRESS, field(paddr=BEYOND)),
    ],
    Cmd.ACTIVATE: [
        DOWN,
        UNKNOWN,
        ("ASID 0", S.INVALID_ASID, field(asid=0)),
        ("ASID beyond the chip's", S.INVALID_ASID, field(asid=510)),
        ("ASID in use", S.ASID_OWNED, lambda m, b: m.psp.asids.take(b.asid, 2)),
        ("active", S.ACTIVE, slot(200)),
        wrong_state(GuestState.SENT),
        ("dirty", S.DFFLUSH_REQUIRED, lambda m, b: m.psp.asids.release(b.asid)),
        ("slot of SEV-ES", S.INVALID_ASID, field(asid=99)),
    ],
    Cmd.DEACTIVATE: [DOWN, UNKNOWN, INACTIVE],
    Cmd.DECOMMISSION: [DOWN, UNKNOWN, ("active", S.ACTIVE, slot(200))],
    Cmd.GUEST_STATUS: [DOWN],
    Cmd.COPY: [
        DOWN,
        UNKNOWN,
        INACTIVE,
        ("no length", S.INVALID_LEN, field(len=0)),
        ("length", S.INVALID_LEN, field(len=0x1800)),
        ("source", S.INVALID_ADDRESS, field(src_paddr=DATA + 16)),
        ("destination", S.INVALID_ADDRESS, field(dst_paddr=BEYOND)),
    ],
    **{
        cmd: [
            DOWN,
            ("source", S.INVALID_ADDRESS, field(src_paddr=DATA + 8)),
            ("destination", S.INVALID_ADDRESS, field(dst_paddr=BEYOND)),
            ("length", S.INVALID_LEN, field(len=40)),
            UNKNOWN,
            ("no debugging", S.POLICY_FAILURE, guest(policy=1)),
            INACTIVE,
        ]
        for cmd in (Cmd.DBG_DECRYPT, Cmd.DBG_ENCRYPT)
    },
}

SINGLE = [(cmd, rung) for cmd, ladder in LADDERS.items() for rung in ladder]
PAIRS = [(cmd, upper, lower) for cmd, ladder in LADDERS.items() for upper, lower in combinations(ladder, 2)]


def spoilt(cmd: Cmd, *rungs: Rung) -> tuple[Machine, Any]:
    """A good situation with some rules broken, the lowest first."""
    machine, buffer = good(cmd)
    for _, _, spoil in reversed(rungs):
        spoil(machine, buffer)
    return machine, buffer


def says(value: Any) -> str:
    return value.name if isinstance(value, Cmd) else value[0]


@pytest.mark.parametrize(("cmd", "rung"), SINGLE, ids=says)
def test_each_rule_refuses_by_itself_and_leaves_no_mark(cmd: Cmd, rung: Rung) -> None:
    machine, buffer = spoilt(cmd, rung)
    before = machine.remembered()

    assert machine(cmd, buffer) is rung[1], machine.psp.why
    after = machine.remembered()
    if rung[1] is S.SECURE_DATA_INVALID:  # the original erases what it cannot read
        area = machine.psp.nv.read() if cmd == Cmd.INIT else machine.dram.read(NV, sev.NV_LEN)
        assert area == EMPTY
        before["nv"] = after["nv"]
        before["memory"] = after["memory"]
    assert after == before


@pytest.mark.parametrize(("cmd", "upper", "lower"), PAIRS, ids=says)
def test_with_two_things_wrong_the_upper_rule_answers(cmd: Cmd, upper: Rung, lower: Rung) -> None:
    alone, buffer = spoilt(cmd, upper)
    assert alone(cmd, buffer) is upper[1]
    machine, buffer = spoilt(cmd, upper, lower)

    assert machine(cmd, buffer) is upper[1]
    assert machine.psp.why == alone.psp.why


def test_every_command_that_can_refuse_has_a_ladder() -> None:
    assert set(LADDERS) | {Cmd.SHUTDOWN, Cmd.PLATFORM_STATUS, Cmd.NOP} == set(sev.Cmd) & set(Machine().psp.commands)
