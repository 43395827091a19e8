"""What a KeyTree shows: the certificate keys of a platform, the keys of a session, and the guest's memory key.

Names and places only: no key's bytes are ever drawn. Source: firmware.md 4.2 to 4.8.
"""

from __future__ import annotations

from typing import Any

from sevlab.host import Host
from sevlab.lab.views import Picture, View, facts
from sevlab.owner import ChainVerdict

COLUMNS = ("AMD", "this chip", "platform owner", "session", "guest memory")
PATH = ("ARK", "ASK", "CEK", "PEK", "PDH", "TEK")
PARTIES = ("guest owner", "VMM", "kernel", "PSP", "engine", "guest")
OWNER, VMM, KERNEL, PSP, ENGINE, GUEST = PARTIES
HOLDS, USES, KNOWS = "holds it", "can have it used", "knows that it exists"
_PUBLIC = {OWNER: KNOWS, VMM: KNOWS, KERNEL: KNOWS, PSP: KNOWS}

# Key, column, who has what of it, and its story.
KEYS: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("ARK", "AMD", _PUBLIC, "AMD's root, the one key that an owner must know beforehand"),
    ("ASK", "AMD", _PUBLIC, "AMD's key for one family of chips"),
    ("CEK", "this chip", _PUBLIC | {PSP: HOLDS}, "made from fuses of this chip, for as long as it lives"),
    ("OCA", "platform owner", _PUBLIC | {PSP: HOLDS}, "whoever owns the machine; the firmware makes one if nobody brings one"),
    ("PEK", "platform owner", _PUBLIC | {PSP: HOLDS, KERNEL: USES}, "the platform's own, signed from both sides"),
    ("PDH", "platform owner", _PUBLIC | {PSP: HOLDS, KERNEL: USES}, "with it a guest owner agrees on keys"),
    ("GODH", "session", {OWNER: HOLDS, PSP: KNOWS, VMM: KNOWS, KERNEL: KNOWS}, "the guest owner's half of the agreement"),
    ("KEK, KIK", "session", {OWNER: HOLDS, PSP: HOLDS}, "derived by both from what they agreed on"),
    ("TEK", "session", {OWNER: HOLDS, PSP: HOLDS, KERNEL: USES, VMM: USES}, "encrypts what the owner sends in"),
    ("TIK", "session", {OWNER: HOLDS, PSP: HOLDS, KERNEL: USES, VMM: USES}, "makes the measurement a MAC, and its reader sure"),
    (
        "VEK",
        "guest memory",
        {PSP: HOLDS, ENGINE: HOLDS, KERNEL: KNOWS, VMM: KNOWS, GUEST: USES},
        "made by the PSP, sits in the engine under a slot number",
    ),
)
BONDS = (("PDH", "KEK, KIK", "agrees"), ("GODH", "KEK, KIK", "agrees"), ("KEK, KIK", "TEK", "wraps"), ("KEK, KIK", "TIK", "wraps"))


def tree(made: Any, verdict: ChainVerdict | None, slot: int = 0, *, memory_only: bool = False) -> tuple[list[Any], list[Any]]:
    """Keys and bonds as `made` (the widget's module) wants them."""
    keys = [
        made.Key(name, column, f"slot {slot}" if name == "VEK" and slot else "", who, words)
        for name, column, who, words in KEYS if not memory_only or column == "guest memory"
    ]  # fmt: skip
    if memory_only:
        return keys, []
    edges = [] if verdict is None else [
        made.Bond(edge.signer.upper(), edge.subject.upper(), "signs", edge.ok, edge.reason)
        for edge in verdict.edges if edge.signer != "owner"
    ]  # fmt: skip
    if verdict is None:
        pairs = (("ARK", "ARK"), ("ARK", "ASK"), ("ASK", "CEK"), ("OCA", "OCA"), ("CEK", "PEK"), ("OCA", "PEK"), ("PEK", "PDH"))
        edges = [made.Bond(one, other, "signs") for one, other in pairs]
    return keys, [*edges, *(made.Bond(*bond) for bond in BONDS)]


def keytree(
    verdict: ChainVerdict | None = None,
    host: Host | None = None,
    vm: Any = None,
    *,
    beside: ChainVerdict | None = None,
    memory_only: bool = False,
) -> View:
    """Who holds, derives, wraps and signs which key.

    `verdict` is what `owner.verify_chain` said: its ticks and crosses. `beside` is another one, such as a forged chain's.
    `vm` names its slot beside the memory key; `memory_only` draws that one column, as in lab `tour`.
    """
    slot = 0
    if host is not None and vm is not None:
        slot = host.kernel.vm_of(vm.process, vm.fd).sev.asid

    def widget(module: Any) -> Any:
        keys, bonds = tree(module, verdict, slot, memory_only=memory_only)
        other = None if beside is None else tree(module, beside, slot)
        about = facts(host) if host is not None else () if verdict is None else (("trusted" if verdict.ok else "not trusted"),)
        columns, path = (COLUMNS[-1:], ("VEK",)) if memory_only else (COLUMNS, PATH)
        return module.KeyTree(columns, keys, bonds, parties=PARTIES, path=path, beside=other, facts=about)

    def text() -> str:
        found = Picture("keys", facts(host) if host is not None else ())
        for name, column, who, words in KEYS:
            if not memory_only or column == "guest memory":
                has = ", ".join(party for party, what in who.items() if what == HOLDS)
                found.row(
                    name,
                    f"{column}; {words}{f'; held by {has}' if has else ''}{f'; slot {slot}' if name == 'VEK' and slot else ''}",
                )
        for edge in verdict.edges if verdict is not None and not memory_only else ():
            fits = "not checked" if edge.ok is None else "fits" if edge.ok else f"does not fit: {edge.reason}"
            found.row(f"{edge.signer.upper()} signs", f"{edge.subject.upper()}: {fits}")
        return str(found)

    return View("keytree", widget, text)
