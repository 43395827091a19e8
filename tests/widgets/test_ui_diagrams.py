"""Topology, Layout, Machine and KeyTree in a real JupyterLab, on a host of their own."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.ui

HOST = """
from sevlab import Host, lab, owner, vmm
from sevlab.lab import tour
from sevlab.lab.views_keytree import keytree
from sevlab.lab.views_machine import machine
from sevlab.lab.views_topology import topology
host = Host(chip="naples", seed=7, cgroups={"/tenant-a": {"sev": 3}})
qemu = host.process("qemu", cgroup="/tenant-a")
a = vmm.launch(host, program=tour.notepad, args=(b"hello",), policy=1, process=qemu)
a.run()
aide = host.process("aide")
m = vmm.mirror(a)
"""
TOPOLOGY = HOST + "v = topology(host); w = v.widget; v"
COMPARE = HOST + "n = host.n; qemu.close(a.fd); [qemu.close(v.fd) for v in a.vcpus]\nv = topology(host, n); w = v.widget; v"
MACHINE = HOST + "said = []\nv = machine(host, lambda *a: said.append(a)); w = v.widget; v"
KEYTREE = (
    HOST + "v = keytree(owner.verify_chain(host.chain() | {'cek': lab.exported_chain(host)['cek']}), host, a); w = v.widget; v"
)
LAYOUT = """
import hashlib
from sevlab.abi.session import Session
from sevlab_widgets.layout import Cover, Layout
some = lambda text, n: (hashlib.sha256(text.encode()).digest() * 4)[:n]
s = Session(nonce=some("a", 16), wrap_tk=some("b", 32), wrap_iv=some("c", 16), wrap_mac=some("d", 32), policy_mac=some("e", 32))
other = s.replace(wrap_iv=some("x", 16), policy_mac=some("y", 32))
def write(name, value):
    global s
    s = s.replace(**{name: value}); w.show(s)
covers, writers = [Cover("WRAP_MAC", ("wrap_tk",))], dict.fromkeys(("nonce", "wrap_tk"), "O")
w = Layout(s, beside=other, names=("yours", "the host's"), covers=covers, writers=writers, write=write)
w.got_press("", "compare"); w
"""
FIVE = {"topology": TOPOLOGY, "compare": COMPARE, "machine": MACHINE, "keytree": KEYTREE, "layout": LAYOUT}


@pytest.mark.parametrize("name", FIVE)
def test_drawn_light_and_dark_without_a_violation_and_small_when_saved(notebook, violations, shot, name):
    book = notebook(FIVE[name])
    widget = book.widget()

    assert widget.locator("svg[role=img]").count() == 1
    assert violations(book) == []
    shot(book, name)
    saved = json.loads(book.save().read_text())
    assert sum(len(json.dumps(cell.get("outputs", []))) for cell in saved["cells"]) < 10_000
    book.load()
    book.widget()


@pytest.mark.parametrize("name", ["compare", "machine", "keytree", "layout"])
@pytest.mark.parametrize(("window", "size", "highest"), [(470, "S", 300), (1000, "M", 440), (1700, "L", 640)])
def test_three_sizes(notebook, shot, name, window, size, highest):
    book = notebook(FIVE[name], width=window)
    widget = book.widget()

    assert widget.get_attribute("data-size") == size
    shot(book, f"{name}-{size}", dark=False)
    assert widget.bounding_box()["height"] <= highest
    assert book.page.evaluate("() => { const n = document.querySelector('.sl'); return n.scrollWidth <= n.clientWidth; }")


def test_by_keyboard_alone_a_plug_is_closed_and_no_key_reaches_the_notebook(notebook, shot):
    book = notebook(TOPOLOGY)
    stage = book.widget().locator(".sl-stage")
    cells = "window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = book.page.evaluate(cells)
    stage.focus()
    book.page.keyboard.press("Home")
    book.settle()
    book.page.keyboard.press("ArrowDown")
    book.settle()
    for _ in range(20):
        if book.status().startswith(f"fd {book.do('print(a.fd)').strip()} of qemu"):
            break
        book.page.keyboard.press("ArrowLeft")
        book.settle(60)
    shot(book, "topology-selected")
    stage.focus()
    book.page.keyboard.press("x")
    book.settle(500)
    assert book.do("print(a.fd in qemu.task.fds)") == "False\n"
    for key in "abdd":
        book.page.keyboard.press(key)
    assert book.page.evaluate(cells) == before


@pytest.mark.parametrize("hand", ["Enter", "one press", "two presses in a hurry"])
def test_a_legal_command_is_given_once(notebook, hand):
    book = notebook(MACHINE)
    book.settle(300)
    command = book.widget().locator('[data-key="guest/LSECRET/LAUNCH_FINISH"]')
    if hand == "Enter":
        book.do("w.look_at('LAUNCH_FINISH')")
        book.page.wait_for_function("document.activeElement.className === 'sl-stage'")
        book.page.keyboard.press("Enter")
    elif hand == "one press":
        command.click()
    else:
        command.dblclick()
    book.settle()
    assert book.do("print(said)") == "[('guest', 'LAUNCH_FINISH', 'qemu, VM 1')]\n"


def test_hatching_and_arrow_heads_stand_once_in_the_page_and_outside_every_cell(notebook):
    book = notebook(TOPOLOGY, "topology(host)")
    book.widget(1)

    found = "id => [...document.querySelectorAll('#' + id)].map((one) => one.closest('.jp-Cell') === null)"
    assert [book.page.evaluate(found, name) for name in ("sl-hatch", "sl-arrow")] == [[True], [True]]
    book.theme("dark")
    style = "(what) => { const s = getComputedStyle(document.querySelector(what)); return [s.fill, s.color]; }"
    assert book.page.evaluate(style, ".sl-defs .sl-head")[0] == book.page.evaluate(style, ".sl")[1]


def test_the_field_that_is_selected_is_in_view_however_long_the_list(notebook):
    book = notebook("from sevlab_widgets.layout import Layout\nw = Layout([(f'field{i}', bytes([i] * 16)) for i in range(60)]); w")
    stage = book.widget().locator(".sl-stage")
    stage.focus()
    book.page.keyboard.press("End")
    book.page.wait_for_function("document.querySelector('.sl-status').innerText.startsWith('field59')")
    book.settle()

    assert stage.evaluate(
        """(stage) => {
            const item = stage.querySelector('[data-key="field59"]').getBoundingClientRect(), box = stage.getBoundingClientRect();
            return item.top >= box.top && item.bottom <= box.bottom + 1;
        }"""
    )
    assert stage.get_attribute("data-more") is None


def test_a_field_is_edited_and_marked(notebook, shot):
    book = notebook(LAYOUT)
    widget = book.widget()
    widget.locator(".sl-stage").focus()
    book.page.keyboard.press("ArrowDown")
    book.settle()
    book.page.keyboard.press("ArrowDown")
    book.settle()
    book.page.keyboard.press("Enter")
    field = widget.get_by_label("Write wrap_iv: hex bytes")
    field.fill("00" * 16)
    field.press("Enter")
    book.settle(300)

    assert book.do("print(s.wrap_iv == bytes(16))") == "True\n" and "was " in book.status()
    shot(book, "layout-edited")
