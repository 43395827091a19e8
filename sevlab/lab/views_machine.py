"""What a Machine shows of a host: the firmware's two state machines from their own tables, key slots, and mp_state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from sevlab.abi.kvm import MP_STATE_NAMES
from sevlab.abi.sev import Cmd, GuestState, PlatformState, cmd_name
from sevlab.host import Host
from sevlab.lab.views import Picture, View, facts
from sevlab.lab.views_topology import vm_names
from sevlab.psp import states
from sevlab.psp.asids import AsidState

# Where the states stand, (column, row): the tables have no places.
PLATFORM_AT = {PlatformState.UNINIT: (0, 0), PlatformState.INIT: (1, 0), PlatformState.WORKING: (2, 0)}
GUEST_AT = {
    GuestState.UNINIT: (0, 0), GuestState.LUPDATE: (1, 0), GuestState.LSECRET: (2, 0), GuestState.RUNNING: (3, 0),
    GuestState.SUPDATE: (4, 0), GuestState.SENT: (5, 0), GuestState.RUPDATE: (1.55, 1),
}  # fmt: skip
LAST = "of the last guest"
NOWHERE = "DECOMMISSION leads here from every other state"


def _table(made: Any, table: Mapping[int, Mapping[Any, Any]], hidden: tuple[int, ...] = ()) -> list[Any]:
    """A firmware table as edges."""
    return [
        made.Edge(before.name, after.name, cmd_name(cmd))
        for cmd, row in table.items() if cmd not in hidden for before, after in row.items()
    ]  # fmt: skip


def diagrams(made: Any) -> list[Any]:
    """The four machines as `made` (the widget's module) wants them."""
    platform = _table(made, states.PLATFORM, (Cmd.DECOMMISSION,))
    last = states.platform_after(Cmd.DECOMMISSION, PlatformState.WORKING, ())
    platform.append(made.Edge("WORKING", last.name, "DECOMMISSION", LAST))
    guest = [edge for edge in _table(made, states.GUEST, (Cmd.DECOMMISSION,))]
    slots = [
        made.Edge("invalid", "dirty", "INIT"), made.Edge("dirty", "clean", "DF_FLUSH"), made.Edge("clean", "used", "ACTIVATE"),
        made.Edge("used", "dirty", "DEACTIVATE"),
    ]  # fmt: skip
    mp = [
        made.Edge("UNINITIALIZED", "INIT_RECEIVED", "INIT"), made.Edge("INIT_RECEIVED", "RUNNABLE", "SIPI"),
        made.Edge("RUNNABLE", "HALTED", "HLT"), made.Edge("HALTED", "RUNNABLE", "interrupt"),
        made.Edge("RUNNABLE", "AP_RESET_HOLD", "AP reset hold", "sealed guests only"),
        made.Edge("UNINITIALIZED", "UNINITIALIZED", "SIPI", "the message is dropped"),
    ]  # fmt: skip
    return [
        made.Diagram("platform", [made.State(s.name, *at) for s, at in PLATFORM_AT.items()], platform),
        made.Diagram(
            "guest",
            [made.State(s.name, *at, NOWHERE if s is GuestState.UNINIT else "") for s, at in GUEST_AT.items()],
            guest,
            "No guest yet. LAUNCH_START puts one here.",
        ),
        made.Diagram(
            "key slots",
            [
                made.State(s.name.lower(), i)
                for i, s in enumerate((AsidState.INVALID, AsidState.DIRTY, AsidState.CLEAN, AsidState.USED))
            ],
            slots,
        ),
        made.Diagram(
            "mp_state", [made.State(name, *at) for name, at in MP_AT.items()], mp, "No vCPU yet. KVM_CREATE_VCPU puts one here."
        ),
    ]


MP_AT = {"UNINITIALIZED": (0, 0), "INIT_RECEIVED": (1, 0), "RUNNABLE": (2, 0), "HALTED": (3, 0), "AP_RESET_HOLD": (2.55, 1)}


def tokens(host: Host, made: Any, names: Mapping[int, str] | None = None) -> list[Any]:
    """Who is in which state now."""
    called = vm_names(host, names)
    found = [made.Token("firmware", "platform", host.psp.state.name)]
    whose = {
        vm.sev.handle: called[number]
        for number, vm in host.kernel.vms.items()
        if vm.sev.handle and vm.sev.owner is None and not vm.dead
    }
    moves: dict[int, list[str]] = {}
    for row in host.trace.rows():
        if row["kind"] == "GuestStateChanged" and row["host"] == host.gate.host and row["n"] <= host.n:
            moves.setdefault(row["handle"], []).append(f"{cmd_name(row['cmd'])} in entry {row['n']}")
    for handle, guest in host.psp.guests.items():
        found.append(made.Token(whose.get(handle, f"guest {handle}"), "guest", guest.state.name, 1, tuple(moves.get(handle, ()))))
    for state, count in sorted(Counter(host.psp.asids.states[1:]).items()):
        found.append(made.Token("slots" if count > 1 else "one slot", "key slots", AsidState(state).name.lower(), count))
    for number, vm in host.kernel.vms.items():
        crowds = Counter(_mp(vcpu) for vcpu in vm.vcpus)
        found += [
            made.Token(called[number] if len(vm.vcpus) == 1 else f"of {called[number]}", "mp_state", state, count)
            for state, count in crowds.items()
        ]
    return found


def _mp(vcpu: Any) -> str:
    name = MP_STATE_NAMES.get(vcpu.mp_state, str(vcpu.mp_state)).removeprefix("KVM_MP_STATE_")
    return name if name in MP_AT else "INIT_RECEIVED"


def machine(
    host: Host,
    issue: Callable[[str, str, str], Any] | None = None,
    *,
    ladder: Callable[[str, str, str], Any] | None = None,
    names: Mapping[int, str] | None = None,
) -> View:
    """The four state machines of a host, with a token for each guest and vCPU.

    `issue(machine, command, token)` is called when a reader presses a command that may be given now, `ladder` with the
    same when it may not. `names` gives VMs, by number, a name.
    """

    def widget(module: Any) -> Any:
        return module.Machine(
            diagrams(module), lambda at: tokens(at, module, names), on_command=issue, on_illegal=ladder,
            host=host, facts=facts(host),
        )  # fmt: skip

    def text() -> str:
        found = Picture("states", facts(host))
        for token in tokens(host, _Rows, names):
            found.row(token[1], f"{token[0] if token[3] == 1 else f'{token[3]} {token[0]}'}: {token[2]}")
        return str(found)

    return View("machine", widget, text)


class _Rows:
    """Tokens where no widget is."""

    @staticmethod
    def Token(*parts: Any) -> tuple[Any, ...]:
        return (*parts, *(1, ())[len(parts) - 3 :]) if len(parts) < 5 else parts
