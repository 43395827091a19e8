"""The rows of chips: published facts, and that each says which are not."""

from __future__ import annotations

import dataclasses

import pytest

from sevlab.hw import chips
from sevlab.hw.chips import CHIPS, MILAN, NAPLES, ROME, Chip


@pytest.mark.parametrize(
    ("chip", "cpu", "leaf"),
    [
        (NAPLES, (23, 1, 2), (0x0000000F, 0x16F, 15, 6)),
        (ROME, (23, 49, 0), (0x0001000F, 0x16F, 509, 100)),
        (MILAN, (25, 1, 1), (0x00014C0F, 0x173, 509, 100)),
    ],
    ids=lambda value: value.name if isinstance(value, Chip) else "",
)
def test_a_chip_names_itself_and_its_encryption_by_cpuid(chip: Chip, cpu: tuple[int, ...], leaf: tuple[int, ...]) -> None:
    """Origin: family, model and stepping as QEMU's EPYC, EPYC-Rome and EPYC-Milan have them; the leaf as each row states."""
    assert (chip.family, chip.model, chip.stepping) == cpu
    assert chip.cpuid_8000001f() == leaf


def test_only_milan_keeps_both_views_of_a_line_coherent() -> None:
    assert [chip.name for chip in CHIPS.values() if chip.sme_coherent] == ["milan"]


def test_xe_is_measured_on_naples_and_all_others_are_xex() -> None:
    assert {name: chip.mode for name, chip in CHIPS.items()} == {"naples": "XE", "rome": "XEX", "milan": "XEX"}
    assert "mode" in NAPLES.measured


def test_the_published_constants_are_those_of_bits_4_to_31() -> None:
    """Origin: SEVurity (see chips.NAPLES_TWEAKS); first, last, and the number of them."""
    assert sorted(NAPLES.tweaks) == list(range(4, 32))
    assert (NAPLES.tweaks[4], NAPLES.tweaks[31]) == ("82253838", "4f5ce727")
    assert not ROME.tweaks and not MILAN.tweaks


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_a_row_says_what_is_stated_from_memory(chip: Chip) -> None:
    assert chip.from_memory and not set(chip.from_memory) & set(chip.measured)
    fields = {field.name for field in dataclasses.fields(Chip)}
    assert all(fact.split(":")[0].split()[0] in fields for fact in (*chip.from_memory, *chip.measured))
    assert any("from the seed" in fact for fact in chip.from_memory)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=lambda chip: chip.name)
def test_key_slots_are_shared_between_es_and_plain_guests(chip: Chip) -> None:
    assert 1 < chip.min_asid <= chip.max_asid


def test_a_chip_is_found_by_name_and_one_s_own_is_taken_as_it_is() -> None:
    assert chips.by_name("rome") is ROME
    own = dataclasses.replace(ROME, name="own", max_asid=4, min_asid=2)
    assert chips.by_name(own) is own
    assert own.cpuid_8000001f()[2:] == (4, 2)


@pytest.mark.parametrize("name", ["Rome", "genoa", "", "epyc"])
def test_a_name_that_is_no_chip_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="there are naples, rome, milan"):
        chips.by_name(name)


def test_a_row_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROME.max_asid = 3  # type: ignore[misc]


def test_an_engine_without_a_tweak_never_existed_and_says_so() -> None:
    chip = chips.imaginary("ECB")
    assert chip.banner == "This machine never existed: an engine without a tweak (ECB)."
    assert (chip.mode, chip.measured, chip.c_bit) == ("ECB", (), chips.ROME.c_bit)
    assert not any(real.banner for real in chips.CHIPS.values())
    assert chip.name not in chips.CHIPS


def test_an_imaginary_chip_may_be_like_any_other_but_for_what_one_says() -> None:
    chip = chips.imaginary("XEX", like=chips.NAPLES, tweaks={})
    assert (chip.mode, chip.max_asid, chip.tweaks) == ("XEX", 15, {})
    assert "like naples" in chip.banner


@pytest.mark.parametrize("mode", ["CBC", "", "xex"])
def test_a_mode_that_is_none_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="ECB, XE or XEX"):
        chips.imaginary(mode)


def test_a_change_to_what_a_chip_has_not_is_refused() -> None:
    with pytest.raises(TypeError):
        chips.imaginary("ECB", wheels=4)
