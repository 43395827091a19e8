"""Files count their references; refusals explain themselves."""

from __future__ import annotations

from errno import EBUSY, EINVAL, EIO, ENODEV, ENOTTY

import pytest
from bare_kernel import Device
from hypothesis import given
from hypothesis import strategies as st

from sevlab.kvm.fd import CARRIERS, File, KvmError, Oops, need

# ------------------------------------------------------------------ references


def test_a_file_is_released_with_its_last_reference_and_once() -> None:
    file = Device()
    file.get()
    file.put()
    assert file.released == 0

    file.put()
    assert file.released == 1


def test_get_answers_the_file_itself() -> None:
    file = Device()

    assert file.get() is file


@pytest.mark.parametrize("touch", [File.get, File.put])
def test_a_released_file_takes_no_reference_and_gives_none(touch: object) -> None:
    file = Device()
    file.put()

    with pytest.raises(RuntimeError, match="device"):
        touch(file)  # type: ignore[operator]
    assert file.released == 1


def test_a_file_without_ioctls_says_enotty_and_one_without_memory_enodev() -> None:
    with pytest.raises(KvmError) as no:
        File().ioctl(None, 0xAE00, 0)  # type: ignore[arg-type]
    assert no.value.errno == ENOTTY

    with pytest.raises(KvmError) as no:
        File().backing()
    assert no.value.errno == ENODEV


@given(st.lists(st.booleans(), max_size=50))
def test_law_a_file_lives_exactly_as_long_as_its_count(script: list[bool]) -> None:
    file, count = Device(), 1
    for more in script:
        if not count:
            break
        if more:
            file.get()
        else:
            file.put()
        count += 1 if more else -1

    assert file.refs == count
    assert file.released == (count == 0)


# -------------------------------------------------------------------- refusals


def rule(value: int) -> None:
    need(value < 3, EINVAL)  # value out of the kernel's range
    need(
        value != 2,  # the second rule
        EBUSY,  # in two lines
    )


def refusal(value: int) -> KvmError:
    with pytest.raises(KvmError) as no:
        rule(value)
    return no.value


def test_need_lets_pass_what_holds() -> None:
    assert rule(1) is None


def test_a_refusal_is_an_oserror_with_errno_and_no_firmware_code() -> None:
    no = refusal(3)

    assert isinstance(no, OSError)
    assert (no.errno, no.fw) == (EINVAL, None)


def test_the_firmware_s_status_is_kept_beside_the_errno() -> None:
    with pytest.raises(KvmError) as no:
        need(False, EIO, fw=2)

    assert (no.value.errno, no.value.fw) == (EIO, 2)
    assert "firmware status 0x2" in str(no.value)


def test_why_is_the_rung_with_the_original_s_words() -> None:
    assert refusal(3).why == "rule: need(value < 3, EINVAL)  # value out of the kernel's range"


def test_why_of_a_rule_in_several_lines_is_all_of_it() -> None:
    assert refusal(2).why == "rule: need( value != 2, EBUSY, )  # the second rule in two lines"


def test_place_says_where_the_rung_stands() -> None:
    place = refusal(3).place

    assert place is not None
    assert (place.function, place.filename, place.line) == ("rule", __file__, rule.__code__.co_firstlineno + 1)


def test_a_rung_inside_a_helper_is_the_helper_s() -> None:
    def helper() -> None:
        rule(3)

    with pytest.raises(KvmError) as no:
        helper()
    assert no.value.why.startswith("rule: ")


def test_a_carrier_is_never_the_rung() -> None:
    def carrier() -> None:
        raise KvmError(EBUSY)

    def handler() -> None:
        carrier()  # EBUSY: the bus is taken

    CARRIERS.add(carrier.__code__)
    try:
        with pytest.raises(KvmError) as no:
            handler()
        assert no.value.why == "handler: carrier()  # EBUSY: the bus is taken"
    finally:
        CARRIERS.discard(carrier.__code__)


def test_words_of_one_s_own_come_before_the_source_line() -> None:
    with pytest.raises(KvmError) as no:
        raise KvmError(EINVAL, why="the page was never touched")

    assert no.value.why == "the page was never touched"
    assert no.value.place is not None


def test_a_refusal_that_was_never_raised_has_no_reason_and_says_so() -> None:
    assert KvmError(EINVAL).place is None
    assert KvmError(EINVAL).why == "no reason was recorded"


def test_raised_again_from_elsewhere_it_keeps_its_rung() -> None:
    first = refusal(3)
    with pytest.raises(KvmError) as no:
        raise first

    assert no.value.why.startswith("rule: ")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KvmError(EINVAL, why="w"), "[Errno 22] EINVAL Invalid argument: w"),
        (KvmError(EIO, 0x10, "w"), "[Errno 5] EIO Input/output error, firmware status 0x10: w"),
        (KvmError(524, why="w"), "[Errno 524] Unknown error 524: w"),
        (Oops(EBUSY, why="w"), "[Errno 16] EBUSY Device or resource busy: w"),
    ],
)
def test_a_refusal_prints_everything_that_is_known(error: KvmError, text: str) -> None:
    assert str(error) == text


def test_an_error_made_for_a_source_that_is_not_there_still_names_the_function() -> None:
    space: dict[str, object] = {"need": need}
    exec(compile("def handler():\n    need(False, 22)\n", "<no file>", "exec"), space)
    with pytest.raises(KvmError) as no:
        space["handler"]()  # type: ignore[operator]

    assert no.value.why.startswith("handler: ")
