"""The coverage page says what the tables say, and every row of every table is on it."""

from __future__ import annotations

import re

import pytest

from sevlab.abi.sev import Cmd
from sevlab.cli import coverage
from sevlab.kvm import designs, exits, sev_commands, system, vcpu, vm, vmgexit, vmgexit_msr
from sevlab.kvm import sev_dev as sev_device
from sevlab.psp import commands

PAGE = coverage.page()
TABLES = {
    "firmware": commands.COMMANDS,
    "/dev/kvm": system.IOCTLS,
    "VM": vm.IOCTLS,
    "vCPU": vcpu.IOCTLS,
    "/dev/sev": sev_device.COMMANDS,
    "exits": exits.EXITS,
    "VMGEXIT": vmgexit.VMGEXITS,
    "MSR protocol": vmgexit_msr.REQUESTS,
    **{design.name: sev_commands.commands(design) for design in designs.DESIGNS.values()},
}


def test_the_page_in_the_repository_is_the_one_that_the_tables_make() -> None:
    assert coverage.PAGE.read_text(encoding="utf-8") == PAGE, "notebooks/reference/coverage.md is stale: run make coverage"


def test_the_page_is_the_same_whenever_it_is_made() -> None:
    assert coverage.page() == PAGE


@pytest.mark.parametrize("name", TABLES)
def test_what_a_row_leaves_out_is_on_the_page_word_for_word(name: str) -> None:
    missing = [row.leaves_out for row in TABLES[name].values() if row.leaves_out.replace("|", "\\|") not in PAGE]

    assert missing == []


def test_every_command_of_the_firmware_is_modelled_or_said_not_to_be_and_never_both() -> None:
    modelled, missing = set(commands.COMMANDS), set(commands.NOT_MODELLED)

    assert modelled | missing == set(Cmd) and not modelled & missing
    assert all(f"`{cmd.name}`" in PAGE for cmd in Cmd)
    assert all(commands.NOT_MODELLED.values())


def test_a_row_says_what_is_missing_in_a_few_words() -> None:
    long = [row.leaves_out for table in TABLES.values() for row in table.values() if len(row.leaves_out) > 80]

    assert long == []


def test_nothing_on_the_page_is_without_a_name() -> None:
    assert "`?`" not in PAGE and "None" not in PAGE


def test_every_chip_design_and_seam_is_there() -> None:
    assert all(f"`{name}`" in PAGE for name in (*coverage.chips.CHIPS, *designs.DESIGNS))
    table = PAGE.partition("## Kernel designs")[2].partition("\n#")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.M)) == set(designs.Design.__dataclass_fields__) - {"name"}


@pytest.mark.parametrize("seam", ["release", "ghcb"])
def test_every_switch_of_a_seam_is_explained(seam: str) -> None:
    table = PAGE.partition(f"### The seam `{seam}`")[2].partition("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` +\| (.*?) +\|", table, re.M)

    answer = getattr(designs.LINUX_6_1, seam)
    assert {name for name, _ in rows} == set(answer.__dataclass_fields__) - {"version"}
    assert all(words for _, words in rows)


def test_every_table_of_the_page_is_legible_as_text() -> None:
    tables = re.findall(r"(?:^\|.*\|$\n)+", PAGE, re.M)

    assert len(tables) >= 10
    for one in tables:
        assert len({len(line) for line in one.splitlines()}) == 1, one.splitlines()[0]


def test_the_table_keeps_a_bar_in_a_cell_from_ending_it() -> None:
    assert coverage.table(("a", "b"), [("x|y", 1)]).splitlines() == ["| a    |   b |", "| ---- | --: |", "| x\\|y |   1 |"]
