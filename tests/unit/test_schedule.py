"""The unfreezing schedule: reading, writing and its stages as a pure function."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_mtl import InputError, UnfreezeSchedule


@pytest.mark.parametrize(
    "text, stages, unit",
    [
        ("0:0,1:3,2:6", ((0, 0), (1, 3), (2, 6)), "epochs"),
        (" 0:0 , 1:3 ,2:6 epochs", ((0, 0), (1, 3), (2, 6)), "epochs"),
        ("0:0,500:3,1000:all steps", ((0, 0), (500, 3), (1000, None)), "steps"),
        ("0:all", ((0, None),), "epochs"),
        ("0:2,0.5:all", ((0, 2), (0.5, None)), "epochs"),
    ],
)
def test_a_schedule_is_read_as_written(text, stages, unit):
    assert UnfreezeSchedule.parse(text) == UnfreezeSchedule(stages=stages, unit=unit)


@pytest.mark.parametrize("text", ["none", "None", " NONE "])
def test_none_is_no_schedule(text):
    assert UnfreezeSchedule.parse(text) is None


starts = st.lists(st.floats(1e-3, 1e8) | st.integers(1, 10**9).map(float), max_size=5, unique=True).map(sorted)


@given(starts, st.lists(st.none() | st.integers(0, 99), min_size=6, max_size=6), st.sampled_from(["epochs", "steps"]))
def test_a_written_schedule_reads_back_the_same(later, layers, unit):
    schedule = UnfreezeSchedule(stages=tuple(zip([0.0, *later], layers, strict=False)), unit=unit)
    assert UnfreezeSchedule.parse(str(schedule)) == schedule


def test_stages_hold_from_their_start_to_the_next_one():
    schedule = UnfreezeSchedule.parse("0:0,1:3,2:all")
    for _ in range(2):  # asking changes nothing
        assert [schedule.layers(p) for p in (2, 0.99, 0, 1.99, 1, 2.5, 100)] == [None, 0, 0, 3, 3, None, None]


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:", "0:0;1:3", "0:0 1:3", "0:0,1:3 6", "0:0,1:-3", "-1:0", "0:0,1:3 step", "0:some", "0:1.5", "steps"],
)
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="0:0,1:3,2:6") as refusal:
        UnfreezeSchedule.parse(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("text", ["1:0", "0:0,2:3,1:6", "0:0,1:3,1:6"])
def test_stages_must_start_at_0_and_rise(text):
    with pytest.raises(InputError, match="start at 0") as refusal:
        UnfreezeSchedule.parse(text)
    assert text in str(refusal.value)


@pytest.mark.parametrize("arguments", [{"stages": ()}, {"stages": ((0, 0),), "unit": "rows"}])
def test_the_dataclass_checks_itself(arguments):
    with pytest.raises(InputError):
        UnfreezeSchedule(**arguments)


def test_more_layers_than_there_are_is_refused():
    schedule = UnfreezeSchedule.parse("0:0,1:3,2:6")
    schedule.check(6)
    with pytest.raises(InputError, match=r"stage at 2 unfreezes 6 layers and the encoder has 4"):
        schedule.check(4)
    UnfreezeSchedule.parse("0:all").check(1)
