"""The platform's verbs: what it shows, what it exports, and how its keys and owner change and stay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sevlab.abi.cert import SevCert
from sevlab.owner import EMULATED_ROOT, verify_chain

NAMES = ("ark", "ask", "cek", "oca", "pek", "pdh")


def certificates(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.cert").read_bytes() for name in NAMES}


# ------------------------------------------------------------- export


def test_export_makes_the_folder_and_writes_six_files(sevlab, tmp_path):
    found = sevlab("--seed", 7, "export", "certs")

    assert found.status == 0 and found.err == ""
    assert sorted(path.name for path in (tmp_path / "certs").iterdir()) == sorted(f"{name}.cert" for name in NAMES)


def test_what_is_exported_is_a_chain_of_the_emulated_root_with_a_signed_cek(sevlab, tmp_path):
    sevlab("--seed", 7, "export", "certs")

    verdict = verify_chain(tmp_path / "certs")
    assert verdict.ok and verdict.root == EMULATED_ROOT


def test_the_same_seed_is_the_same_platform_and_another_is_another(sevlab, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        sevlab("--seed", seed, "export", name)

    a, b, c = (certificates(tmp_path / name) for name in "abc")
    assert a == b
    assert {name for name in NAMES if a[name] == c[name]} == {"ark", "ask"}


def test_certificates_carry_the_firmwares_version(sevlab, tmp_path):
    sevlab("--seed", 7, "--firmware-api", "0.22.9", "export", "certs")

    pek = SevCert.unpack((tmp_path / "certs/pek.cert").read_bytes())
    assert (pek.api_major, pek.api_minor) == (0, 22)


def test_export_into_a_folder_that_is_there_leaves_its_other_files_alone(sevlab, tmp_path):
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/notes").write_text("mine")

    assert sevlab("--seed", 7, "export", "certs").status == 0
    assert (tmp_path / "certs/notes").read_text() == "mine"


def test_the_full_chain_is_one_file_in_sevctls_order(sevlab, tmp_path):
    sevlab("--seed", 7, "export", "--full", "chain")
    sevlab("--seed", 7, "export", "certs")

    parts = certificates(tmp_path / "certs")
    assert (tmp_path / "chain").read_bytes() == b"".join(parts[name] for name in ("pdh", "pek", "oca", "cek", "ask", "ark"))


@pytest.mark.parametrize("where", ["short", "none/deep"])
def test_export_to_where_no_folder_can_be_fails_and_leaves_nothing(refused, files, where):
    assert re.search("this is a file|No such file", refused(1, "--seed", 7, "export", files.get(where, where)))


def test_without_a_seed_the_chosen_one_is_told_and_repeats_the_platform(sevlab, tmp_path):
    chosen = re.search(r"--seed (\d+)", sevlab("export", "a").err)
    assert chosen

    sevlab("--seed", chosen[1], "export", "b")
    assert certificates(tmp_path / "a") == certificates(tmp_path / "b")


# ------------------------------------------------------------- verify


def test_verify_accepts_what_export_wrote_and_names_the_root_as_emulated(sevlab):
    sevlab("--seed", 7, "export", "certs")

    found = sevlab("verify", "certs")
    assert found.status == 0
    assert found.out.count("ok  ") == 8
    assert "emulated root" in found.out and "no AMD hardware" in found.out


def test_verify_without_a_folder_judges_the_platform_of_the_seed(sevlab):
    assert sevlab("--seed", 7, "verify").status == 0


def test_verify_takes_a_chain_file_and_sevctls_three_options(sevlab, tmp_path):
    sevlab("--seed", 7, "export", "--full", "chain")
    whole = (tmp_path / "chain").read_bytes()
    (tmp_path / "sev").write_bytes(whole[: 4 * 2084])
    (tmp_path / "ca").write_bytes(whole[4 * 2084 :])
    (tmp_path / "oca").write_bytes(whole[2 * 2084 : 3 * 2084])

    assert sevlab("verify", "chain").status == 0
    assert sevlab("verify", "--sev", "chain").status == 0
    assert sevlab("verify", "--sev", "sev", "--ca", "ca", "--oca", "oca").status == 0


@pytest.mark.parametrize("product", ["naples", "rome"])
def test_verify_accepts_the_chains_of_two_real_chips(sevlab, shared, product):
    found = sevlab("verify", shared / "data/certs" / product)

    assert found.status == 0 and "AMD's root" in found.out and "emulated" not in found.out


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_byte_in_any_certificate_is_refused_with_status_1(sevlab, tmp_path, name):
    sevlab("--seed", 7, "export", "certs")
    path = tmp_path / f"certs/{name}.cert"
    data = bytearray(path.read_bytes())
    data[0x60] ^= 1
    path.write_bytes(data)

    found = sevlab("verify", "certs")
    assert found.status == 1 and found.err.startswith("sevlab: the chain is refused: ") and found.err.count("\n") == 1


def test_a_certificate_of_another_platform_is_refused(sevlab, tmp_path):
    sevlab("--seed", 7, "export", "a")
    sevlab("--seed", 8, "export", "b")
    (tmp_path / "a/cek.cert").write_bytes((tmp_path / "b/cek.cert").read_bytes())

    assert sevlab("verify", "a").status == 1


def test_an_empty_folder_is_refused_with_the_names_of_what_is_missing(refused, tmp_path):
    (tmp_path / "certs").mkdir()

    assert "ark.cert and ask.cert" in refused(1, "verify", "certs")


def test_a_missing_certificate_is_named(sevlab, refused, tmp_path):
    sevlab("--seed", 7, "export", "certs")
    (tmp_path / "certs/oca.cert").unlink()

    assert refused(1, "verify", "certs").endswith("oca.cert is missing")


@pytest.mark.parametrize("name", ["missing", "empty", "short", "large.fd"])
def test_what_is_no_chain_is_refused(refused, files, name):
    refused(1, "verify", files[name])


def test_a_chain_without_its_root_asks_for_it(sevlab, refused, tmp_path):
    sevlab("--seed", 7, "export", "--full", "chain")
    (tmp_path / "sev").write_bytes((tmp_path / "chain").read_bytes()[: 4 * 2084])

    assert "--ca names the file" in refused(1, "verify", "--sev", "sev")


def test_a_folder_beside_named_files_is_misuse(refused):
    assert "takes a folder, or the files" in refused(2, "verify", "certs", "--sev", "sev")


# ------------------------------------------------------------- show and ok


def test_show_prints_one_fact_as_sevctl_does(sevlab):
    assert sevlab("--seed", 7, "show", "version").out == "0.24.15\n"
    assert sevlab("--seed", 7, "--firmware-api", "1.55.25", "show", "version").out == "1.55.25\n"
    assert sevlab("--seed", 7, "show", "guests").out == "0\n"
    assert "owned" not in sevlab("--seed", 7, "show", "flags").out


def test_the_identifier_is_the_chips_and_no_others(sevlab):
    first, again, other = (sevlab("--seed", seed, "show", "identifier").out.strip() for seed in (7, 7, 8))

    assert first == again != other and re.fullmatch("[0-9a-f]{128}", first)


@pytest.mark.parametrize("chip", ["naples", "rome", "milan"])
def test_every_chip_is_ok_with_sev_and_es(sevlab, chip):
    for words in ((), ("sev",), ("es",)):
        found = sevlab("--chip", chip, "--seed", 7, "ok", *words)
        assert found.status == 0 and "FAIL" not in found.out and "emulated" in found.out


def test_snp_is_not_modelled_and_ok_says_so(sevlab):
    found = sevlab("--chip", "milan", "--seed", 7, "ok", "snp")

    assert found.status == 1
    assert "[ FAIL ] Secure Nested Paging (SEV-SNP): not modelled" in found.out


def test_ok_tells_a_kernel_with_init2_from_one_without(sevlab):
    assert "by KVM_SEV_INIT2" in sevlab("--seed", 7, "--design", "linux-6.12", "ok").out
    assert "by KVM_SEV_ES_INIT" in sevlab("--seed", 7, "--design", "linux-6.1", "ok").out


# ------------------------------------------------------------- a platform that is kept


@pytest.mark.parametrize(("verb", "words"), [("provision", ("cert", "key")), ("reset", ()), ("rotate", ())])
def test_a_verb_that_changes_the_platform_asks_for_its_file(refused, verb, words):
    assert "sevlab --nv FILE" in refused(2, "--seed", 7, verb, *words)


def test_a_kept_platform_is_the_same_platform(sevlab, tmp_path):
    for name in ("a", "b"):
        assert sevlab("--seed", 7, "--nv", "nv", "export", name).status == 0
    sevlab("--seed", 7, "export", "c")

    assert (tmp_path / "nv").stat().st_size == 0x8000
    assert certificates(tmp_path / "a") == certificates(tmp_path / "b") == certificates(tmp_path / "c")


def test_rotate_makes_a_new_pdh_and_nothing_else(sevlab, tmp_path):
    platform = ("--seed", 7, "--nv", "nv")
    sevlab(*platform, "export", "a")
    assert sevlab(*platform, "rotate").status == 0
    sevlab(*platform, "export", "b")

    a, b = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    assert {name for name in NAMES if a[name] != b[name]} == {"pdh"}
    assert sevlab("verify", "b").status == 0


def test_reset_makes_new_keys_for_the_same_chip(sevlab, tmp_path):
    platform = ("--seed", 7, "--nv", "nv")
    sevlab(*platform, "export", "a")
    assert sevlab(*platform, "reset").status == 0
    sevlab(*platform, "export", "b")

    a, b = certificates(tmp_path / "a"), certificates(tmp_path / "b")
    assert {"oca", "pek", "pdh"} & {name for name in NAMES if a[name] == b[name]} == set()
    assert a["cek"] == b["cek"] and sevlab("verify", "b").status == 0


def test_an_owner_takes_the_platform_once(sevlab, refused, tmp_path):
    platform = ("--seed", 7, "--nv", "nv")
    assert sevlab("generate", "oca.cert", "oca.key").status == 0
    assert (tmp_path / "oca.key").stat().st_mode & 0o077 == 0

    assert sevlab(*platform, "provision", "oca.cert", "oca.key").status == 0
    assert "owned" in sevlab(*platform, "show", "flags").out
    sevlab(*platform, "export", "certs")
    assert (tmp_path / "certs/oca.cert").read_bytes() == (tmp_path / "oca.cert").read_bytes()
    assert sevlab("verify", "certs").status == 0
    assert "PEK_CERT_IMPORT was refused: EIO, the firmware said ALREADY_OWNED" in refused(
        1, *platform, "provision", "oca.cert", "oca.key"
    )

    assert sevlab(*platform, "reset").status == 0
    assert "owned" not in sevlab(*platform, "show", "flags").out


def test_the_owners_key_is_what_openssl_reads(sevlab, tmp_path):
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    sevlab("generate", "oca.cert", "oca.key")

    numbers = load_der_private_key((tmp_path / "oca.key").read_bytes(), None).public_key().public_numbers()
    assert SevCert.unpack((tmp_path / "oca.cert").read_bytes()).public == (numbers.x, numbers.y)


@pytest.mark.parametrize(
    ("cert", "key", "line"),
    [
        ("oca.cert", "other.key", "not the key of that certificate"),
        ("oca.cert", "short", "no P-384 private key"),
        ("oca.cert", "missing", "No such file"),
        ("short", "oca.key", "has 2084 bytes"),
        ("missing", "oca.key", "No such file"),
    ],
)
def test_an_owner_with_bad_files_changes_nothing(sevlab, refused, files, tmp_path, cert, key, line):
    sevlab("generate", "oca.cert", "oca.key")
    sevlab("generate", "other.cert", "other.key")
    sevlab("--seed", 7, "--nv", "nv", "export", "certs")
    before = (tmp_path / "nv").read_bytes()

    assert line in refused(1, "--seed", 7, "--nv", "nv", "provision", files.get(cert, cert), files.get(key, key))
    assert (tmp_path / "nv").read_bytes() == before


@pytest.mark.parametrize("seed", [8, 9])
def test_the_file_of_another_platform_is_refused_and_kept(sevlab, refused, tmp_path, seed):
    sevlab("--seed", 7, "--nv", "nv", "export", "certs")
    before = (tmp_path / "nv").read_bytes()

    assert "another platform wrote it" in refused(1, "--seed", seed, "--nv", "nv", "rotate")
    assert (tmp_path / "nv").read_bytes() == before


@pytest.mark.parametrize("name", ["short", "empty", "folder", "none/nv"])
def test_a_file_that_is_no_persistent_area_is_refused(refused, files, name):
    refused(1, "--seed", 7, "--nv", files.get(name, name), "rotate")


def test_the_owners_certificate_and_key_are_two_files(refused, tmp_path):
    (tmp_path / "link").symlink_to("oca")

    for other in ("oca", "./oca", "link"):
        assert "two files" in refused(2, "generate", "oca", other)


def test_an_nv_that_never_ends_is_not_read_to_its_end(refused):
    assert "takes 32768 bytes, this file has more" in refused(1, "--seed", 7, "--nv", "/dev/zero", "show", "version")


@pytest.mark.parametrize("words", [("--nv", "", "show", "version"), ("export", ""), ("verify", ""), ("generate", "", "key")])
def test_a_path_without_a_name_is_none(refused, words):
    assert "the name of a file or folder is missing" in refused(2, *words)
