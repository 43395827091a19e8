"""KeyTree: who holds, derives, wraps and signs which key. It knows no SEV.

    KeyTree(("AMD", "this chip"), [Key("ARK", "AMD"), ...], [Bond("ARK", "ASK", "signs", True), ...])

A pill is full where the party that looks holds the key, half full where it can have it used,
hollow where it only knows that it exists. A bond `signs`, `derives`, `wraps` or `agrees`; one that
signs carries a tick, a cross with its reason, or "not checked".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sevlab_widgets.acts import Act, Acts
from sevlab_widgets.drawing import Choice
from sevlab_widgets.frame import Table
from sevlab_widgets.keytree_picture import KeyTreePicture, swatch, verdict
from sevlab_widgets.picture import Svg
from sevlab_widgets.words import named

BONDS = ("signs", "derives", "wraps", "agrees")
HOLDS, USES, KNOWS = "holds it", "can have it used", "knows that it exists"
NOTHING = "has never met it"
EVERYBODY = "everybody"
VERDICTS = ((True, "fits"), (False, "does not fit"), (None, "not checked by this verifier"))


class Key(NamedTuple):
    """A key: its name, its column, a note such as "slot 3"; `who` says by party what that one has of it; `words` is its story."""

    name: str
    column: str
    note: str = ""
    who: Mapping[str, str] = {}
    words: str = ""


class Bond(NamedTuple):
    """From one key to another. `ok`: whether it was checked and fits; None: not checked. `reason` if it does not fit."""

    source: str
    target: str
    how: str
    ok: bool | None = None
    reason: str = ""


class KeyTree(Acts):
    """Keys in columns. `path` is the one line of it that a phone has room for."""

    FILES: ClassVar[tuple[str, ...]] = ("keytree",)
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("← → ↑ ↓", "from key to key"),
        ("Home End", "first, last"),
        ("v", "verify the next signature"),
    )

    def __init__(
        self,
        columns: Sequence[str],
        keys: Sequence[Key] = (),
        bonds: Sequence[Bond] = (),
        *,
        parties: Sequence[str] = (),
        path: Sequence[str] = (),
        beside: tuple[Sequence[Key], Sequence[Bond]] | None = None,
        names: tuple[str, str] = ("real", "forged"),
        title: str = "keys",
        **keywords: Any,
    ) -> None:
        self.columns, self.keyring, self.bonds = tuple(columns), tuple(keys), tuple(bonds)
        if not self.columns:
            raise ValueError("a key tree has at least one column")
        if strange := [key.name for key in self.keyring if key.column not in self.columns]:
            raise ValueError(f"{strange[0]} is in no column; there are {', '.join(self.columns)}")
        if strange := [bond.how for bond in self.bonds if bond.how not in BONDS]:
            raise ValueError(f"a bond {', '.join(BONDS)}; none {strange[0]}")
        self.path = tuple(path)
        self.other, self.names = beside, names
        self.step: int | None = None  # how many signatures have been verified; None: all
        self.choices = (Choice("seen", "As seen by", (EVERYBODY, *parties)),) if parties else ()
        if beside is not None:  # where there is no room for two trees, one is chosen
            self.choices += (Choice("tree", "Chain", self.names),)
        super().__init__(title=title, **keywords)

    def show(self, keys: Sequence[Key], bonds: Sequence[Bond]) -> None:
        """Draw other keys."""
        with self.lock:
            self.keyring, self.bonds, self.step = tuple(keys), tuple(bonds), None
        self.mark()

    # ------------------------------------------------- what follows from what

    @property
    def seen(self) -> str:
        """Through whose eyes."""
        return self.chosen.get("seen", EVERYBODY)

    def has(self, key: Key) -> str:
        """What the party that looks has of a key; "" for nothing."""
        return HOLDS if self.seen == EVERYBODY else key.who.get(self.seen, "")

    def leak(self, name: Any, bonds: Sequence[Bond] | None = None) -> set[str]:
        """Every key that falls with this one: what it signs, derives or wraps, and what follows from that."""
        found, todo = set(), [name]
        while todo:
            at = todo.pop()
            for bond in self.bonds if bonds is None else bonds:
                if bond.source == at and bond.target != at and bond.target not in found:
                    found.add(bond.target)
                    todo.append(bond.target)
        return found - {name}

    @property
    def second(self) -> bool:
        """Whether the second tree is the one that is looked at."""
        return self.other is not None and self.chosen["tree"] == self.names[1]

    @property
    def drawn(self) -> tuple[Sequence[Key], Sequence[Bond]]:
        """Keys and bonds of the tree that is looked at."""
        return self.other if self.second and self.other is not None else (self.keyring, self.bonds)

    @property
    def signatures(self) -> list[Bond]:
        """The bonds that can be verified, in order."""
        return [bond for bond in self.drawn[1] if bond.how == "signs"]

    @property
    def asked(self) -> bool:
        """Whether a verifier has looked at any of them."""
        return any(bond.ok is not None for bond in self.signatures)

    def verified(self, bond: Bond) -> bool:
        """Whether the walk has come to this signature, or in the tree beside to the same two keys."""
        walked = None if self.step is None else {(one.source, one.target) for one in self.signatures[: self.step]}
        return bond.how != "signs" or walked is None or (bond.source, bond.target) in walked

    # ------------------------------------------------- the picture

    def picture(self, width: int, size: str) -> Svg:
        return KeyTreePicture(self, width, size).svg

    def legend(self) -> list[tuple[Svg, str]]:
        bonds = [*self.bonds, *(self.other[1] if self.other is not None else ())]
        marks = [(swatch(how), how) for how in BONDS if any(bond.how == how for bond in bonds)]
        found = {bond.ok for bond in bonds if bond.how == "signs"} if self.asked else set()
        marks += [(verdict(ok), word) for ok, word in VERDICTS if ok in found]
        return marks + ([(swatch(has), has) for has in (HOLDS, USES, KNOWS)] if self.seen != EVERYBODY else [])

    @property
    def empty(self) -> str:  # type: ignore[override]
        return "" if self.columns else "No keys."

    # ------------------------------------------------- in words

    def say(self, key: Key) -> str:
        """A key in a sentence."""
        said = f"{key.name}{f' ({key.note})' if key.note else ''}, {key.column}"
        said += f": {key.words}" if key.words else ""
        if self.seen != EVERYBODY:
            said += f"; the {self.seen} {self.has(key) or NOTHING}"
        keys, bonds = self.drawn
        falls = self.leak(key.name, bonds)
        if falls:
            return f"{said}. If it leaks, so falls: {', '.join(k.name for k in keys if k.name in falls)}."
        return f"{said}. No other key falls with it." if bonds else f"{said}."

    def say_bond(self, bond: Bond) -> str:
        """A bond in a sentence."""
        whom = "itself" if bond.source == bond.target else bond.target
        said = f"{bond.source} {'agrees on' if bond.how == 'agrees' else bond.how} {whom}"
        if bond.how != "signs":
            return f"{said}."
        verdict = (
            "not yet verified"
            if not self.verified(bond)
            else "not checked by this verifier"
            if bond.ok is None
            else "it fits"
            if bond.ok
            else f"it does not fit{f': {bond.reason}' if bond.reason else ''}"
        )
        return f"{said}: {verdict.rstrip('.')}."

    def says(self) -> str:
        keys = self.drawn[0]
        if not keys:
            return "No platform yet."
        if self.step is not None and self.signatures and self.step:
            return f"{self.step} of {len(self.signatures)}: {self.say_bond(self.signatures[self.step - 1])}"
        if len(keys) == 1:
            return self.say(keys[0])
        bad = [bond for bond in self.signatures if bond.ok is False]
        if self.other is not None and self.asked:
            trees = zip(self.names, (self.bonds, self.other[1]), strict=True)
            return " ".join([*(f"{name}: {_fits(bonds)}." for name, bonds in trees), *map(self.say_bond, bad[:1])])
        if bad:
            return self.say_bond(bad[0])
        signed = f", {_fits(self.signatures)}" if self.asked else ""
        if self.signatures and not self.asked:
            signed = f", {len(self.signatures)} signatures, none of them checked"
        return f"{len(keys)} keys{signed}{self._seen()}."

    def _seen(self) -> str:
        """How many keys the party that looks holds, can have used, or knows of."""
        if self.seen == EVERYBODY:
            return ""
        has = [self.has(key) or NOTHING for key in self.drawn[0]]
        counts = ((HOLDS, "holds"), (USES, "can have used"), (KNOWS, "knows of"), (NOTHING, "has never met"))
        return f"; the {self.seen} " + ", ".join(f"{verb} {has.count(what)}" for what, verb in counts if what in has)

    def describe(self) -> str:
        bonds = " ".join(self.say_bond(bond) for bond in self.bonds)
        return f"{' · '.join([self.title, *self.facts])}: {self.says()} {bonds}".rstrip()

    def table(self) -> Table:
        rows: list[list[Any]] = [
            [
                key.column,
                key.name,
                key.note,
                self.has(key) if self.seen != EVERYBODY else "",
                ", ".join(sorted(self.leak(key.name))),
            ]
            for key in self.keyring
        ]
        return ["where", "key", "note", self.seen, "falls with it"], rows

    # ------------------------------------------------- hand and keyboard

    def choose(self, name: str, option: str) -> None:
        if name == "tree":
            self.step = None  # each tree is verified from its own beginning
        super().choose(name, option)

    def find(self, words: str) -> Any:
        return named(words, [key.name for key in self.keyring], words)

    def acts(self) -> list[Act]:
        if not self.signatures:
            return []
        left = len(self.signatures) - (self.step or 0)
        return [
            Act("verify", "Verify" if self.step is None or not left else "Verify the next", "v"),
            *([Act("all", "All at once", "w")] if self.step is not None else []),
        ]

    def press(self, name: str, value: str) -> None:
        if name == "all":
            self.step = None
        else:
            self.step = 1 if self.step is None or self.step >= len(self.signatures) else self.step + 1
            bond = self.signatures[self.step - 1]
            self.selected = f"{bond.source} → {bond.target}"

    def got_select(self, view: str, value: Any) -> None:
        super().got_select(view, value)
        self.mark()


def _fits(bonds: Sequence[Bond]) -> str:
    """How many of the signatures among these bonds fit."""
    signs = [bond for bond in bonds if bond.how == "signs"]
    return f"{sum(bond.ok is True for bond in signs)} of {len(signs)} signatures fit"
