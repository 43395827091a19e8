"""VMGEXIT, request by request: what must be vouched for, what is answered, and what a malformed one gets."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from itertools import combinations

import pytest
from kvm.guests import Guest
from kvm.vmgexits import CODE_FIELDS, GHCB, SCRATCH, Asks, by_msr, request
from sev_rig import Rig, refuses

from sevlab.abi import ghcb as abi
from sevlab.abi.ghcb import VALID_BITS
from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_EXIT_SYSTEM_EVENT,
    kvm_cpuid_entry2,
    kvm_run_system_event,
)
from sevlab.hw.isa import hlt, load, program, store, vmgexit, wrmsr
from sevlab.kvm import designs
from sevlab.kvm.ghcb import VmgexitEnter, VmgexitExit
from sevlab.kvm.vmgexit import VMGEXITS

USAGE, SCRATCH_AREA, MISSING, INPUT, EVENT = 2, 3, 4, 5, 6
GP_ASKED, UD_ASKED = (1, 0x8000_030D), (1, 0x8000_0306)

# Every request in each of its shapes: (info1, what KVM must find vouched for). G5, written down once more, by hand.
SHAPES: list[tuple[int, int, tuple[str, ...]]] = [
    (0x27, 0, ()), (0x37, 0, ("rax",)), (0x6E, 0, ()), (0x6F, 0, ("rcx",)), (0x72, 0, ("rax", "rcx")), (0x76, 0, ()),
    (0x7B, 0x3F8 << 16 | 1 << 4, ("rax",)), (0x7B, 0x60 << 16 | 1 << 4 | 1, ()),
    (0x7B, 0x3F8 << 16 | 1 << 4 | 4, ("sw_scratch",)), (0x7B, 0x60 << 16 | 1 << 4 | 5, ("sw_scratch",)),
    (0x7C, 0, ("rcx",)), (0x7C, 1, ("rcx", "rax", "rdx")), (0x81, 0, ("rax", "cpl")), (0x87, 0, ()), (0x89, 0, ()),
    (0x8A, 0, ("rax", "rcx", "rdx")), (0x8B, 0, ("rax", "rcx")),
    (0x8000_0001, 0xFED0_0000, ("sw_scratch",)), (0x8000_0002, 0xFED0_0000, ("sw_scratch",)),
    (0x8000_0003, 0, ()), (0x8000_0004, 0, ()), (0x8000_0005, 1, ()), (0x8000_FFFF, 0, ()),
]  # fmt: skip
V2_SHAPES = [(0x8000_FFFD, 0, ()), (0x8000_FFFE, 0, ())]
SNP_ONLY = (0x8000_0010, 0x8000_0011, 0x8000_0012, 0x8000_0013)
LINUX = {"6.1": designs.LINUX_6_1, "6.12": designs.LINUX_6_12}


def named(shape: tuple[int, int, tuple[str, ...]]) -> str:
    return f"{VMGEXITS[shape[0]].name}-{shape[1]:x}"


def vouched(needs: tuple[str, ...]) -> dict[str, int]:
    return {name: SCRATCH if name == "sw_scratch" else 0 for name in needs}


# ------------------------------------------------------------------ the rules


def test_the_table_of_requests_is_the_specifications() -> None:
    assert {code for code, *_ in SHAPES + V2_SHAPES} | set(SNP_ONLY) == set(VMGEXITS) == set(abi.EXITS)
    assert {code: row.name for code, row in VMGEXITS.items()} == {code: row.name for code, row in abi.EXITS.items()}


@pytest.mark.parametrize("release", LINUX)
@pytest.mark.parametrize("shape", SHAPES + V2_SHAPES, ids=named)
def test_each_request_with_each_valid_bit_missing(
    make_rig: Callable[..., Rig], shape: tuple[int, int, tuple[str, ...]], release: str
) -> None:
    code, info_1, needs = shape
    requests = [request(code, info_1, drop=(name,), **vouched(needs)) for name in (*CODE_FIELDS, *needs)]
    guest = Asks(make_rig(LINUX[release]), *requests)

    unknown = release == "6.1" and shape in V2_SHAPES
    assert [guest.ask() for _ in CODE_FIELDS] == [(2, MISSING)] * 3
    assert [guest.ask() for _ in needs] == [(2, EVENT if unknown else MISSING)] * len(needs)


@pytest.mark.parametrize("shape", SHAPES, ids=named)
def test_each_request_that_is_well_formed_misses_nothing(rig: Rig, shape: tuple[int, int, tuple[str, ...]]) -> None:
    code, info_1, needs = shape
    guest = Asks(rig, request(code, info_1, 1, **vouched(needs)))
    if code == 0x8000_FFFF:
        with refuses(EINVAL):
            guest.run()
        return
    expected = {0x7B: KVM_EXIT_IO, 0x8000_0001: KVM_EXIT_MMIO, 0x8000_0002: KVM_EXIT_MMIO, 0x8000_0004: 32}.get(code, KVM_EXIT_HLT)

    assert guest.run() == expected
    assert expected != KVM_EXIT_HLT or (guest.answer.sw_exit_info_1, guest.answer.sw_exit_info_2) != (2, MISSING)


@pytest.mark.parametrize("field", ["rbx", "rsi", "rbp", "rdi", "r8", "xcr0", "cpl"])
def test_a_field_that_a_request_does_not_need_is_not_asked_for(rig: Rig, field: str) -> None:
    guest = Asks(rig, request(0x72, rax=1, rcx=0), request(0x72, rax=1, rcx=0, **{field: 7}))

    assert [guest.ask(), guest.ask()] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("leaf, drop, answer", [(0xD, ("xcr0",), (2, MISSING)), (0xD, (), (0, 0)), (0xC, ("xcr0",), (0, 0))])
def test_one_leaf_of_cpuid_needs_xcr0(rig: Rig, leaf: int, drop: tuple[str, ...], answer: tuple[int, int]) -> None:
    assert Asks(rig, request(0x72, rax=leaf, rcx=0, xcr0=7, drop=drop)).ask() == answer


@pytest.mark.parametrize(
    "code", [0, 1, 0x26, 0x60, 0x78, 0x7F, 0x400, 0x403, 0x8000_0000, 0x8000_0006, 0x8000_00FF, 1 << 40, 0x72 | 1 << 32]
)
def test_a_code_that_is_no_request_is_an_invalid_event(rig: Rig, code: int) -> None:
    guest = Asks(rig, request(code))

    assert guest.ask() == (2, EVENT) and rig.kernel.dmesg[-1] == f"vmgexit: exit code {code:#x} is not valid"


@pytest.mark.parametrize("code", [*SNP_ONLY, 0x8000_FFFD, 0x8000_FFFE])
def test_what_came_with_version_2_is_unknown_before(rig: Rig, code: int) -> None:
    assert Asks(rig, request(code, sw_scratch=SCRATCH, rax=0)).ask() == (2, EVENT)


@pytest.mark.parametrize("code", SNP_ONLY)
def test_what_only_sev_snp_guests_may_ask_is_missing_input_for_others(make_rig: Callable[..., Rig], code: int) -> None:
    assert Asks(make_rig(designs.LINUX_6_12), request(code, sw_scratch=SCRATCH, rax=0)).ask() == (2, MISSING)


# The ladder, from its top: what each rung is broken by, and what it answers.
RUNGS = [
    ("usage", USAGE),
    ("code not vouched for", MISSING),
    ("unknown code", EVENT),
    ("input not vouched for", MISSING),
]


@pytest.mark.parametrize("upper, lower", list(combinations(range(len(RUNGS)), 2)))
def test_of_two_things_wrong_the_upper_one_answers(rig: Rig, upper: int, lower: int) -> None:
    broken = {upper, lower}
    code = 0x999 if 2 in broken else 0x72
    drop = (("sw_exit_code",) if 1 in broken else ()) + (("rcx",) if 3 in broken else ())
    guest = Asks(rig, request(code, usage=int(0 in broken), rax=1, rcx=0, drop=drop))

    assert guest.ask() == (2, RUNGS[upper][1])


@pytest.mark.parametrize("what", ["usage", "missing", "event"])
def test_until_5_15_a_malformed_request_ended_the_run(make_rig: Callable[..., Rig], what: str) -> None:
    pieces = {"usage": request(0x72, usage=1, rax=1, rcx=0), "missing": request(0x72), "event": request(0x999)}[what]
    guest = Asks(make_rig(designs.LINUX_5_13), pieces)

    with refuses(EINVAL):
        guest.run()

    assert guest.reason() == KVM_EXIT_INTERNAL_ERROR


def test_after_a_malformed_request_the_guest_may_ask_again(rig: Rig) -> None:
    guest = Asks(rig, request(0x999), request(0x72, rax=1, rcx=0))

    assert [guest.ask(), guest.ask()] == [(2, EVENT), (0, 0)]


# ------------------------------------------------------------------ the answers


def test_cpuid_gives_four_registers_with_their_bits(rig: Rig) -> None:
    guest = Asks(rig, request(0x72, rax=7, rcx=1))
    guest.set_cpuid(kvm_cpuid_entry2(7, 1, 1, eax=1, ebx=2, ecx=3, edx=4))

    assert guest.ask() == (0, 0)
    answer = guest.answer
    assert (answer.rax, answer.rbx, answer.rcx, answer.rdx) == (1, 2, 3, 4)
    assert all(answer.is_valid(name) for name in ("rax", "rbx", "rcx", "rdx", "sw_exit_info_1", "sw_exit_info_2"))


def test_four_registers_come_back_with_their_bits_whatever_was_asked(rig: Rig) -> None:
    guest = Asks(rig, request(0x89, rsi=5, rbp=6))
    guest.ask()

    valid = int.from_bytes(guest.answer.valid_bitmap, "little")
    assert valid == sum(1 << VALID_BITS[name] for name in ("rax", "rbx", "rcx", "rdx", "sw_exit_info_1", "sw_exit_info_2"))


def test_what_is_not_vouched_for_is_zero_for_the_host(rig: Rig) -> None:
    guest = Asks(rig, request(0x72, rax=1, rcx=0, rbx=9, rsi=8, r8=7, drop=("rbx",)))
    guest.set_cpuid()
    guest.ask()

    regs = guest.regs()
    assert (regs.rbx, regs.rsi, regs.r8, regs.rip, regs.rsp) == (0, 8, 0, 0, 0)


@pytest.mark.parametrize("write", [0, 1])
def test_a_register_that_is_not_there_is_an_exception_for_the_guest_to_raise(rig: Rig, write: int) -> None:
    assert Asks(rig, request(0x7C, write, rcx=0x1234, rax=0, rdx=0)).ask() == GP_ASKED


def test_a_register_that_is_there_keeps_what_is_written(rig: Rig) -> None:
    guest = Asks(rig, request(0x7C, 1, rcx=0xC000_0081, rax=0x1234, rdx=0x5678), request(0x7C, rcx=0xC000_0081))

    assert [guest.ask(), guest.ask()] == [(0, 0), (0, 0)]
    assert (guest.answer.rax, guest.answer.rdx) == (0x1234, 0x5678)


def test_dr7_is_the_guests_own_word(rig: Rig) -> None:
    guest = Asks(rig, request(0x37, rax=0x455), request(0x27), request(0x37, rax=1 << 32))

    assert [guest.ask(), guest.ask()] == [(0, 0)] * 2 and guest.answer.rax == 0x455
    assert guest.ask() == GP_ASKED


@pytest.mark.parametrize("code, answer", [(0x6F, GP_ASKED), (0x87, UD_ASKED)])
def test_instructions_that_the_guest_shall_not_have(rig: Rig, code: int, answer: tuple[int, int]) -> None:
    assert Asks(rig, request(code, rcx=0)).ask() == answer


def test_the_time_is_the_virtual_clocks(rig: Rig) -> None:
    guest = Asks(rig, request(0x6E))

    before = rig.soc.clock.now
    guest.ask()
    assert before < guest.answer.rdx << 32 | guest.answer.rax <= rig.soc.clock.now


def test_a_hypercall_that_nobody_knows_answers_so(rig: Rig) -> None:
    guest = Asks(rig, request(0x81, rax=99, cpl=0))

    assert guest.ask() == (0, 0) and guest.answer.rax == -1000 & (1 << 64) - 1


def test_the_features_of_version_2(make_rig: Callable[..., Rig]) -> None:
    assert Asks(make_rig(designs.LINUX_6_12), request(0x8000_FFFD)).ask() == (0, 3)


def test_a_termination_by_event_is_a_system_event(make_rig: Callable[..., Rig]) -> None:
    guest = Asks(make_rig(designs.LINUX_6_12), request(0x8000_FFFE, 1, 2))

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT
    event = guest.detail(kvm_run_system_event)
    assert (event.type, event.ndata, event.data[0]) == (6, 1, GHCB)


def test_an_event_that_the_guest_cannot_handle_ends_the_run(rig: Rig) -> None:
    guest = Asks(rig, request(0x8000_FFFF, 0x4D, 0x11))

    with refuses(EINVAL):
        guest.run()
    assert rig.kernel.dmesg[-1] == "vmgexit: unsupported event - exit_info_1=0x4d, exit_info_2=0x11"
    assert guest.run() == KVM_EXIT_HLT  # the VM is not dead: who runs it again goes on behind the request


def test_the_jump_tables_address_is_kept_for_the_vm(rig: Rig) -> None:
    guest = Asks(rig, request(0x8000_0005, 0, 0x7000), request(0x8000_0005, 1), request(0x8000_0005, 2))

    assert [guest.ask(), guest.ask(), guest.ask()] == [(0, 0), (0, 0x7000), (2, INPUT)]


# ------------------------------------------------------------------ where the page is


@pytest.mark.parametrize(
    "gpa, line", [(0, "vmgexit: GHCB gpa is not set"), (0x7000_0000, "vmgexit: error mapping GHCB [0x70000000] from guest")]
)
def test_without_a_page_there_is_nowhere_to_answer(rig: Rig, gpa: int, line: str) -> None:
    from kvm.guests import Guest

    guest = Guest(rig, by_msr, (gpa,), kind="es")

    assert guest.run() == KVM_EXIT_HLT and rig.kernel.dmesg[-1] == line
    assert int.from_bytes(guest.read(0x1000, 8), "little") == gpa


def test_a_page_under_the_guests_own_key_says_nothing_to_the_host(rig: Rig) -> None:
    @program
    async def secretive() -> None:
        await wrmsr(0xC001_0130, 0x3000)
        await store(0x3000, bytes(4096), c=True)
        await vmgexit()
        await store(0x1000, await load(0x3398, 16, c=True), c=False)
        await hlt()

    guest = Guest(rig, secretive, kind="es")

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 16) not in (bytes(16), (2).to_bytes(8, "little") * 2)


def test_the_hosts_memory_slot_counts_and_not_its_nested_table(rig: Rig) -> None:
    guest = Asks(rig, request(0x72, rax=1, rcx=0))
    file = rig.file(guest.vm)
    elsewhere = file.mm.page(guest.memory + 0x9000) << 12
    file.npt.remap(GHCB, elsewhere)

    assert guest.run() == KVM_EXIT_HLT
    assert (guest.answer.sw_exit_info_2 == 0 and not guest.answer.is_valid("rax")) or guest.answer.sw_exit_info_1 == 2


def test_every_request_is_two_rows_of_the_trace(rig: Rig) -> None:
    guest = Asks(rig, request(0x72, rax=1, rcx=0))
    guest.ask()

    (entered,), (left,) = rig.rows(VmgexitEnter), rig.rows(VmgexitExit)
    assert (entered["exit_reason"], left["exit_reason"]) == (0x72, 0x72)
