"""The guest owner's verbs, against the answers of sevctl itself."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from sevlab.abi import boot
from sevlab.abi.hashes import kernel_hashes
from sevlab.abi.session import Session
from sevlab.abi.vmsa import Vmsa
from sevlab.cli.main import main
from sevlab.owner import secret_entries

# sevctl, tests/measurementbuild.rs and tests/secretbuild.rs (virtee/sevctl, Apache-2.0): its inputs and its answers.
TIK = base64.b64encode(bytes.fromhex("3569cf61a32a602b87185ac6e0f55913")).decode()
NONCE = "wxP6tRHCFrFQWxsuqZA8QA=="
DIGEST = "xkvRAfyaSizgonxAjZIAkR8TmolUabBKQKb6KJCDDSM="
MEASUREMENT = "lswbxWxI9gckya16JQvdFtpYmNO4b+3inAPpqsgoBI7DE/q1EcIWsVBbGy6pkDxA"
SECRET_TIK = base64.b64encode(bytes.fromhex("c6d5a9956133050912b24bbe5c372686")).decode()
SECRET_TEK = base64.b64encode(bytes.fromhex("52a869b79ab9c13bb6a92b0561619cb3")).decode()
SECRET_BLOB = "TLeA7607lZQntLjRY1/i+sbtdSZ+75zxpz4Px9hzpBLwItF5Q2o4prA++3ZZv9ZS"
SECRET_IV = "rFR07U3TLH2YnsUj2SVZ7A=="
SECRET_HEADER = "AAAAAKxUdO1N0yx9mJ7FI9klWey8FSzeYQ4X8K71VzNKLU/KQsIsQxLjtbhaPUewqshX5Q=="
SECRET_PAYLOAD = "0U3e5PcXv0UW+H4tSBFKOdCYfKE1+j38Bc2fuO16mYiyI+sWx7INfn+lgYj56GL12yyinDa+lVfCCwD/2w5cPA=="
LUKS = "736869e5-84f0-4973-92ec-06879ce3da0b"
# SHA-256 of tests/data/vmsa0.bin and vmsa1.bin there: family 25, model 1, stepping 1, reset block 0x80b004.
VMSA0 = "f8b52f775502472e5797d2674d9de21f6abc05dc05e9bc49cbb7b6a13688d5e7"
VMSA1 = "bcee5cb289f72882da17abd8dca5e8a7e9f8e2033e7ad96b4db0ab1a383a6487"

API = ("--api-major", "0x01", "--api-minor", "40", "--build-id", "40")
BUILD = ("measurement", "build", *API, "--policy", "0x03", "--tik", TIK)


# ------------------------------------------------------------- measurement build


def test_measurement_build_answers_as_sevctl_does(sevlab):
    """Vector: sevctl, measurement_build, args1."""
    found = sevlab(*BUILD, "--nonce", NONCE, "--launch-digest", DIGEST)

    assert (found.status, found.out, found.err) == (0, MEASUREMENT + "\n", "")


def test_the_nonce_may_come_from_a_measurement_and_the_digest_in_hex(sevlab):
    found = sevlab(*BUILD, "--launch-measure-blob", MEASUREMENT, "--launch-digest", base64.b64decode(DIGEST).hex())

    assert found.out.strip() == MEASUREMENT


def test_the_measurement_goes_to_a_file_too(sevlab, tmp_path):
    sevlab(*BUILD, "--nonce", NONCE, "--launch-digest", DIGEST, "--outfile", "m.bin")

    assert (tmp_path / "m.bin").read_bytes() == base64.b64decode(MEASUREMENT)


def test_the_digest_of_files_is_that_of_their_bytes_in_launch_order(sevlab, files):
    """What sevctl hashes, computed here by hand from firmware.md 4.6, 5.2 and 5.4."""
    from sevlab.abi.hashes import kernel_hashes
    from sevlab.abi.vmsa import vmsa_page

    image = files["full.fd"].read_bytes()
    pages = vmsa_page(0xFFFFFFF0, signature=0xA00F11) + vmsa_page(boot.RESET_BLOCK, signature=0xA00F11)
    digest = hashlib.sha256(image + kernel_hashes(b"kernel-image-bytes", b"initrd-bytes", "quiet") + pages).hexdigest()
    common = ("--chip", "milan", "measurement", "build", *API, "--policy", 7, "--tik", TIK, "--nonce", NONCE)

    by_files = sevlab(
        *common,
        "--firmware",
        files["full.fd"],
        "--kernel",
        files["kernel"],
        "--initrd",
        files["initrd"],
        "--cmdline",
        "quiet",
        "--num-cpus",
        2,
    )
    by_digest = sevlab(*common, "--launch-digest", digest)

    assert by_files.status == 0 and by_files.out == by_digest.out


def test_register_pages_may_come_from_files(sevlab, files, tmp_path):
    for cpu in (0, 1):
        assert main(["vmsa", "build", f"v{cpu}", "--cpu", str(cpu), "--firmware", str(files["full.fd"])]) == 0
    common = (
        "measurement",
        "build",
        *API,
        "--policy",
        5,
        "--tik",
        TIK,
        "--nonce",
        NONCE,
        "--firmware",
        files["full.fd"],
        "--num-cpus",
        4,
    )

    assert sevlab(*common, "--vmsa-cpu0", "v0", "--vmsa-cpu1", "v1").out == sevlab(*common).out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--launch-digest", DIGEST), "takes one of --nonce and --launch-measure-blob"),
        (("--nonce", NONCE, "--launch-measure-blob", MEASUREMENT, "--launch-digest", DIGEST), "takes one of --nonce"),
        (("--nonce", NONCE), "takes one of --launch-digest and --firmware"),
        (("--nonce", NONCE, "--launch-digest", DIGEST, "--firmware", "full.fd"), "takes one of --launch-digest and --firmware"),
        (("--nonce", NONCE, "--firmware", "full.fd", "--initrd", "initrd"), "measured beside a --kernel"),
        (("--nonce", NONCE, "--firmware", "full.fd", "--policy", "5"), "--num-cpus"),
        (("--nonce", NONCE, "--firmware", "full.fd", "--policy", "5", "--num-cpus", "0"), "--num-cpus"),
        (("--nonce", NONCE, "--launch-digest", DIGEST, "--api-major", "256"), "more than 0xff"),
        (("--nonce", NONCE, "--launch-digest", DIGEST, "--policy", "0x40"), "reserved bits"),
    ],
)
def test_a_contradictory_measurement_is_misuse(refused, files, words, line):
    assert line in refused(2, *BUILD, *(files.get(word, word) for word in words))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--nonce", "QUJD", "--launch-digest", DIGEST), "nonce: takes 16 bytes, this base64 has 3"),
        (("--nonce", NONCE, "--launch-digest", NONCE), "launch-digest: takes 32 bytes"),
        (("--nonce", NONCE, "--launch-digest", "no!"), "neither a file nor base64"),
        (("--launch-measure-blob", NONCE, "--launch-digest", DIGEST), "takes 48 bytes"),
        (("--nonce", NONCE, "--firmware", "missing"), "No such file"),
        (("--nonce", NONCE, "--firmware", "odd.fd"), "no multiple of 4096"),
        (("--nonce", NONCE, "--firmware", "full.fd", "--kernel", "missing"), "No such file"),
        (("--nonce", NONCE, "--firmware", "bare.fd", "--policy", "5", "--num-cpus", "2"), "no SEV-ES reset block"),
        (
            ("--nonce", NONCE, "--firmware", "full.fd", "--policy", "5", "--num-cpus", "1", "--vmsa-cpu0", "short"),
            "has 4096 bytes, this one 5",
        ),
        (("--nonce", NONCE, "--launch-digest", DIGEST, "--outfile", "folder"), "Is a directory"),
    ],
)
def test_a_measurement_of_bad_files_fails_in_one_line(refused, files, words, line):
    assert line in refused(1, *BUILD, *(files.get(word, word) for word in words))


# ------------------------------------------------------------- secret build


def test_secret_build_writes_the_bytes_that_sevctl_writes(sevlab, tmp_path):
    """Vector: sevctl, secret_build, args1; its secret1.txt holds the 18 bytes below."""
    (tmp_path / "secret").write_bytes(b"MY-LUKS-PASSPHRASE")

    found = sevlab(
        "secret", "build", "--tik", SECRET_TIK, "--tek", SECRET_TEK, "--launch-measure-blob", SECRET_BLOB,
        "--secret", f"{LUKS}:secret", "--iv", SECRET_IV, "header", "payload",
    )  # fmt: skip

    assert found.status == 0, found
    assert base64.b64encode((tmp_path / "header").read_bytes()).decode() == SECRET_HEADER
    assert base64.b64encode((tmp_path / "payload").read_bytes()).decode() == SECRET_PAYLOAD


SECRET = ("secret", "build", "--tik", SECRET_TIK, "--tek", SECRET_TEK, "--launch-measure-blob", SECRET_BLOB)


def test_several_secrets_travel_in_one_table(sevlab, files, tmp_path):
    from sevlab.crypto import aes_ctr

    sevlab(
        *SECRET,
        "--secret",
        f"{LUKS}:{files['text']}",
        "--secret",
        f"736869e5-aaaa-4973-92ec-06879ce3da0b:{files['kernel']}",
        "h",
        "p",
    )

    header, payload = (tmp_path / "h").read_bytes(), (tmp_path / "p").read_bytes()
    table = aes_ctr(base64.b64decode(SECRET_TEK), header[4:20], payload)
    assert [data for _, data in secret_entries(table)] == [b"the secret\n", b"kernel-image-bytes"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--secret", "no-colon", "h", "p"), "is no GUID:FILE"),
        (("--secret", ":text", "h", "p"), "is no GUID:FILE"),
        (("--secret", f"{LUKS}:", "h", "p"), "is no GUID:FILE"),
        (("h", "p"), "--secret"),
        (("--secret", f"{LUKS}:text", "h"), "PAYLOAD"),
        (("--secret", f"{LUKS}:text", "same", "./same"), "two files"),
    ],
)
def test_a_secret_that_is_asked_for_wrongly_is_misuse(refused, files, words, line):
    assert line in refused(2, *SECRET, *words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--secret", "no-guid:text"), "GUID"),
        (("--secret", f"{LUKS}:missing"), "No such file"),
        (("--secret", f"{LUKS}:empty"), "is empty"),
        (("--secret", f"{LUKS}:long"), "at most 16384 bytes"),
        (("--secret", f"{LUKS}:text", "--iv", "QUJD"), "iv: takes 16 bytes"),
        (("--secret", f"{LUKS}:text", "--tik", "short"), "tik"),
        (("--secret", f"{LUKS}:text", "--launch-measure-blob", "short"), "launch-measure-blob"),
    ],
)
def test_a_secret_of_bad_files_fails_and_writes_neither_file(refused, files, words, line):
    named = [str(files.get(word, word)) for word in words]
    guid, _, path = named[1].partition(":")
    named[1] = f"{guid}:{files[path]}"

    assert line in refused(1, *SECRET, *named, "h", "p")


def test_a_secret_whose_second_file_cannot_be_written_leaves_no_first(refused, files):
    assert "No such file" in refused(1, *SECRET, "--secret", f"{LUKS}:{files['text']}", "h", "none/p")


# ------------------------------------------------------------- vmsa


@pytest.mark.parametrize(("cpu", "digest"), [(0, VMSA0), (1, VMSA1)])
def test_vmsa_build_writes_the_page_that_sevctl_writes(sevlab, files, tmp_path, cpu, digest):
    """Vector: sevctl, vmsabuild, whose image has the same reset block."""
    words = ("--userspace", "qemu", "--family", 25, "--stepping", 1, "--model", 1, "--firmware", files["full.fd"], "--cpu", cpu)

    assert sevlab("vmsa", "build", "v.bin", *words).status == 0
    assert hashlib.sha256((tmp_path / "v.bin").read_bytes()).hexdigest() == digest


def test_the_processor_is_that_of_the_chip_unless_given(sevlab, tmp_path):
    sevlab("--chip", "naples", "vmsa", "build", "a", "--cpu", 0)
    sevlab("vmsa", "build", "b", "--cpu", 0, "--family", 23, "--model", 1, "--stepping", 2)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_kernel_with_init2_starts_with_other_fpu_registers(sevlab, tmp_path):
    sevlab("--design", "linux-6.12", "vmsa", "build", "new", "--cpu", 0)
    sevlab("vmsa", "build", "old", "--cpu", 0)

    new, old = (Vmsa.unpack((tmp_path / name).read_bytes()) for name in ("new", "old"))
    assert (new.mxcsr, new.fcw, old.mxcsr, old.fcw) == (0x1F80, 0x37F, 0, 0)


def test_vmsa_update_changes_what_it_is_told_and_nothing_else(sevlab, files, tmp_path):
    sevlab("--chip", "rome", "vmsa", "build", "v", "--cpu", 0)
    sevlab("vmsa", "update", "v", "--cpu", 1, "--family", 25, "--model", 1, "--stepping", 1, "--firmware", files["full.fd"])
    sevlab("--chip", "milan", "vmsa", "build", "w", "--cpu", 1, "--firmware", files["full.fd"])

    assert (tmp_path / "v").read_bytes() == (tmp_path / "w").read_bytes()


def test_vmsa_show_prints_every_field_under_its_name(sevlab):
    sevlab("vmsa", "build", "v", "--cpu", 0)

    shown = json.loads(sevlab("vmsa", "show", "v").out)
    assert shown["cs"] == {"selector": 0xF000, "attrib": 0x9B, "limit": 0xFFFF, "base": 0xFFFF0000}
    assert (shown["rip"], shown["efer"], shown["dr7"]) == (0xFFF0, 0x1000, 0x400)


@pytest.mark.parametrize(
    ("status", "words", "line"),
    [
        (2, ("build", "v"), "--cpu"),
        (2, ("build", "v", "--cpu", "1"), "starts at the reset block of a --firmware"),
        (2, ("build", "v", "--cpu", "x"), "no number"),
        (2, ("build", "v", "--cpu", "0", "--userspace", "krun"), "invalid choice: 'krun'"),
        (2, ("build", "v", "--cpu", "0", "--stepping", "16"), "more than 0xf"),
        (2, ("mend", "v"), "invalid choice"),
        (2, (), "required"),
        (1, ("build", "v", "--cpu", "1", "--firmware", "bare.fd"), "no SEV-ES reset block"),
        (1, ("build", "v", "--cpu", "0", "--firmware", "missing"), "No such file"),
        (1, ("build", "folder", "--cpu", "0"), "Is a directory"),
        (1, ("show", "short"), "has 4096 bytes, this file has 5"),
        (1, ("show", "bare.fd"), "more than 4 096 bytes"),
        (1, ("update", "missing", "--cpu", "0"), "No such file"),
    ],
)
def test_a_wrong_vmsa_command_fails_in_one_line(refused, files, status, words, line):
    assert line in refused(status, "vmsa", *(files.get(word, word) for word in words))


# ------------------------------------------------------------- session


@pytest.fixture
def pdh(sevlab, tmp_path):
    """The PDH of platform 7."""
    assert sevlab("--seed", 7, "export", "certs").status == 0
    return tmp_path / "certs/pdh.cert"


def test_a_session_is_four_files_in_the_current_directory(sevlab, pdh, tmp_path):
    found = sevlab("session", "--policy", "0x5", "--name", "mine", pdh)

    sizes = {
        "mine_godh.b64": len(base64.b64decode((tmp_path / "mine_godh.b64").read_bytes(), validate=True)),
        "mine_session.b64": len(base64.b64decode((tmp_path / "mine_session.b64").read_bytes(), validate=True)),
        "mine_tik.bin": len((tmp_path / "mine_tik.bin").read_bytes()),
        "mine_tek.bin": len((tmp_path / "mine_tek.bin").read_bytes()),
    }
    assert found.status == 0
    assert sizes == {"mine_godh.b64": 2084, "mine_session.b64": Session.SIZE, "mine_tik.bin": 16, "mine_tek.bin": 16}
    assert (tmp_path / "mine_tik.bin").stat().st_mode & 0o077 == 0


def test_sevctls_form_gives_the_policy_last_and_the_name_may_be_left_out(sevlab, pdh, tmp_path):
    assert sevlab("session", pdh, 5).status == 0

    assert sorted(path.name for path in tmp_path.glob("vm_*")) == ["vm_godh.b64", "vm_session.b64", "vm_tek.bin", "vm_tik.bin"]


def test_the_pdh_may_be_the_first_certificate_of_a_chain_file_or_in_base64(sevlab, pdh, tmp_path):
    sevlab("--seed", 7, "export", "--full", "chain")
    (tmp_path / "pdh.b64").write_bytes(base64.b64encode(pdh.read_bytes()))

    for number, path in enumerate(("chain", "pdh.b64", pdh)):
        assert sevlab("session", "--owner-seed", 1, "--name", f"n{number}", "--policy", 1, path).status == 0
    assert len({(tmp_path / f"n{number}_session.b64").read_bytes() for number in range(3)}) == 1


def test_two_sessions_share_no_key_even_on_one_platform_seed(sevlab, pdh, tmp_path):
    for name in ("a", "b"):
        sevlab("--seed", 7, "session", "--policy", 1, "--name", name, pdh)

    assert (tmp_path / "a_tik.bin").read_bytes() != (tmp_path / "b_tik.bin").read_bytes()


@pytest.mark.parametrize(
    ("status", "words", "line"),
    [
        (2, ("PDH",), "takes one policy"),
        (2, ("PDH", "5", "--policy", "5"), "takes one policy"),
        (2, ("PDH", "five"), "no number"),
        (2, ("PDH", "--policy", "0x8000"), "reserved bits"),
        (2, ("PDH", "0x100000000"), "more than 0xffffffff"),
        (2, ("--policy", "5"), "PDH"),
        (2, ("PDH", "5", "--name", ""), "begins no file name"),
        (2, ("PDH", "5", "--shape", "round"), "invalid choice"),
        (1, ("missing", "5"), "No such file"),
        (1, ("empty", "5"), "is empty"),
        (1, ("short", "5"), "PDH"),
        (1, ("godh", "5"), "PDH"),
        (1, ("PDH", "5", "--name", "none/vm"), "No such file or directory"),
    ],
)
def test_a_session_that_cannot_be_made_leaves_no_file(refused, files, pdh, status, words, line):
    assert line in refused(status, "session", *(pdh if word == "PDH" else files.get(word, word) for word in words))


def test_a_certificate_that_is_no_pdh_makes_no_session(refused, pdh):
    assert "PDH" in refused(1, "session", pdh.with_name("pek.cert"), 5)


def test_a_command_line_that_is_no_utf_8_is_measured_as_the_bytes_it_is(sevlab, files):
    image, kernel = files["full.fd"], files["kernel"]
    found = sevlab(
        "--seed", 7, "-q", "launch", "--firmware", image, "--kernel", kernel, "--append", "a\udcff", "--policy", 1, "--json"
    )

    hashed = kernel_hashes(kernel.read_bytes(), None, b"a\xff")
    assert json.loads(found.out)["launch_digest"] == hashlib.sha256(image.read_bytes() + hashed).hexdigest()
    assert hashed == kernel_hashes(kernel.read_bytes(), None, "a\udcff")


def test_a_register_page_is_not_updated_with_nothing(sevlab, refused):
    sevlab("vmsa", "build", "v", "--cpu", 0)

    assert "nothing to change" in refused(2, "vmsa", "update", "v", "--cpu", 1)
    assert "nothing to change" in refused(2, "vmsa", "update", "v", "--cpu", 0, "--firmware", "any")


def test_header_and_payload_are_two_files_whatever_they_are_called(refused, files):
    words = (
        "--tik",
        "A" * 22 + "==",
        "--tek",
        "A" * 22 + "==",
        "--launch-measure-blob",
        "A" * 64,
        "--secret",
        f"luks-key:{files['text']}",
    )

    assert "two files" in refused(2, "secret", "build", *words, "h", "given/../h")
