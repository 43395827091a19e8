"""The key slots of a host in words; the live picture folds the same trace."""

from __future__ import annotations

import pytest

from sevlab import Host, lab
from sevlab.lab.tenants import naples, tenant


def test_before_anybody_came_all_slots_are_free():
    said = repr(lab.timeline(Host(chip=naples(es=0), seed=7)))

    assert "0 in use, 0 waiting for a flush, 15 free" in said


def test_a_slot_in_use_names_its_tenant_and_one_given_back_waits():
    host = Host(chip=naples(es=0), seed=7)
    one, _ = tenant(host), tenant(host)
    one.process.kill()
    said = repr(lab.timeline(host))

    assert "slot 1   given back, waits for a flush" in said and "slot 2" in said
    assert "1 in use, 1 waiting for a flush, 13 free" in said


def test_the_live_picture_and_the_words_count_alike():
    pytest.importorskip("sevlab_widgets")
    host = Host(chip=naples(es=0), seed=7)
    view = lab.timeline(host)
    live = view.widget
    for _ in range(3):
        tenant(host).process.kill()

    assert "0 in use, 3 waiting for a flush, 12 free" in repr(view)
    assert "0 in use, 3 waiting for a flush, 12 free" in live.describe()
    live.close()
