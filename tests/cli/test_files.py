"""What comes in and goes out of files: all or nothing, and one line about what is wrong."""

from __future__ import annotations

import base64
import os
import stat

import pytest

from sevlab.cli.files import Failed, Misused, api_version, blob, blob_or_text, firmware, integer, policy, read, save


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("7", 7), ("0x1F", 31), ("0Xff", 255), ("007", 7)])
def test_a_number_is_decimal_or_hex(text, value):
    assert integer(text) == value


@pytest.mark.parametrize("text", ["", "-1", "0x", "1e3", "1_000", " 1", "0b1", "seven", "0x1g", "٣"])
def test_what_is_no_number_is_misuse(text):
    with pytest.raises(Misused, match="no number"):
        integer(text)


def test_a_number_beyond_its_limit_is_misuse():
    with pytest.raises(Misused, match="more than 0xff"):
        integer("256", most=255)


@pytest.mark.parametrize("bit", range(6, 16))
def test_a_policy_with_a_reserved_bit_is_misuse_and_names_the_bit(bit):
    with pytest.raises(Misused, match=rf"reserved bits 6 to 15 must be zero, these are not: {bit}$"):
        policy(hex(1 << bit | 1))


@pytest.mark.parametrize("text", ["0", "5", "0x3f", "0xffff003f", "4294901823"])
def test_a_policy_may_use_every_other_bit(text):
    assert policy(text) == int(text, 0)


@pytest.mark.parametrize("text", ["0x100000000", "-1", "nodbg"])
def test_a_policy_has_32_bits(text):
    with pytest.raises(Misused):
        policy(text)


@pytest.mark.parametrize("text", ["", "0.24", "0.24.15.1", "0.24.256", "a.b.c", "0.24.", "-1.0.0"])
def test_a_firmware_version_is_three_small_numbers(text):
    with pytest.raises(Misused, match=r"MAJOR\.MINOR\.BUILD"):
        api_version(text)


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "long").write_bytes(bytes(11))

    for path, why in (("none", "No such file"), ("", "Is a directory"), ("empty", "is empty"), ("long", "more than 10 bytes")):
        with pytest.raises(Failed, match=why):
            read(tmp_path / path, "file", most=10)


@pytest.mark.parametrize("size", [1, 15, 4095, 4097, 6000])
def test_a_firmware_image_is_whole_pages(tmp_path, size):
    (tmp_path / "f").write_bytes(bytes(size))

    with pytest.raises(Failed, match="no multiple of 4096"):
        firmware(str(tmp_path / "f"))


def test_a_firmware_image_has_at_most_16_mebibytes(tmp_path):
    (tmp_path / "most").write_bytes(bytes(16 << 20))
    (tmp_path / "more").write_bytes(bytes((16 << 20) + 1))

    assert len(firmware(str(tmp_path / "most"))) == 16 << 20
    with pytest.raises(Failed, match="more than 16 777 216 bytes"):
        firmware(str(tmp_path / "more"))


# ------------------------------------------------------------- raw or base64


def test_a_blob_may_be_raw_or_base64_with_line_breaks(tmp_path):
    data = bytes(range(128))
    text = base64.b64encode(data)
    for name, content in (
        ("raw", data),
        ("flat", text),
        ("lines", b"\n".join(text[i : i + 64] for i in range(0, len(text), 64)) + b"\n"),
    ):
        (tmp_path / name).write_bytes(content)

        assert blob(tmp_path / name, "session", 128) == data


@pytest.mark.parametrize("content", [bytes(127), bytes(129), base64.b64encode(bytes(127)), b"!" * 128 + b"!", b"====", b"QUJD"])
def test_a_blob_of_another_length_is_refused_and_its_length_told(tmp_path, content):
    (tmp_path / "f").write_bytes(content)

    with pytest.raises(Failed, match=rf"takes 128 bytes, raw or base64, and has {len(content)} bytes"):
        blob(tmp_path / "f", "session", 128)


def test_raw_bytes_that_happen_to_be_base64_are_taken_by_their_length(tmp_path):
    (tmp_path / "tik").write_bytes(b"ABCDEFGHIJKLMNOP")

    assert blob(tmp_path / "tik", "tik", 16) == b"ABCDEFGHIJKLMNOP"


def test_a_word_is_a_path_where_there_is_such_a_file_and_base64_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tik").write_bytes(bytes(16))

    assert blob_or_text("tik", "tik", 16) == bytes(16)
    assert blob_or_text(base64.b64encode(b"x" * 16).decode(), "tik", 16) == b"x" * 16
    with pytest.raises(Failed, match="neither a file nor base64"):
        blob_or_text("no such file", "tik", 16)
    with pytest.raises(Failed, match="this base64 has 3"):
        blob_or_text("QUJD", "tik", 16)


# ------------------------------------------------------------- writing


def test_files_are_written_all_or_none(tmp_path):
    (tmp_path / "old").write_bytes(b"before")
    (tmp_path / "taken").mkdir()

    with pytest.raises(Failed, match="taken: Is a directory"):
        save({tmp_path / "old": b"after", tmp_path / "new": b"new", tmp_path / "taken": b"never"})

    assert (tmp_path / "old").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "taken"]


def test_a_folder_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(Failed, match="No such file or directory"):
        save({tmp_path / "a": b"a", tmp_path / "none" / "b": b"b"})

    assert list(tmp_path.iterdir()) == []


def test_keys_are_readable_by_their_owner_only(tmp_path):
    mask = os.umask(0o022)
    try:
        save({tmp_path / "open": b"o", tmp_path / "key": b"k"}, secret=(tmp_path / "key",))
    finally:
        os.umask(mask)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"open": 0o644, "key": 0o600}


def test_a_link_is_written_through_and_stays_a_link(tmp_path):
    (tmp_path / "there").write_bytes(b"before")
    (tmp_path / "link").symlink_to("there")

    save({tmp_path / "link": b"after"})

    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_bytes() == b"after"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    save({tmp_path / "pipe": b"through", tmp_path / "file": b"f"})

    assert os.read(reader, 100) == b"through"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    save({tmp_path / ("n" * 255): b"long"})

    assert (tmp_path / ("n" * 255)).read_bytes() == b"long"


def test_a_number_of_thousands_of_digits_is_a_number(tmp_path):
    assert integer("0" * 5000 + "7") == 7
    with pytest.raises(Misused, match=r"^seed: 9{48}\.\.\. is more than 0xffffffffffffffff$"):
        integer("9" * 5000, "seed")
    with pytest.raises(Misused, match=r"is no MAJOR\.MINOR\.BUILD"):
        api_version("1" * 5000 + ".1.1")


@pytest.mark.parametrize("word", ["a\udcff\udcfe", "A" * 5000 + "!", "\udcff" * 300])
def test_a_word_that_is_no_text_is_no_base64_either(word):
    with pytest.raises(Failed, match=r"^tik: .{1,400} is neither a file nor base64$"):
        blob_or_text(word, "tik", 16)
