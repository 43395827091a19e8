"""Which keys a KeyTree shows, and what became of them without a session."""

from __future__ import annotations

import pytest

from sevlab import Host, guest, lab, owner, vmm
from sevlab.lab.views_keytree import HOLDS, PARTIES, rows


def test_only_the_keys_that_are_named_are_shown_and_their_bonds() -> None:
    pytest.importorskip("sevlab_widgets")
    tree = lab.keytree(only=("PDH", "GODH", "Z")).widget

    assert [key.name for key in tree.keyring] == ["PDH", "GODH", "Z"]
    assert {(bond.source, bond.target) for bond in tree.bonds} == {("PDH", "Z"), ("GODH", "Z")}


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'XEK' is no key"):
        lab.keytree(only=("PDH", "XEK"))


def test_without_a_session_everybody_holds_the_transport_keys_and_nothing_leads_to_them() -> None:
    zeros = {name: who for name, _, who, _ in rows(("TEK", "TIK", "VEK"), session=False)}

    assert zeros["TEK"] == zeros["TIK"] == dict.fromkeys(PARTIES, HOLDS)
    assert zeros["VEK"] == {name: who for name, _, who, _ in rows(("VEK",))}["VEK"]
    assert not {"GODH", "Z", "KEK, KIK"} & {name for name, *_ in rows(session=False)}


def test_the_tik_of_such_a_guest_is_zeros_indeed() -> None:
    with Host(seed=7) as host:
        vm = vmm.launch(host, firmware=guest.firmware_image(), policy=1)

        assert not any(host.xray.guest(vm.handle).tik)
        assert "TIK  session; sixteen zeros" in repr(lab.keytree(None, host, vm, only=("TEK", "TIK", "VEK"), session=False))


def test_a_forged_chain_stands_beside_the_real_one_with_its_crosses() -> None:
    with Host(seed=7) as host, Host(seed=8) as other:
        real, chain = owner.verify_chain(host.chain()), host.chain()
        swapped = owner.verify_chain(chain | {"pek": other.chain()["pek"]})
        said = repr(lab.keytree(real, host, only=("CEK", "PEK", "PDH"), beside=swapped, names=("ours", "theirs")))

    ours, theirs = ([line for line in said.splitlines() if line.strip().startswith(f"{name}:")] for name in ("ours", "theirs"))
    assert ours and not [line for line in ours if "does not fit" in line]
    assert [line for line in theirs if "CEK signs" in line and "PEK: does not fit" in line]


def test_a_home_made_chain_has_no_cross() -> None:
    verdict = owner.verify_chain(lab.home_made_chain())

    assert not verdict and "does not fit" not in repr(lab.keytree(verdict))
