"""The owner against programs that nobody here wrote, run now: libvirt's validator and two versions of sev-snp-measure."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import judges
import pytest

from sevlab import owner
from sevlab.abi import ovmf as table
from sevlab.abi.session import PacketHeader, secret_message
from sevlab.crypto import aes_ctr, hmac256

pytestmark = pytest.mark.judge

TEK, TIK = bytes(range(0x10, 0x20)), bytes(range(0x20, 0x30))
MNONCE = bytes(range(0xA0, 0xB0))
API = (0, 24, 15)
Launch = dict[str, Any]
Files = dict[str, Path]
CPUS = {"naples": (23, 1, 2), "rome": (23, 49, 0), "milan": (25, 1, 1)}
BOOT: Launch = {"kernel": b"kernel-image-bytes", "initrd": b"initrd-bytes", "append": "console=ttyS0"}
# A made-up image with all that a direct boot needs, which Debian's lacks: reset block, secret area, hash area.
SMALL = table.with_table(
    bytes(range(256)) * 32, [table.reset_block(0x80B004), table.secret_area(0x810000, 0xC00), table.hash_area(0x810C00, 0x400)]
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Keys, boot files and the made-up image, where a tool can read them."""
    contents = {"tk": TEK + TIK, "kernel": BOOT["kernel"], "initrd": BOOT["initrd"], "small": SMALL, "secret": b"sevlab-disk-key"}
    paths = {name: tmp_path / name for name in contents}
    for name, path in paths.items():
        path.write_bytes(contents[name])
    return paths


def validate(
    files: Files, firmware: Path, blob: bytes, *, policy: int, vcpus: int, cpu: str, direct: bool, **changes: object
) -> judges.Answer:
    """What libvirt's tool says of this measurement; `changes` are options by their names."""
    family, model, stepping = CPUS[cpu]
    options: dict[str, object] = {
        "measurement": b64encode(blob).decode(), "firmware": firmware, "tk": files["tk"], "policy": policy,
        "api_major": API[0], "api_minor": API[1], "build_id": API[2], "num_cpus": vcpus,
        "cpu_family": family, "cpu_model": model, "cpu_stepping": stepping,
    }  # fmt: skip
    if not policy & 4:
        for name in ("num_cpus", "cpu_family", "cpu_model", "cpu_stepping"):
            del options[name]
    if direct:
        options |= {"kernel": files["kernel"], "initrd": files["initrd"], "cmdline": BOOT["append"]}
    words = [word for name, value in (options | changes).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return judges.virt_qemu_sev_validate(words)


def measured(firmware: bytes, *, policy: int, vcpus: int, cpu: str, direct: bool) -> bytes:
    """The blob that the owner expects of such a launch."""
    digest = owner.expected_digest(firmware, es=bool(policy & 4), vcpus=vcpus, cpu=cpu, **(BOOT if direct else {}))
    return owner.expected_measurement(digest, tik=TIK, policy=policy, mnonce=MNONCE, api=API) + MNONCE


# ------------------------------------------------------------- libvirt's validator

LAUNCHES = [
    *({"policy": 1, "vcpus": 1, "cpu": "naples", "direct": direct} for direct in (False, True)),
    *(
        {"policy": 5, "vcpus": vcpus, "cpu": cpu, "direct": direct}
        for vcpus, cpu, direct in product((1, 2, 4, 8), CPUS, (False, True))
    ),
]  # fmt: skip


@pytest.mark.parametrize("launch", LAUNCHES, ids=str)
def test_libvirts_tool_trusts_what_the_owner_expects(launch: Launch, files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """virt-qemu-sev-validate of Debian's libvirt-clients-qemu: exit status 0 (firmware.md 12, test 2)."""
    answer = validate(files, ovmf_path, measured(ovmf, **launch), **launch)

    assert answer.returncode == 0, answer.stderr
    assert "Looks good to me" in answer.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": 7}, {"build_id": 16}, {"api_minor": 25}, {"api_major": 1}, {"num_cpus": 3}, {"num_cpus": 1},
        {"cpu_stepping": 3}, {"cpu_model": 49}, {"cmdline": "console=ttyS1"},
    ],
    ids=str,
)  # fmt: skip
def test_libvirts_tool_and_the_owner_refuse_the_same_lies(changes: Launch, files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """The blob is right, what the tool is told is not: exit status 1, and our verdict agrees."""
    launch: Launch = {"policy": 5, "vcpus": 2, "cpu": "naples", "direct": True}
    blob = measured(ovmf, **launch)
    assert validate(files, ovmf_path, blob, **launch).returncode == 0

    told = launch | {"policy": changes.get("policy", 5), "vcpus": changes.get("num_cpus", 2)}
    others = {name: value for name, value in changes.items() if name not in ("policy", "num_cpus")}
    answer = validate(files, ovmf_path, blob, **told, **others)
    assert answer.returncode == 1, answer.stderr

    family, model, stepping = CPUS["naples"]
    cpu = (family, changes.get("cpu_model", model), changes.get("cpu_stepping", stepping))
    boot = BOOT | {"append": changes.get("cmdline", BOOT["append"])}
    verdict = owner.check_measurement(
        blob,
        digest=owner.expected_digest(ovmf, es=True, vcpus=told["vcpus"], cpu=cpu, **boot),
        tik=TIK,
        policy=told["policy"],
        api=(changes.get("api_major", 0), changes.get("api_minor", 24), changes.get("build_id", 15)),
    )
    assert not verdict


def test_libvirts_tool_refuses_an_image_with_one_byte_changed(files: Files, ovmf: bytes, tmp_path: Path) -> None:
    """Exit status 1 for the last byte before the table of an honest image."""
    launch: Launch = {"policy": 1, "vcpus": 1, "cpu": "naples", "direct": False}
    evil = tmp_path / "evil.fd"
    evil.write_bytes(ovmf[:4096] + b"\x90" + ovmf[4097:])

    assert validate(files, evil, measured(ovmf, **launch), **launch).returncode == 1


def test_libvirts_tool_refuses_a_measurement_under_another_key(files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """Exit status 1 for an honest image measured under the key of zeros."""
    blob = owner.expected_measurement(owner.expected_digest(ovmf), tik=bytes(16), policy=1, mnonce=MNONCE, api=API) + MNONCE

    assert validate(files, ovmf_path, blob, policy=1, vcpus=1, cpu="naples", direct=False).returncode == 1
    verdict = owner.check_measurement(blob, digest=owner.expected_digest(ovmf), tik=TIK, policy=1, api=API)
    assert "with the key of zeros" in verdict.reason


def test_the_two_sides_of_init2_disagree_by_design(files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """libvirt's tool knows the save area of KVM_SEV_ES_INIT only (firmware.md 5.2): exit status 1, and the owner can say why."""
    arguments: Launch = {"es": True, "vcpus": 2, "cpu": "rome"}
    digest = owner.expected_digest(ovmf, **arguments, vmsa_variant="init2")
    blob = owner.expected_measurement(digest, tik=TIK, policy=5, mnonce=MNONCE) + MNONCE

    assert validate(files, ovmf_path, blob, policy=5, vcpus=2, cpu="rome", direct=False).returncode == 1
    others = owner.digest_variants(ovmf, **arguments)
    verdict = owner.check_measurement(blob, digest=owner.expected_digest(ovmf, **arguments), tik=TIK, policy=5, others=others)
    assert verdict.reason.endswith("one made by KVM_SEV_INIT2, whose FPU registers are measured")


def inject(files: Files, firmware: Path, blob: bytes) -> tuple[bytes, bytes]:
    """(header, payload) of the secret packet that libvirt's tool builds once it trusts the measurement."""
    header, payload = (files["tk"].with_name(name) for name in ("header", "payload"))
    answer = validate(
        files, firmware, blob, policy=1, vcpus=1, cpu="naples", direct=False,
        inject_secret=f"luks-key:{files['secret']}", secret_header=header, secret_payload=payload,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return b64decode(header.read_text()), b64decode(payload.read_text())


def test_a_packet_that_libvirts_tool_builds_opens_with_the_owners_keys(files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """virt-qemu-sev-validate --inject-secret: MAC, decryption and table, by our rules (firmware.md 4.12 d)."""
    blob = measured(ovmf, policy=1, vcpus=1, cpu="naples", direct=False)
    header, ciphertext = inject(files, ovmf_path, blob)
    packet = PacketHeader.unpack(header)

    length = len(ciphertext)
    assert packet.mac == hmac256(TIK, secret_message((0, 24), packet.flags, packet.iv, length, length, ciphertext, blob[:32]))
    payload = aes_ctr(TEK, packet.iv, ciphertext)
    assert owner.secret_entries(payload) == [("736869e5-84f0-4973-92ec-06879ce3da0b", b"sevlab-disk-key")]
    assert owner.wrap_secret(TEK, TIK, blob, payload, iv=packet.iv) == (header, ciphertext)


def test_libvirts_table_is_ours_but_for_its_padding(files: Files, ovmf_path: Path, ovmf: bytes) -> None:
    """The tool adds 16 zeros where the table is aligned already (firmware.md 4.11); otherwise the bytes are the same."""
    blob = measured(ovmf, policy=1, vcpus=1, cpu="naples", direct=False)
    for secret in (b"sevlab-disk-key", b"24 bytes make it aligned"):
        files["secret"].write_bytes(secret)
        header, ciphertext = inject(files, ovmf_path, blob)
        payload, ours = aes_ctr(TEK, header[4:20], ciphertext), owner.secret_table({"luks-key": secret})

        assert payload == (ours if (40 + len(secret)) % 16 else ours + bytes(16))


# ------------------------------------------------------------- sev-snp-measure

VERSIONS = {"0.0.9": "legacy", "0.0.13": "init2"}
MODELS = {"naples": "EPYC-v4", "rome": "EPYC-Rome", "milan": "EPYC-Milan"}


def measure(version: str, words: Sequence[str | Path]) -> str:
    """The digest, as hex, that sev-snp-measure prints."""
    answer = judges.sev_snp_measure(version, words)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("chip", MODELS)
@pytest.mark.parametrize("vcpus", [1, 2, 4, 8])
def test_sev_snp_measure_gives_the_owners_digest_of_an_es_guest(
    version: str, chip: str, vcpus: int, ovmf_path: Path, ovmf: bytes
) -> None:
    """sev-snp-measure --mode seves: 0.0.9 knows the legacy save area, 0.0.13 that of KVM_SEV_INIT2 (firmware.md 12, test 2)."""
    theirs = measure(version, ["--mode", "seves", "--vcpus", str(vcpus), "--vcpu-type", MODELS[chip], "--ovmf", ovmf_path])

    ours = {how: owner.expected_digest(ovmf, es=True, vcpus=vcpus, cpu=chip, vmsa_variant=how).hex() for how in VERSIONS.values()}
    assert theirs == ours.pop(VERSIONS[version])
    assert theirs not in ours.values()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["sev", "seves"])
def test_sev_snp_measure_gives_the_owners_digest_of_a_direct_boot(version: str, mode: str, files: Files) -> None:
    """sev-snp-measure --kernel --initrd --append, on a made-up image that has a hash area."""
    boot = ["--kernel", files["kernel"], "--initrd", files["initrd"], "--append", BOOT["append"]]
    theirs = measure(version, ["--mode", mode, "--vcpus", "2", "--vcpu-type", "EPYC-Rome", "--ovmf", files["small"], *boot])

    es = mode == "seves"
    meant: Launch = {"es": es, "vcpus": 2, "cpu": "rome", "vmsa_variant": VERSIONS[version], **BOOT}
    assert theirs == owner.expected_digest(SMALL, **meant).hex()
    assert theirs not in {digest.hex() for digest in owner.digest_variants(SMALL, **meant).values()}


@pytest.mark.parametrize("vmm", ["ec2", "gce"])
def test_sev_snp_measure_gives_the_owners_digest_for_the_clouds(vmm: str, ovmf_path: Path, ovmf: bytes) -> None:
    """sev-snp-measure 0.0.13 --vmm-type (firmware.md 5.2); 0.0.9 knows no GCE, and starts EC2's vCPUs with another RDX."""
    words = ["--mode", "seves", "--vcpus", "2", "--vcpu-type", "EPYC-v4", "--vmm-type", vmm, "--ovmf", ovmf_path]

    assert measure("0.0.13", words) == owner.expected_digest(ovmf, es=True, vcpus=2, vmm=vmm).hex()


@pytest.mark.parametrize("version", VERSIONS)
def test_sev_snp_measure_refuses_a_kernel_where_the_image_has_no_hash_area(version: str, files: Files, ovmf_path: Path) -> None:
    """Debian's OVMF has an area of size 0: this tool minds, libvirt's does not, and the owner computes what he is asked (5.3)."""
    answer = judges.sev_snp_measure(
        version, ["--mode", "sev", "--ovmf", ovmf_path, "--kernel", files["kernel"], "--vcpus", "1", "--vcpu-type", "EPYC-v4"]
    )

    assert answer.returncode != 0
    assert "doesn't support kernel/initrd/cmdline measurement" in answer.stderr
