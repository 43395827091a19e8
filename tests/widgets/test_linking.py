"""What linked pictures of different kinds tell one another: the VM that was selected, by the name that all know it by."""

from __future__ import annotations

import pytest
from sevlab_widgets import AsidTimeline, link
from sevlab_widgets.ladder import Column, Ladder, Rung
from sevlab_widgets.topology import Box, Link, Plug, Scene, Thing, Topology

SCENE = Scene(
    (Box("qemu", "qemu", "pid 1", (Plug(0, "console"), Plug(5, "vm", "vm 1"))),),
    (Thing("vm 1", "vm-a"), Thing("vm 2", "vm-b", "mirror")),
    (Thing("slot 6", "slot 6"),),
    (Link("vm 2", "vm 1", "holds", True), Link("vm 1", "slot 6")),
)


@pytest.fixture
def pictures(machine):
    """A timeline and a topology of one machine, whose VM 1 has slot 6 for the second time."""
    host = machine()
    host.take(6, vm=1)
    host.give(6, vm=1)
    host.flush(1)
    host.take(6, vm=1)
    host.take(7, vm=3)
    return AsidTimeline.of(host), Topology(SCENE, host=host)


def test_the_bar_of_a_vm_selects_it_among_those_who_hold_it(pictures):
    line, house = pictures
    link(line, house)
    line.got_select("view-1", "VM 1, slot 6, in use, 2")

    assert house.selected == "vm 1"


@pytest.mark.parametrize("key", ["vm 1", "qemu:5"])
def test_a_vm_or_its_descriptor_selects_its_newest_bar(pictures, key):
    line, house = pictures
    link(line, house)
    house.got_select("view-1", key)

    assert (line.selected, line.slot) == ("VM 1, slot 6, in use, 2", 6)
    assert house.selected == key  # what was selected stays so, though the other picture calls it by another name


@pytest.mark.parametrize("key", ["qemu", "qemu:0", "slot 6", "nobody"])
def test_what_is_no_vm_is_nothing_to_the_other_picture(pictures, key):
    line, house = pictures
    link(line, house)
    house.got_select("view-1", key)

    assert line.selected is None


def test_a_vm_that_the_other_picture_has_not_leaves_its_selection_alone(pictures):
    line, house = pictures
    link(line, house)
    house.got_select("view-1", "vm 1")
    line.got_select("view-1", "VM 3, slot 7, in use")
    assert house.selected == "vm 1"

    house.got_select("view-1", "vm 2")
    assert line.selected == "VM 3, slot 7, in use"


def test_pictures_linked_by_their_moment_alone_keep_their_selection(pictures):
    line, house = pictures
    link(line, house, selected=False)
    line.got_select("view-1", "VM 1, slot 6, in use")

    assert house.selected is None


def test_a_picture_that_shows_no_vm_neither_tells_nor_hears(pictures):
    line, _ = pictures
    ladder = Ladder([Column("a kernel", [Rung("it is dead", "EIO")])])
    link(line, ladder)
    line.got_select("view-1", "VM 1, slot 6, in use")
    ladder.got_select("view-1", "0/0")

    assert (line.selected, ladder.selected) == ("VM 1, slot 6, in use", "0/0")
