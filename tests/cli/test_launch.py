"""`sevlab launch`: the main road on a command line, and every way to leave it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
import sys

import judges
import pytest

from sevlab import guest, owner
from sevlab.abi import boot

CPUS = {"naples": (23, 1, 2), "rome": (23, 49, 0), "milan": (25, 1, 1)}
LUKS = "736869e5-84f0-4973-92ec-06879ce3da0b"
KEYS = {
    "api_major": int, "api_minor": int, "build_id": int, "policy": int, "state": int, "handle": int, "asid": int, "vcpus": int,
    "cpu": dict, "state_name": str, "launch_digest": str, "measurement": str,
}  # fmt: skip


@pytest.fixture
def owned(sevlab, tmp_path):
    """owned(policy, chip=...) makes certificates and a session for platform 7 and gives launch's options for them."""

    def make(policy, chip="rome"):
        assert sevlab("--seed", 7, "--chip", chip, "export", "certs").status == 0
        assert sevlab("session", "--policy", policy, "certs/pdh.cert").status == 0
        return ("--policy", policy, "--session", "vm_session.b64", "--dh-cert", "vm_godh.b64")

    return make


@pytest.fixture
def launch(sevlab):
    """launch(...) is the JSON of a launch on platform 7 that succeeds."""

    def run(*words, chip="rome", before=()):
        found = sevlab("--seed", 7, "--chip", chip, *before, "launch", *words, "--json")
        assert found.status == 0, found.err
        return json.loads(found.out)

    return run


def validate(found, ovmf_path, *words, **changed):
    """The exit status of libvirt's own checker on a launch's JSON, with some of its facts changed."""
    facts = found | changed
    family, model, stepping = (facts["cpu"][key] for key in ("family", "model", "stepping"))
    args = ["--measurement", facts["measurement"], "--firmware", facts.get("firmware", ovmf_path)]
    args += ["--api-major", facts["api_major"], "--api-minor", facts["api_minor"], "--build-id", facts["build_id"]]
    args += ["--policy", facts["policy"], "--tek", "vm_tek.bin", "--tik", "vm_tik.bin", *words]
    if facts["policy"] & 4:
        args += ["--num-cpus", facts["vcpus"], "--cpu-family", family, "--cpu-model", model, "--cpu-stepping", stepping]
    return judges.virt_qemu_sev_validate([str(word) for word in args]).returncode


# ------------------------------------------------------------- the foreign verdict


@pytest.mark.judge
@pytest.mark.parametrize("direct", [False, True], ids=["firmware", "kernel"])
@pytest.mark.parametrize(("policy", "vcpus"), [(1, 1), (5, 1), (5, 2), (5, 4), (5, 8)])
@pytest.mark.parametrize("chip", CPUS)
def test_libvirts_checker_accepts_the_measurement_of_a_real_image(launch, owned, files, ovmf_path, chip, policy, vcpus, direct):
    """Vector: virt-qemu-sev-validate of Debian's libvirt-clients-qemu, on Debian's OVMF.fd."""
    blobs = ("--kernel", files["kernel"], "--initrd", files["initrd"])
    es = ("--es",) if policy & 4 else ()
    found = launch(
        "--firmware", ovmf_path, *owned(policy, chip), *es, "--vcpus", vcpus,
        *((*blobs, "--append", "console=ttyS0") if direct else ()), chip=chip,
    )  # fmt: skip

    assert tuple(found["cpu"].values()) == CPUS[chip]
    assert validate(found, ovmf_path, *((*blobs, "--cmdline", "console=ttyS0") if direct else ())) == 0


@pytest.mark.judge
def test_libvirts_checker_refuses_everything_that_is_not_this_launch(launch, owned, files, ovmf_path, tmp_path):
    found = launch("--firmware", ovmf_path, *owned(5), "--vcpus", 2)
    changed = bytearray(ovmf_path.read_bytes())
    changed[0x1234] ^= 1
    (tmp_path / "changed.fd").write_bytes(changed)

    assert validate(found, ovmf_path) == 0
    assert validate(found, ovmf_path, build_id=16) == 1
    assert validate(found, ovmf_path, policy=7) == 1
    assert validate(found, ovmf_path, vcpus=3) == 1
    assert validate(found, ovmf_path, firmware=tmp_path / "changed.fd") == 1
    assert validate(found, ovmf_path, cpu={"family": 25, "model": 1, "stepping": 1}) == 1


@pytest.mark.judge
def test_the_packet_that_libvirts_tool_builds_is_read_by_the_guest_byte_for_byte(launch, owned, refused, ovmf_path, tmp_path):
    words = ("--firmware", ovmf_path, *owned(5), "--es", "--vcpus", 2)
    first = launch(*words)
    (tmp_path / "key").write_bytes(b"correct horse battery staple")
    packet = ("--inject-secret", "luks-key:key", "--secret-header", "h.b64", "--secret-payload", "p.b64")
    assert validate(first, ovmf_path, *packet) == 0

    second = launch(*words, "--inject-secret", "h.b64", "p.b64", "--secret-gpa", "0x820000")
    assert second["measurement"] == first["measurement"]
    assert [data for _, data in owner.secret_entries(bytes.fromhex(second["secret"]))] == [b"correct horse battery staple"]

    spoilt = bytearray(base64.b64decode((tmp_path / "p.b64").read_bytes()))
    spoilt[-1] ^= 1
    (tmp_path / "p.b64").write_bytes(base64.b64encode(spoilt))
    line = refused(1, "--seed", 7, "launch", *words, "--inject-secret", "h.b64", "p.b64", "--secret-gpa", "0x820000")
    assert line.startswith("LAUNCH_SECRET was refused: EIO, the firmware said BAD_MEASUREMENT")


@pytest.mark.judge
@pytest.mark.parametrize(("design", "version"), [("linux-6.1", "0.0.9"), ("linux-6.12", "0.0.13")])
@pytest.mark.parametrize(("chip", "model"), [("naples", "EPYC-v4"), ("rome", "EPYC-Rome"), ("milan", "EPYC-Milan")])
@pytest.mark.parametrize("vcpus", [1, 4])
def test_sev_snp_measure_prints_the_digest(launch, ovmf_path, design, version, chip, model, vcpus):
    """Vector: sev-snp-measure of PyPI; up to 0.0.9 for KVM_SEV_ES_INIT, later for KVM_SEV_INIT2."""
    words = ["--mode", "seves", "--vcpus", str(vcpus), "--vcpu-type", model, "--ovmf", str(ovmf_path)]
    theirs = judges.sev_snp_measure(version, words).stdout.strip()

    found = launch("--firmware", ovmf_path, "--policy", 5, "--vcpus", vcpus, chip=chip, before=("--design", design))
    assert found["launch_digest"] == theirs


# ------------------------------------------------------------- what it prints


def test_json_has_the_documented_keys_and_types(launch, files):
    found = launch("--firmware", files["full.fd"], "--policy", 1)

    assert {key: type(value) for key, value in found.items()} == KEYS
    assert set(found["cpu"]) == {"family", "model", "stepping"}
    assert len(base64.b64decode(found["measurement"])) == 48
    assert found["launch_digest"] == hashlib.sha256(files["full.fd"].read_bytes()).hexdigest()
    assert (found["state"], found["state_name"], found["policy"], found["vcpus"]) == (3, "RUNNING", 1, 1)


def test_the_text_says_the_same_as_the_json(sevlab, launch, files):
    found = launch("--firmware", files["full.fd"], "--policy", 5, "--vcpus", 3)

    text = sevlab("--seed", 7, "launch", "--firmware", files["full.fd"], "--policy", 5, "--vcpus", 3).out
    assert found["launch_digest"] in text and found["measurement"] in text
    assert "0x5 = NODBG ES" in text and "3 vCPUs" in text and "RUNNING" in text


def test_a_launch_is_repeated_by_its_seed_and_told_apart_by_another(sevlab, files):
    words = ("launch", "--firmware", files["full.fd"], "--policy", 1, "--json")

    first, again, other = (sevlab("--seed", seed, *words).out for seed in (7, 7, 8))
    assert first == again != other


def test_without_a_seed_the_one_on_stderr_repeats_the_launch(sevlab, files):
    words = ("launch", "--firmware", files["full.fd"], "--policy", 1, "--json")
    first = sevlab(*words)

    chosen = re.search(r"--seed (\d+) is this very machine again", first.err)
    assert chosen and sevlab("--seed", chosen[1], *words).out == first.out


def test_without_a_session_there_is_a_warning_and_keys_of_zeros(sevlab, files):
    found = sevlab("--seed", 7, "launch", "--firmware", files["full.fd"], "--policy", 1, "--json")

    blob = base64.b64decode(json.loads(found.out)["measurement"])
    digest = hashlib.sha256(files["full.fd"].read_bytes()).digest()
    assert "anybody can forge" in found.err
    assert owner.check_measurement(blob, digest=digest, tik=bytes(16), policy=1)


def test_quiet_says_nothing_but_errors(sevlab, files):
    found = sevlab("-q", "launch", "--firmware", files["full.fd"], "--policy", 1)

    assert (found.status, found.err) == (0, "")


def test_session_files_may_be_raw_or_base64(launch, owned, files, tmp_path):
    words = owned(1)
    for name in ("godh", "session"):
        (tmp_path / f"raw_{name}").write_bytes(base64.b64decode((tmp_path / f"vm_{name}.b64").read_bytes()))

    first = launch("--firmware", files["full.fd"], *words)
    second = launch("--firmware", files["full.fd"], "--policy", 1, "--session", "raw_session", "--dh-cert", "raw_godh")
    assert first == second


def test_the_firmwares_version_is_the_one_asked_for_and_in_the_measurement(launch, files):
    found = launch("--firmware", files["full.fd"], "--policy", 1, before=("--firmware-api", "0.22.9"))

    assert (found["api_major"], found["api_minor"], found["build_id"]) == (0, 22, 9)
    digest = bytes.fromhex(found["launch_digest"])
    assert owner.check_measurement(base64.b64decode(found["measurement"]), digest=digest, tik=bytes(16), policy=1, api=(0, 22, 9))


# ------------------------------------------------------------- direct boot and the secret


def test_the_course_from_file_to_secret(sevlab, launch, owned, tmp_path):
    """The course's own firmware checks the hash of its kernel, and that kernel, which was measured, reads the secret."""
    (tmp_path / "course.fd").write_bytes(guest.firmware_image())
    (tmp_path / "reader").write_bytes(guest.read_secret.image())
    (tmp_path / "key").write_bytes(b"for your eyes only")
    words = ("--firmware", "course.fd", "--kernel", "reader", "--append", "quiet", *owned(1))
    first = launch(*words)
    expected = sevlab(
        "measurement", "build", "--api-major", 0, "--api-minor", 24, "--build-id", 15, "--policy", 1, "--tik", "vm_tik.bin",
        "--launch-measure-blob", first["measurement"], "--firmware", "course.fd", "--kernel", "reader", "--cmdline", "quiet",
    )  # fmt: skip
    assert expected.out.strip() == first["measurement"]

    keys = ("--tik", "vm_tik.bin", "--tek", "vm_tek.bin", "--launch-measure-blob", first["measurement"])
    assert sevlab("secret", "build", *keys, "--secret", f"{LUKS}:key", "h", "p").status == 0
    second = launch(*words, "--inject-secret", "h", "p")

    assert owner.secret_entries(bytes.fromhex(second["secret"])) == [(LUKS, b"for your eyes only")]
    assert {key: second[key] for key in KEYS} == first


def test_hashes_go_to_their_default_place_with_a_word_that_qemu_would_refuse(sevlab, files):
    words = ("--seed", 7, "launch", "--policy", 1, "--kernel", files["kernel"], "--json", "--firmware")

    full, debian, bare = (sevlab(*words, files[name]) for name in ("full.fd", "debian.fd", "bare.fd"))
    assert "QEMU would refuse it; the hashes go to 0x810000" in debian.err and "QEMU would refuse" in bare.err
    assert "QEMU" not in full.err
    assert sevlab(*words, files["debian.fd"], "--hashes-gpa", "0x400000").err.count("QEMU") == 0


def test_a_table_is_needed_only_where_it_is_used(launch, files):
    launch("--firmware", files["bare.fd"], "--policy", 1)
    launch("--firmware", files["bare.fd"], "--policy", 1, "--kernel", files["kernel"], "--hashes-gpa", "0x10000")


# ------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--policy 1", "--firmware"),
        ("--firmware full.fd", "--policy"),
        ("--firmware full.fd --policy", "--policy"),
        ("--firmware full.fd --policy one", "no number"),
        ("--firmware full.fd --policy -1", "policy: '-1' is no number"),
        ("--firmware full.fd --policy 0x100000000", "more than 0xffffffff"),
        ("--firmware full.fd --policy 0x40", "reserved bits 6 to 15 must be zero, these are not: 6"),
        ("--firmware full.fd --policy 0xffc1", "these are not: 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"),
        ("--firmware full.fd --policy 1 --session session", "--session and --dh-cert go together"),
        ("--firmware full.fd --policy 1 --dh-cert godh", "--session and --dh-cert go together"),
        ("--firmware full.fd --policy 1 --initrd initrd", "beside a --kernel"),
        ("--firmware full.fd --policy 1 --append quiet", "beside a --kernel"),
        ("--firmware full.fd --policy 1 --hashes-gpa 0x1000", "places the hashes of a --kernel"),
        ("--firmware full.fd --policy 1 --secret-gpa 0x1000", "places the secret"),
        ("--firmware full.fd --policy 1 --inject-secret header", "--inject-secret"),
        ("--firmware full.fd --policy 1 --inject-secret header payload --secret-gpa here", "no number"),
        ("--firmware full.fd --policy 1 --es", "--es needs a policy with bit 2"),
        ("--firmware full.fd --policy 5 --vcpus 0", "at least one vCPU"),
        ("--firmware full.fd --policy 5 --vcpus many", "no number"),
        ("--firmware full.fd --policy 5 --vcpus 1025", "more than 0x400"),
        ("--firmware full.fd --policy 1 --jason", "launch does not know --jason"),
        ("--firmware full.fd --policy 1 extra", "launch does not know extra"),
        ("--firm full.fd --policy 1", "--firmware"),
    ],
)
def test_a_wrong_launch_is_status_2_in_one_line(refused, files, line, message):
    assert message in refused(2, "--seed", 7, "launch", *(files.get(word, word) for word in shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--firmware missing --policy 1", "missing: No such file or directory"),
        ("--firmware folder --policy 1", "Is a directory"),
        ("--firmware empty.fd --policy 1", "the file is empty"),
        ("--firmware odd.fd --policy 1", "8191 bytes are no multiple of 4096"),
        ("--firmware large.fd --policy 1", "more than 16 777 216 bytes"),
        ("--firmware bare.fd --policy 5", "SEV-ES needs a reset block in its table, and there is none"),
        ("--firmware bare.fd --policy 5 --es", "SEV-ES needs a reset block"),
        ("--firmware full.fd --policy 1 --kernel missing", "kernel"),
        ("--firmware full.fd --policy 1 --kernel empty", "the file is empty"),
        ("--firmware full.fd --policy 1 --kernel kernel --initrd missing", "initrd"),
        ("--firmware full.fd --policy 1 --session short --dh-cert godh", "session"),
        ("--firmware full.fd --policy 1 --session short --dh-cert godh", "takes 128 bytes, raw or base64, and has 5 bytes"),
        ("--firmware full.fd --policy 1 --session session --dh-cert short", "takes 2084 bytes"),
        ("--firmware full.fd --policy 1 --session missing --dh-cert godh", "No such file"),
        ("--firmware full.fd --policy 1 --session session --dh-cert empty", "the file is empty"),
        (
            "--firmware full.fd --policy 1 --session session --dh-cert godh",
            "LAUNCH_START was refused: EIO, the firmware said INVALID_CERTIFICATE",
        ),
        (
            "--firmware debian.fd --policy 1 --inject-secret header payload",
            "no secret area (its size is 0); say where with --secret-gpa",
        ),
        ("--firmware bare.fd --policy 1 --inject-secret header payload", "no secret area; say where"),
        ("--firmware full.fd --policy 1 --inject-secret short payload", "secret header"),
        ("--firmware full.fd --policy 1 --inject-secret header missing", "secret payload"),
        ("--firmware full.fd --policy 1 --inject-secret header empty", "the file is empty"),
        ("--firmware full.fd --policy 1 --inject-secret header long", "16400 bytes, at most 16384 pass"),
        (
            "--firmware full.fd --policy 1 --inject-secret header payload",
            "LAUNCH_SECRET was refused: EIO, the firmware said BAD_MEASUREMENT",
        ),
        ("--firmware full.fd --policy 1 --inject-secret header.b64 payload", "BAD_MEASUREMENT"),
        ("--firmware full.fd --policy 1 --inject-secret header short --secret-gpa 0x10000", "INVALID_LEN"),
        ("--firmware full.fd --policy 1 --inject-secret header payload --secret-gpa 0x10001", "INVALID_ADDRESS"),
        ("--firmware full.fd --policy 1 --inject-secret header payload --secret-gpa 0x90000000", "no memory at"),
        ("--firmware bare.fd --policy 1 --kernel kernel --hashes-gpa 0x90000000", "no memory at"),
        ("--firmware bare.fd --policy 1 --kernel kernel --hashes-gpa 0x10001", "INVALID_ADDRESS"),
        ("--firmware full.fd --policy 1 --vcpus 1024", "EMFILE (vmm has all 1024 descriptors of its RLIMIT_NOFILE in use"),
    ],
)
def test_a_launch_with_bad_files_is_status_1_in_one_line(refused, files, line, message):
    assert message in refused(1, "--seed", 7, "launch", *(files.get(word, word) for word in shlex.split(line)))


def test_a_session_of_another_platform_or_policy_is_refused_by_the_firmware(refused, owned, files):
    words = owned(1)
    said = "LAUNCH_START was refused: EIO, the firmware said BAD_MEASUREMENT"

    assert refused(1, "--seed", 8, "launch", "--firmware", files["full.fd"], *words).startswith(said)
    assert refused(1, "--seed", 7, "launch", "--firmware", files["full.fd"], *words, "--policy", 3).startswith(said)


def test_a_policy_for_newer_firmware_is_refused_by_the_firmware(refused, owned, files):
    words = owned("0x37000001")

    assert "POLICY_FAILURE" in refused(1, "--seed", 7, "launch", "--firmware", files["full.fd"], *words)


def test_a_broken_table_is_an_error_of_the_firmware_file(refused, files):
    image = bytearray(files["full.fd"].read_bytes())
    image[-50:-48] = b"\xff\xff"
    files["full.fd"].write_bytes(image)

    assert "the firmware's table says it has 65535 bytes" in refused(1, "launch", "--firmware", files["full.fd"], "--policy", 5)


def test_a_kernel_that_is_not_a_program_is_measured_and_does_not_answer(refused, owned, files, tmp_path, sevlab, launch):
    """The course's firmware jumps to what was measured; bytes that are no program shut the guest down."""
    (tmp_path / "course.fd").write_bytes(guest.firmware_image())
    words = ("--firmware", tmp_path / "course.fd", "--kernel", files["kernel"], *owned(1))
    first = launch(*words)
    sevlab("secret", "build", "--tik", "vm_tik.bin", "--tek", "vm_tek.bin", "--launch-measure-blob", first["measurement"],
           "--secret", f"{LUKS}:{files['text']}", "h", "p")  # fmt: skip

    assert "gave no answer" in refused(1, "--seed", 7, "launch", *words, "--inject-secret", "h", "p")


def test_a_launch_in_a_process_of_its_own(files):
    command = [
        sys.executable,
        "-m",
        "sevlab",
        "--seed",
        "7",
        "launch",
        "--firmware",
        str(files["full.fd"]),
        "--policy",
        "1",
        "--json",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert found.returncode == 0 and json.loads(found.stdout)["state_name"] == "RUNNING"


def test_a_failed_launch_in_a_process_of_its_own_prints_one_line_and_no_traceback(files):
    command = [sys.executable, "-m", "sevlab", "--seed", "7", "launch", "--firmware", str(files["odd.fd"]), "--policy", "1"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1)


def test_the_mailbox_of_the_boot_protocol_has_room_for_the_largest_secret():
    assert boot.MAILBOX_LIMIT - boot.Mailbox.SIZE >= 0x4000
