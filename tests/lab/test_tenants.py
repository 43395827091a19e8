"""Tenants of key slots, and the tables of slots and of books: what the machine has."""

from __future__ import annotations

from errno import EBUSY, ENOENT
from typing import Any

import pytest

from sevlab import Host
from sevlab.hw import chips
from sevlab.lab.tenants import books, naples, slot_of, slots, tenant


def small(es: int = 0, slots: int = 3, **named: Any) -> Host:
    return Host(naples(es=es, slots=slots), seed=7, memory=1 << 30, **named)


def test_a_naples_is_the_published_one_but_for_the_bios_knob() -> None:
    assert naples() == chips.NAPLES
    assert [naples(es=n).min_asid for n in (0, 5, 14)] == [1, 6, 15]
    assert "never existed" in naples(slots=4).banner and not naples(es=0).banner


@pytest.mark.parametrize(("es", "slot"), [(False, 6), (True, 1)])
def test_a_tenant_has_the_lowest_slot_of_its_kind(es: bool, slot: int) -> None:
    with Host("naples", seed=7, memory=1 << 30) as host:
        assert slot_of(host, tenant(host, es=es)) == slot


def test_no_tenant_has_the_name_of_one_who_left_or_was_refused() -> None:
    with small(slots=2) as host:
        first, second = tenant(host), tenant(host)
        with pytest.raises(OSError):
            tenant(host)  # tenant-3
        second.process.kill()
        assert (first.process.name, tenant(host).process.name) == ("tenant", "tenant-4")


def test_a_tenant_that_is_refused_leaves_nobody_behind() -> None:
    with small(slots=1) as host:
        tenant(host)
        with pytest.raises(OSError) as no:
            tenant(host)
        assert no.value.errno == EBUSY and list(host.processes) == ["tenant"]
        with pytest.raises(OSError) as no:
            tenant(host, cgroup="/nowhere")
        assert no.value.errno == ENOENT


def test_the_tables_of_slots_and_of_books_are_the_machines() -> None:
    with small(es=2, slots=5, cgroups={"/a/b": {"sev": 4}, "/a": {"sev": 9}}) as host:
        tenant(host, cgroup="/a/b")
        tenant(host, es=True).process.kill()
        assert slots(host).text.splitlines()[2:] == [
            "SEV-ES  1 to 2     1       0        1",
            "SEV     3 to 5     2       1        0",
        ]
        assert [line.split() for line in books(host).text.splitlines()[2:]] == [["/a", "9", "1", "0"], ["/a/b", "4", "1", "0"]]
