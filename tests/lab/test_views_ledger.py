"""The ledger of who holds whom, in words: what went, what came, and how often a cgroup said no."""

from __future__ import annotations

from sevlab import Host, lab
from sevlab.lab.tenants import naples, tenant


def small(**named: object) -> Host:
    return Host(naples(es=0), seed=7, memory=1 << 30, **named)  # type: ignore[arg-type]


def test_what_is_gone_has_its_line_too() -> None:
    host = small()
    vm = tenant(host)
    n = host.n
    vm.process.kill()

    said = repr(lab.topology(host, before=n))
    assert "references on tenant       1 → –" in said and "slots waiting for a flush  0 → 1" in said


def test_events_are_counted_where_there_are_any_and_cgroups_stand_from_the_top_down() -> None:
    host = small(cgroups={"/t": {"sev": 2}, "/t/a": {"sev": 1}, "/u": {"sev": 1}})
    assert "events" not in repr(lab.topology(host))
    for _ in range(2):
        lab.attempt(tenant, host, cgroup="/t/a")

    rows = [line.split("  ")[1] for line in repr(lab.topology(host)).splitlines() if line.startswith("  /")]
    assert rows == ["/ sev", "/t sev", "/t sev events", "/u sev", "/t/a sev", "/t/a sev events"]
