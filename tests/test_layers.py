"""Imports point down: the import graph is the trust model, and this test is its law.

An owner that imports the firmware would be no style error but a false statement
about SEV.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sevlab

ROOT = Path(__file__).resolve().parents[1]

FLOOR = {"wire", "crypto", "bulk", "columns", "given", "trace", "gate", "journal"}
BESIDE = {"upkeep", "views", "replay", "journal_format", "schedules", "settings", "situation"}  # the host's own tools
HIGH = {"owner", "guest", "vmm", "kvm", "psp", "hw", "abi", *FLOOR}
TOP = {"host", *BESIDE, "lab", "plots", "bridge", "cli", *HIGH}
# Who may import whom; every storey may import itself.
MAY = {
    **dict.fromkeys(FLOOR, FLOOR),
    "abi": FLOOR,
    "hw": {"abi", *FLOOR},
    "psp": {"hw", "abi", *FLOOR},
    "kvm": {"psp", "hw", "abi", *FLOOR},
    "guest": {"hw.isa", "abi", *FLOOR},
    "owner": {"abi", *FLOOR},
    "vmm": {"kvm", "abi", *FLOOR},
    **{top: {"host", *BESIDE, *HIGH} for top in ("host", *BESIDE)},
    **dict.fromkeys(("lab", "plots", "bridge", "cli"), TOP),
    "widgets": {"trace", "wire"},
    "__init__": TOP,
    "__main__": TOP,
}
# A library has one home, behind a handful of functions; a drawing library none in the core.
HOMES = {
    "numpy": {"bulk", "columns", "widgets"}, "cryptography": {"crypto"},
    "matplotlib": {"plots", "widgets"}, "ipywidgets": {"widgets"}, "anywidget": {"widgets"}, "IPython": {"lab", "plots", "widgets"},
    "random": set(), "secrets": {"crypto"}, "time": {"cli", "widgets"}, "datetime": {"cli"},  # widgets: frames have a pace
}  # fmt: skip
CALLS = {("os", "urandom"): {"crypto"}, ("os", "getrandom"): {"crypto"}}

FILES = sorted((ROOT / "sevlab").rglob("*.py")) + sorted((ROOT / "widgets").rglob("*.py"))


def storey(path: Path) -> str:
    """The storey a file stands on: its folder, or its own name at the top of sevlab."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "widgets" else parts[1]


def imports(tree: ast.Module, package: list[str]) -> Iterator[str]:
    """The dotted name of everything that a file imports; a name taken from a package counts as a module of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from sevlab import designs` stands for the module that the name is short for
                short = sevlab._HOME.get(alias.name, "") if base == "sevlab" else ""
                yield short.replace(":", ".") or f"{base}.{alias.name}"


def trespasses(source: str, here: str, package: list[str]) -> list[str]:
    """What a file on storey `here` imports or calls and may not, in words."""
    tree, wrong = ast.parse(source), []
    for name in imports(tree, package):
        top, *rest = name.split(".")
        if top == "sevlab" and rest and rest[0] not in (here, "__version__"):
            if rest[0] not in MAY[here] and ".".join(rest[:2]) not in MAY[here]:
                wrong.append(f"{here} may not import {name}")
        elif here not in HOMES.get(top, {here}):
            wrong.append(f"{here} may not import {top}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            call = (node.value.id, node.attr)
            if here not in CALLS.get(call, {here}):
                wrong.append(f"{here} may not use {'.'.join(call)}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_storey_may_see(path: Path) -> None:
    package = list(path.relative_to(ROOT).parent.parts)
    assert storey(path) in MAY, f"{storey(path)} is no storey of the house"

    assert trespasses(path.read_text(), storey(path), package) == []


@pytest.mark.parametrize(
    ("here", "line", "verdict"),
    [
        ("owner", "from sevlab.psp.channel import wrap", "owner may not import sevlab.psp.channel.wrap"),
        ("owner", "from sevlab import kvm", "owner may not import sevlab.kvm"),
        ("owner", "from ..hw import chips", "owner may not import sevlab.hw.chips"),
        ("owner", "from sevlab import chips", "owner may not import sevlab.hw.chips"),
        ("guest", "from sevlab import Host", "guest may not import sevlab.host.Host"),
        ("guest", "from sevlab.hw.program import Program", "guest may not import sevlab.hw.program.Program"),
        ("guest", "import sevlab.hw", "guest may not import sevlab.hw"),
        ("vmm", "from sevlab.psp.firmware import Psp", "vmm may not import sevlab.psp.firmware.Psp"),
        ("abi", "from sevlab.hw.chips import ROME", "abi may not import sevlab.hw.chips.ROME"),
        ("widgets", "from sevlab.abi.sev import Cmd", "widgets may not import sevlab.abi.sev.Cmd"),
        ("hw", "import numpy as np", "hw may not import numpy"),
        ("psp", "from cryptography.hazmat import x", "psp may not import cryptography"),
        ("host", "import matplotlib.pyplot", "host may not import matplotlib"),
        ("kvm", "def f():\n    import time", "kvm may not import time"),
        ("psp", "import os\nos.urandom(3)", "psp may not use os.urandom"),
    ],
)
def test_the_law_finds_a_trespass(here: str, line: str, verdict: str) -> None:
    assert trespasses(line, here, ["sevlab", here]) == [verdict]


def test_the_law_lets_a_guest_see_the_instructions_and_a_cli_the_clock() -> None:
    assert trespasses("from sevlab.hw.isa import load, store\nfrom sevlab.abi.ghcb import Ghcb", "guest", ["sevlab", "guest"]) == []
    assert trespasses("from sevlab.hw import isa", "guest", ["sevlab", "guest"]) == []
    assert trespasses("import time\nfrom sevlab.host import Host", "cli", ["sevlab", "cli"]) == []
