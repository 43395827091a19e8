"""What a KeyTree shows: the certificate keys of a platform, the keys of a session, and the guest's memory key.

Names and places only: no key's bytes are ever drawn. Source: firmware.md 4.2 to 4.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sevlab.host import Host
from sevlab.lab.views import Picture, View, facts
from sevlab.owner import ChainVerdict

COLUMNS = ("AMD", "this chip", "platform owner", "session", "guest memory")
PATH = ("ARK", "ASK", "CEK", "PEK", "PDH", "session")  # on a phone: one line, the last a column's name
PARTIES = ("guest owner", "VMM", "kernel", "PSP", "engine", "guest")
OWNER, VMM, KERNEL, PSP, ENGINE, GUEST = PARTIES
HOLDS, USES, KNOWS = "holds it", "can have it used", "knows that it exists"
_PUBLIC = {OWNER: KNOWS, VMM: KNOWS, KERNEL: KNOWS, PSP: KNOWS}  # in a certificate that all of them can read
_ASKED = {PSP: HOLDS, KERNEL: USES, VMM: USES}  # by commands: /dev/sev's, and those of KVM_MEMORY_ENCRYPT_OP

# Key, column, who has what of its private half, and its story. What each command uses: firmware.md 2.2 to 2.5.
Row = tuple[str, str, dict[str, str], str]
KEYS: tuple[Row, ...] = (
    ("ARK", "AMD", _PUBLIC, "AMD's root, the one key that an owner must know beforehand"),
    ("ASK", "AMD", _PUBLIC, "AMD's key for one family of chips"),
    ("CEK", "this chip", _PUBLIC | {PSP: HOLDS, KERNEL: USES}, "made from fuses of this chip, for as long as it lives"),
    ("OCA", "platform owner", _PUBLIC | {PSP: HOLDS, KERNEL: USES}, "the firmware's own, until the owner brings another"),
    ("PEK", "platform owner", _PUBLIC | _ASKED, "the platform's own, signed from both sides; it signs reports too"),
    ("PDH", "platform owner", _PUBLIC | _ASKED, "with it a guest owner agrees on a secret"),
    ("GODH", "session", {OWNER: HOLDS, PSP: KNOWS, VMM: KNOWS, KERNEL: KNOWS}, "the guest owner's half of the agreement"),
    ("Z", "session", {OWNER: HOLDS} | _ASKED, "what both halves come to, at either end"),
    ("KEK, KIK", "session", {OWNER: HOLDS} | _ASKED, "for one envelope: KEK hides the transport keys in it, KIK seals it"),
    ("TEK", "session", {OWNER: HOLDS} | _ASKED, "encrypts what the owner sends in"),
    ("TIK", "session", {OWNER: HOLDS} | _ASKED, "makes the measurement a MAC, and its reader sure"),
    (
        "VEK",
        "guest memory",
        {PSP: HOLDS, ENGINE: HOLDS, KERNEL: USES, VMM: USES, GUEST: USES},
        "made by the PSP, sits in the engine under a slot number that the kernel chose; the guest never sees it",
    ),
)
BONDS = (
    ("PDH", "Z", "agrees"), ("GODH", "Z", "agrees"), ("Z", "KEK, KIK", "derives"),
    ("KEK, KIK", "TEK", "wraps"), ("KEK, KIK", "TIK", "wraps"),
)  # fmt: skip
WITHOUT_Z = (("PDH", "KEK, KIK", "agrees"), ("GODH", "KEK, KIK", "agrees"))  # where Z is not shown
ZEROS = "sixteen zeros: nobody sent a session"  # firmware.md 4.9


def rows(only: Sequence[str] = (), *, session: bool = True) -> list[Row]:
    """The keys that are shown: all of KEYS, or those named in `only`. Without a session the transport keys are zeros.

    Raises ValueError for a key in `only` that is none.
    """
    if strange := set(only) - {name for name, *_ in KEYS}:
        raise ValueError(f"{min(strange)!r} is no key; there are {', '.join(name for name, *_ in KEYS)}")
    shown = [row for row in KEYS if not only or row[0] in only]
    if session:
        return shown
    gone = ("GODH", "Z", "KEK, KIK")  # of a session that was never made
    return [
        (name, column, dict.fromkeys(PARTIES, HOLDS), ZEROS) if name in ("TEK", "TIK") else (name, column, who, words)
        for name, column, who, words in shown if name not in gone
    ]  # fmt: skip


def tree(made: Any, verdict: ChainVerdict | None, shown: Sequence[Row], slot: int = 0) -> tuple[list[Any], list[Any]]:
    """Keys and bonds as `made` (the widget's module) wants them."""
    there = {name for name, *_ in shown}
    keys = [
        made.Key(name, column, "all zeros" if words == ZEROS else f"slot {slot}" if name == "VEK" and slot else "", who, words)
        for name, column, who, words in shown
    ]
    if verdict is None:
        pairs = (("ARK", "ARK"), ("ARK", "ASK"), ("ASK", "CEK"), ("OCA", "OCA"), ("CEK", "PEK"), ("OCA", "PEK"), ("PEK", "PDH"))
        edges = [made.Bond(one, other, "signs") for one, other in pairs]
    else:
        edges = [
            made.Bond(edge.signer.upper(), edge.subject.upper(), "signs", edge.ok, edge.reason)
            for edge in verdict.edges if edge.signer != "owner"
        ]  # fmt: skip
    bonds = [*edges, *(made.Bond(*bond) for bond in BONDS + (() if "Z" in there else WITHOUT_Z))]
    return keys, [bond for bond in bonds if {bond.source, bond.target} <= there]


def keytree(
    verdict: ChainVerdict | None = None,
    host: Host | None = None,
    vm: Any = None,
    *,
    beside: ChainVerdict | None = None,
    names: tuple[str, str] = ("real", "forged"),
    memory_only: bool = False,
    only: Sequence[str] = (),
    session: bool = True,
) -> View:
    """Who holds, derives, wraps and signs which key.

    `verdict` is what `owner.verify_chain` said: its ticks and crosses. `beside` is another one, such as a forged chain's, and
    `names` are those of both. `vm` names its slot beside the memory key; `memory_only` draws that one column, as in lab `tour`,
    `only` the keys of these names. `session=False` is a guest that was launched without one: its transport keys are zeros.

    Raises ValueError for a key in `only` that is none.
    """
    shown = rows(("VEK",) if memory_only else only, session=session)
    certificates = {name for name, column, *_ in shown if column in COLUMNS[:3]}
    slot = 0
    if host is not None and vm is not None:
        slot = host.kernel.vm_of(vm.process, vm.fd).sev.asid

    def widget(module: Any) -> Any:
        keys, bonds = tree(module, verdict, shown, slot)
        other = None if beside is None else tree(module, beside, shown, slot)
        about = facts(host) if host is not None else () if verdict is None else (("trusted" if verdict.ok else "not trusted"),)
        there = [name for name, *_ in shown]
        columns = tuple(column for column in COLUMNS if any(row[1] == column for row in shown))
        path = tuple(name for name in PATH if name in there or name in columns) if PATH[0] in there else tuple(there)
        return module.KeyTree(columns, keys, bonds, parties=PARTIES, path=path, beside=other, names=names, facts=about)

    def signs(found: Picture, one: ChainVerdict, whose: str) -> None:
        for edge in one.edges:
            if edge.signer != "owner" and edge.subject.upper() in certificates:
                fits = "not checked" if edge.ok is None else "fits" if edge.ok else f"does not fit: {edge.reason}"
                found.row(f"{whose}{edge.signer.upper()} signs", f"{edge.subject.upper()}: {fits}")

    def text() -> str:
        found = Picture("keys", facts(host) if host is not None else ())
        for name, column, who, words in shown:
            has = [party for party, what in who.items() if what == HOLDS]
            held = "; held by everybody" if len(has) == len(PARTIES) else f"; held by {', '.join(has)}" if has else ""
            found.row(name, f"{column}; {words}{held}{f'; slot {slot}' if name == 'VEK' and slot else ''}")
        if verdict is not None:
            signs(found, verdict, f"{names[0]}: " if beside is not None else "")
        if beside is not None:
            signs(found, beside, f"{names[1]}: ")
        return str(found)

    return View("keytree", widget, text)
