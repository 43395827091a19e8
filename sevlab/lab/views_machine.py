"""What a Machine shows of a host: the firmware's two state machines from their own tables, key slots, and mp_state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from sevlab.abi.kvm import MP_STATE_NAMES, SEV_CMD_NAMES
from sevlab.abi.sev import Cmd, GuestState, PlatformState, cmd_name
from sevlab.host import Host
from sevlab.lab.ladders import Rungs, firmware, ladder
from sevlab.lab.views import Picture, View, facts, imaginary
from sevlab.lab.views_topology import vm_names
from sevlab.psp import states
from sevlab.psp.asids import AsidState

MACHINES = ("platform", "guest", "activation", "mp_state")
# Where the states stand, (column, row): the tables have no places.
PLATFORM_AT = {PlatformState.UNINIT: (0, 0), PlatformState.INIT: (1, 0), PlatformState.WORKING: (2, 0)}
GUEST_AT = {
    GuestState.UNINIT: (0, 0), GuestState.LUPDATE: (1, 0), GuestState.LSECRET: (2, 0), GuestState.RUNNING: (3, 0),
    GuestState.SUPDATE: (4, 0), GuestState.SENT: (5, 0), GuestState.RUPDATE: (1.55, 1),
}  # fmt: skip
SLOT_AT = {AsidState.INVALID: (0, 2), AsidState.DIRTY: (1, 2), AsidState.CLEAN: (2, 2), AsidState.USED: (3, 2)}
SLOTS = {AsidState.INVALID: "no slots", AsidState.DIRTY: "dirty", AsidState.CLEAN: "clean", AsidState.USED: "in use"}
MP_AT = {"UNINITIALIZED": (0, 0), "INIT_RECEIVED": (1, 0), "RUNNABLE": (2, 0), "HALTED": (3, 0), "AP_RESET_HOLD": (3, 1)}
LAST = "of the last guest"
ENDS = "from every state but UNINIT, once the guest is not active"
LATER = "only firmware 1.x has it, before the guest runs"
FEW = 8  # tokens that are drawn one by one
NO_CALL = {
    "INIT": "INIT is a message from another processor: nobody checks it, and whoever gets it starts anew",
    "SIPI": "SIPI is a message from another processor: one that finds no INIT before it is dropped, and nobody is told",
    "HLT": "HLT is an instruction: a processor that runs executes it, and no call makes it",
    "AP reset hold": "a reset hold is asked for by a sealed guest, through its GHCB, and no call makes it",
    "INIT, SIPI": "INIT and SIPI are messages from another processor: they end a reset hold, and nobody here holds",
    "interrupt": "an interrupt wakes a processor that waits, and here none does",
}


def _table(made: Any, table: Mapping[int, Mapping[Any, Any]], hidden: tuple[int, ...] = ()) -> list[Any]:
    """A firmware table as edges."""
    return [
        made.Edge(before.name, after.name, cmd_name(cmd))
        for cmd, row in table.items() if cmd not in hidden for before, after in row.items()
    ]  # fmt: skip


def _platform(made: Any) -> Any:
    edges = _table(made, states.PLATFORM, (Cmd.DECOMMISSION,))
    last = states.platform_after(Cmd.DECOMMISSION, PlatformState.WORKING, ())
    edges.append(made.Edge("WORKING", last.name, "DECOMMISSION", LAST))
    return made.Diagram("platform", [made.State(s.name, *at) for s, at in PLATFORM_AT.items()], edges)


def _guest(made: Any) -> Any:
    edges = _table(made, states.GUEST, (Cmd.DECOMMISSION,))
    edges += [
        made.Edge(before.name, after.name, "DECOMMISSION", ENDS) for before, after in states.GUEST[Cmd.DECOMMISSION].items()
    ]
    at = [made.State(s.name, *at) for s, at in GUEST_AT.items()]
    return made.Diagram("guest", at, edges, "No guest yet. LAUNCH_START puts one here.")


def _activation(made: Any) -> Any:
    """A guest with its key in no slot, on the way, in one; below it the life of a slot (firmware.md 2.2)."""
    guest = [
        made.Edge("inactive", "pending", "ACTIVATE", "", LATER),
        made.Edge("pending", "active", "LAUNCH_FINISH", "", LATER),
        made.Edge("inactive", "active", "ACTIVATE"), made.Edge("active", "inactive", "DEACTIVATE"),
    ]  # fmt: skip
    slot = [
        made.Edge("no slots", "dirty", "INIT"), made.Edge("dirty", "clean", "DF_FLUSH", "every core has done WBINVD before"),
        made.Edge("clean", "in use", "ACTIVATE"), made.Edge("in use", "dirty", "DEACTIVATE"),
    ]  # fmt: skip
    at = [made.State("inactive", 0), made.State("pending", 1.5, 1, "firmware 1.x only"), made.State("active", 3)]
    return made.Diagram("activation", at + [made.State(SLOTS[s], *place) for s, place in SLOT_AT.items()], guest + slot)


def _mp_state(made: Any) -> Any:
    """The table at the head of kvm/mp_state.py."""
    edges = [
        made.Edge("UNINITIALIZED", "INIT_RECEIVED", "INIT"), made.Edge("INIT_RECEIVED", "RUNNABLE", "SIPI"),
        made.Edge("RUNNABLE", "HALTED", "HLT"), made.Edge("HALTED", "RUNNABLE", "interrupt"),
        made.Edge("RUNNABLE", "AP_RESET_HOLD", "AP reset hold", "sealed guests only"),
        made.Edge("AP_RESET_HOLD", "RUNNABLE", "interrupt", "awake, but not called"),
        made.Edge("AP_RESET_HOLD", "RUNNABLE", "INIT, SIPI", "by way of INIT_RECEIVED; the hold is complete"),
        made.Edge("UNINITIALIZED", "UNINITIALIZED", "SIPI", "the message is dropped"),
    ]  # fmt: skip
    at = [made.State(name, *place) for name, place in MP_AT.items()]
    return made.Diagram("mp_state", at, edges, "No vCPU yet. KVM_CREATE_VCPU puts one here.")


def diagrams(made: Any, only: Sequence[str] = ()) -> list[Any]:
    """The machines as `made` (the widget's module) wants them: all four, or those of these names."""
    makers = dict(zip(MACHINES, (_platform, _guest, _activation, _mp_state), strict=True))
    return [makers[name](made) for name in only or MACHINES]


def tokens(host: Host, made: Any, names: Mapping[int, str] | None = None) -> list[Any]:
    """Who is in which state now."""
    called = vm_names(host, names)
    whose = {
        vm.sev.handle: called[number]
        for number, vm in host.kernel.vms.items()
        if vm.sev.handle and vm.sev.owner is None and not vm.dead
    }
    found = [made.Token("firmware", "platform", host.psp.state.name)]
    guests, vcpus = _moves(host)
    for handle, guest in host.psp.guests.items():
        name, moves = whose.get(handle, f"guest {handle}"), tuple(guests.get(handle, ()))
        found.append(made.Token(name, "guest", guest.state.name, 1, moves))
        found.append(made.Token(name, "activation", "active" if guest.asid else "inactive", 1))
    for slot, count in sorted(Counter(host.psp.asids.states[1:]).items()):
        found.append(made.Token("slots" if count > 1 else "one slot", "activation", SLOTS[AsidState(slot)], count))
    few = sum(len(vm.vcpus) for vm in host.kernel.vms.values()) <= FEW
    for number, vm in host.kernel.vms.items():
        crowds = Counter(map(_mp, vm.vcpus))
        for vcpu in vm.vcpus:
            state = _mp(vcpu)
            name = called[number] if len(vm.vcpus) == 1 else f"{called[number]} {vcpu.id}"
            if few or crowds[state] == 1:
                found.append(made.Token(name, "mp_state", state, 1, tuple(vcpus.get((number, vcpu.id), ()))))
            elif crowds[state]:
                found.append(made.Token(f"of {called[number]}", "mp_state", state, crowds[state]))
                crowds[state] = 0
    return found


def _moves(host: Host) -> tuple[dict[int, list[str]], dict[tuple[int, int], list[str]]]:
    """What the trace says of each firmware guest and of each vCPU: which move, in which entry."""
    guests: dict[int, list[str]] = {}
    vcpus: dict[tuple[int, int], list[str]] = {}
    for row in host.trace.rows():
        if row["host"] != host.gate.host or row["n"] > host.n:
            continue
        if row["kind"] == "GuestStateChanged":
            guests.setdefault(row["handle"], []).append(f"{cmd_name(row['cmd'])} in entry {row['n']}")
        elif row["kind"] == "MpState":
            vcpus.setdefault((row["vm"], row["vcpu"]), []).append(f"{_state(row['state'])} in entry {row['n']}")
    return guests, vcpus


def _state(number: int) -> str:
    return MP_STATE_NAMES.get(number, str(number)).removeprefix("KVM_MP_STATE_")


def _mp(vcpu: Any) -> str:
    name = _state(vcpu.mp_state)
    return name if name in MP_AT else "INIT_RECEIVED"


def rungs(host: Host, machine: str, command: str) -> Rungs:
    """The checks of a command that may not be given now: KVM's, where it has the command, else the firmware's alone.

    Raises LookupError in a sentence for what is no call at all.
    """
    if machine == "mp_state":
        raise LookupError(NO_CALL[command])
    if command in SEV_CMD_NAMES.values():
        try:
            return ladder(command, design=host.design)
        except LookupError:  # this kernel has no such sub-command; the firmware knows it all the same
            pass
    return firmware(command)


class MachineView(View):
    """A Machine, and below it the ladder of the command that a reader pressed and that may not be given now."""

    below: Any = None

    def open(self, rows: Rungs) -> None:
        """Show a ladder below the machine, in place of the one before."""
        if self.below is not None:
            self.below.children = (self.widget, rows.widget)

    def tell(self, act: Callable[[], Any]) -> None:
        """Do something; a LookupError is no mistake but an answer, and stands in the machine's message area as it is."""
        try:
            act()
        except LookupError as no:
            if type(no) is not LookupError:  # a key that is missing is somebody's mistake
                raise
            self.widget.post({"kind": "error", "say": f"{no}.", "details": ""})

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        found = super()._repr_mimebundle_(include, exclude)
        if not isinstance(found, tuple) or VIEW not in found[0]:
            return found
        self.below = self.below or import_module("ipywidgets").VBox((self.widget,))
        return {**found[0], VIEW: self.below._repr_mimebundle_()[VIEW]}, found[1]


VIEW = "application/vnd.jupyter.widget-view+json"


def machine(
    host: Host,
    issue: Callable[[str, str, str], Any] | None = None,
    *,
    ladder: Callable[[str, str, str], Any] | None = None,
    names: Mapping[int, str] | None = None,
    only: str | Sequence[str] = (),
) -> View:
    """The state machines of a host, with a token for each guest and vCPU: all four, or `only` some.

    `issue(machine, command, token)` is called when a reader presses a command that may be given now: the notebook's own
    code, which makes the call. `ladder` gets the same when the command may not be given; without it the ladder of
    that call opens below. A LookupError of either is shown as a sentence. `names` gives VMs, by number, a name.

    Raises ValueError for a machine that is none of the four.
    """
    few = (only,) if isinstance(only, str) else tuple(only)
    if strange := set(few) - set(MACHINES):
        raise ValueError(f"the machines are {', '.join(MACHINES)}, and none is {', '.join(sorted(strange))}")

    def illegal(where: str, command: str, token: str) -> None:
        view.tell(lambda: view.open(rungs(host, where, command)))

    def legal(where: str, command: str, token: str) -> None:
        view.tell(lambda: issue and issue(where, command, token))

    def widget(module: Any) -> Any:
        return module.Machine(
            diagrams(module, few), lambda at: tokens(at, module, names), on_command=legal if issue else None,
            on_illegal=ladder or illegal, host=host, facts=facts(host), imaginary=imaginary(host),
        )  # fmt: skip

    def text() -> str:
        found = Picture("states", facts(host))
        for name, where, state, count, *_ in tokens(host, _Rows, names):
            if where in (few or MACHINES):
                found.row(where, f"{name if count == 1 else f'{count} {name}'}: {state}")
        return str(found)

    view = MachineView("machine", widget, text)
    return view


class _Rows:
    """Tokens where no widget is."""

    @staticmethod
    def Token(name: str, where: str, state: str, count: int = 1, moves: tuple[str, ...] = ()) -> tuple[Any, ...]:
        return name, where, state, count, moves
