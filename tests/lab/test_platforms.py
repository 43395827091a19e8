"""Chains to meet before one meets them in earnest."""

from __future__ import annotations

from sevlab import Host, owner
from sevlab.abi.cert import AMD_ROOTS, USAGE_INVALID, SevCert
from sevlab.lab import chain_steps, exported_chain, home_made_chain


def test_what_a_platform_exports_is_its_chain_but_for_amds_signature(host: Host) -> None:
    signed, exported = host.chain(), exported_chain(host)

    assert {name: exported[name] for name in ("pdh", "pek", "oca")} == {name: signed[name] for name in ("pdh", "pek", "oca")}
    cek = SevCert.unpack(exported["cek"])
    assert cek.signed_bytes == SevCert.unpack(signed["cek"]).signed_bytes
    assert [usage for usage, _, _ in cek.signatures] == [USAGE_INVALID] * 2


def test_the_export_can_be_had_twice_and_leaves_no_process_behind(host: Host) -> None:
    assert exported_chain(host) == exported_chain(host)
    assert "exporter" not in host.processes


def test_in_a_home_made_chain_everything_fits_but_the_root() -> None:
    verdict = owner.verify_chain(home_made_chain())

    assert not verdict and "none of AMD's" in verdict.reason
    assert [edge.ok for edge in verdict.edges] == [False] + [True] * 7


def test_a_copied_key_id_does_not_help_the_forger() -> None:
    rome = AMD_ROOTS["Rome"].ark_id

    verdict = owner.verify_chain(home_made_chain(rome))

    assert not verdict and "an id can be copied, the key cannot" in verdict.reason


def test_the_steps_of_a_chain_are_told_from_the_root_down(host: Host) -> None:
    lines = chain_steps(owner.verify_chain(host.chain())).text.splitlines()

    assert lines[2].split("  ")[0] == "you know the ARK" and lines[-1].startswith("PEK signs PDH")
    assert all(line.endswith("yes") for line in lines[2:])


def test_a_step_that_could_not_be_checked_says_so(host: Host) -> None:
    lines = chain_steps(owner.verify_chain(host.chain() | {"ask": b""})).text

    assert "ARK signs ASK     no" in lines and "ASK signs CEK     not checked" in lines
