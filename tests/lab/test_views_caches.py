"""What lies in the caches, in a Lens: a line of the host and one of the guest, where the chip does not keep them coherent."""

from __future__ import annotations

from sevlab import Host, lab

LINE = b"a line in the cache"


def cached(chip="rome", n=128, **how):
    """A host with caches, a guest of it, and a lens over the page that its VMM has written."""
    host = Host(chip, seed=7, memory=1 << 30, caches=True)
    vm = lab.empty_guest(host)
    vm.write(0x1000, LINE)
    return host, vm, lab.lens(host, vm, 0x1000, n, **how).widget


def sight(lens, name):
    return lens.sights[[eye.name for eye in lens.eyes].index(name)]


def test_the_host_s_line_has_its_text_and_a_dot_and_ends_where_the_line_ends():
    _, _, lens = cached()
    host_line = sight(lens, "host line")

    assert host_line.data.startswith(LINE) and host_line.dirty == {0} and host_line.gaps == {64}
    assert "host line holds “a line in the ca”" in lens.say(0) and "host line holds nothing there" in lens.say(4)


def test_the_guest_s_line_is_an_x_ray_and_is_empty_as_long_as_the_guest_has_not_run():
    host, _, lens = cached()
    before = host.trace.seq
    assert sight(lens, "guest line").why == "closed" and host.trace.seq == before
    lens.got_act("", "guest line/0")

    assert sight(lens, "guest line").why == "holds nothing of it"


def test_a_look_at_a_guest_s_line_leaves_a_row():
    host = Host("rome", seed=7, memory=1 << 30, caches=True)
    box = lab.Box(host)
    box.write(b"sixteen letters!")
    seen = sight(lab.lens(host, box.vm, 0x10_0000, 64, xray=True).widget, "guest line")

    assert seen.data.startswith(b"sixteen letters!") and seen.dirty == {0}
    assert host.trace.rows()[-1]["kind"] == "XrayTaken"
    assert sight(lab.lens(host, box.vm, 0x10_0000, 64).widget, "host line").why == "holds nothing of it"


def test_a_coherent_chip_has_no_two_lines_to_show():
    _, _, lens = cached("milan")

    assert [eye.name for eye in lens.eyes] == ["scratch", "VMM's pointer", "the bus"]
    assert sight(lens, "VMM's pointer").dirty == {0}


def test_a_machine_without_caches_has_no_lines_to_show():
    host = Host("rome", seed=7, memory=1 << 30)

    assert "line" not in repr(lab.lens(host, lab.empty_guest(host), 0x1000, 64))


def test_a_lens_over_the_middle_of_a_page_counts_its_lines_from_there():
    host, vm, _ = cached()
    vm.write(0x1080, LINE)
    there = sight(lab.lens(host, vm, 0x1040, 128).widget, "host line")

    assert there.gaps == {0} and there.dirty == {64}


def test_a_flush_empties_the_lines():
    host, vm, lens = cached()
    lens.press("flush", "")

    assert sight(lens, "host line").why == "holds nothing of it"
    assert "holds nothing of it" in repr(lab.lens(host, vm, 0x1000, 64))


def test_before_a_guest_was_made_its_lens_says_that_it_has_no_vm():
    _, _, lens = cached()
    lens.got_seek("", 1)

    assert "scratch has no VM yet" in lens.say(0) or "scratch is not there" in lens.say(0)
