"""Journals as files: what is not one, or is one no more, is refused in one sentence and executes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs_of_time import host, state_of

from sevlab import Host
from sevlab.journal import Journal
from sevlab.journal_format import JournalError, dump, parse


@pytest.fixture(scope="module")
def file() -> bytes:
    """A journal with structures, payloads, refusals and two processes."""
    one = host(cgroups={"/a": {"sev": 1}})
    process = one.process("qemu", cgroup="/a", caps={"CAP_IPC_LOCK"})
    kvm, hva = process.open("/dev/kvm"), process.mmap(1 << 16)
    process.write(hva, bytes(range(256)) * 64)
    process.write(hva, bytes(range(256)) * 64)  # the same payload twice
    process.send_fd(kvm, one.process("other"))
    with pytest.raises(OSError):
        process.open("/dev/null")
    return saved(one)


def saved(one: Host) -> bytes:
    written = io.BytesIO()
    one.save(written)
    return written.getvalue()


def rewritten(file: bytes, change: Callable[[Any], Any]) -> bytes:
    """The file with its JSON changed, and a check sum that fits."""
    magic, number, length = struct.unpack_from("<15sIQ", file)
    body = json.loads(file[27 : 27 + length])
    change(body)
    text = json.dumps(body).encode()
    data = struct.pack("<15sIQ", magic, number, len(text)) + text + file[27 + length : -32]
    return data + hashlib.sha256(data).digest()


def load(data: bytes) -> Host:
    return Host.load(io.BytesIO(data))


def refused(data: bytes) -> str:
    with pytest.raises(JournalError) as told:
        load(data)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_a_file_gives_back_the_machine_and_the_same_file(file: bytes) -> None:
    assert saved(load(file)) == file
    assert state_of(load(file)) == state_of(load(file).fork())


def test_equal_payloads_are_stored_once(file: bytes) -> None:
    assert len(file) < 2 * 16384


@pytest.mark.parametrize("data", [b"", b"x", b"\x7fELF" + bytes(100), b"sevlab journal", b"{}"])
def test_what_is_no_journal_is_called_so(data: bytes) -> None:
    assert refused(data) == "this is no journal of sevlab"


def test_a_newer_format_is_called_so(file: bytes) -> None:
    newer = file[:15] + struct.pack("<I", 2) + file[19:]

    assert refused(newer).startswith("this journal has format 2, written by a newer sevlab than ")


def test_format_0_never_was(file: bytes) -> None:
    assert "damaged" in refused(file[:15] + bytes(4) + file[19:])


@given(st.data())
def test_law_a_file_cut_short_is_called_damaged_or_foreign(file: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(file) - 1))

    assert "damaged" in refused(file[:length]) or length < 27


@given(st.data())
def test_law_one_changed_byte_is_noticed(file: bytes, data: st.DataObject) -> None:
    at, change = data.draw(st.integers(0, len(file) - 1)), data.draw(st.integers(1, 255))
    bad = bytearray(file)
    bad[at] ^= change

    refused(bytes(bad))


NONSENSE: dict[str, Callable[[Any], Any]] = {
    "no entries": lambda body: body.pop("entries"),
    "no list": lambda body: body.update(entries=7),
    "an entry too short": lambda body: body["entries"][1].pop(),
    "a host that is a text": lambda body: body["entries"][1].__setitem__(0, "0"),
    "a host that is not there": lambda body: body["entries"][1].__setitem__(0, 9),
    "a process that is not there": lambda body: body["entries"][2].__setitem__(2, 77),
    "a call that is not there": lambda body: body["entries"].append([0, "step", -3, [], None]),
    "no system call": lambda body: body["entries"][2].__setitem__(1, "__class__"),
    "a private method": lambda body: body["entries"][2].__setitem__(1, "_die"),
    "no action of a host": lambda body: body["entries"][1].__setitem__(1, "_make"),
    "no code": lambda body: body["entries"][2][3].append(["os.system", "true"]),
    "an object": lambda body: body["entries"][2][3].append({}),
    "no base64": lambda body: body["entries"][2][3].append(["b", "%%%"]),
    "a payload that is not there": lambda body: body["entries"][4][3].__setitem__(1, ["s", 0, 1 << 40]),
    "a negative payload": lambda body: body["entries"][4][3].__setitem__(1, ["s", -5, 4]),
    "an unknown chip": lambda body: body["entries"][0][4][1][0].__setitem__(1, "z80"),
    "a strange looks": lambda body: body.update(looks=[[1]]),
    "another end": lambda body: body.update(now=12345),
    "the wrong host": lambda body: body.update(host=4),
    "no program": lambda body: body["entries"].append([0, "register", 0, [["g", "00" * 32, "evil"]], None]),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_with_a_good_check_sum_is_refused_in_one_sentence(file: bytes, change: Callable[[Any], Any]) -> None:
    refused(rewritten(file, change))


def test_a_class_is_looked_up_among_our_layouts_only(file: bytes) -> None:
    bad = rewritten(file, lambda body: body["entries"].append([0, "put", 1, [["w", "os:environ", 4, "AAAAAA=="]], None]))
    journal = parse(bad).journal
    kind = journal.entries[-1][3][0].kind

    assert kind.SIZE == 4 and kind.__module__ == "sevlab.journal_format"


@pytest.mark.parametrize("value", [object(), lambda: 1, 1j], ids=["object", "function", "complex"])
def test_what_a_file_cannot_hold_is_named_with_its_entry(value: Any) -> None:
    journal = Journal([(0, "write", 1, (0, value), None)])

    with pytest.raises(JournalError, match=r"^entry 1 \(write\): a journal file cannot hold "):
        dump(journal, host=0, began=0, now=0)
