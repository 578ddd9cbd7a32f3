"""From a grid to its cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RequestError
from runner.grid import expand
from runner.spec import AxisSpec

SPECS = {"n": AxisSpec(unit="elements", min=1, max=4096), "m": AxisSpec(min=1, max=64), "kind": AxisSpec(choices=["a", "b"])}
BLOCKS = {"square": {"x": "n", "n": [16, 32]}, "named": {"x": "m", "kind": ["a", "b"], "m": [1, 2, 3]}}


def points(**overrides: object) -> list[dict[str, object]]:
    return [case.axes for case in expand(BLOCKS, SPECS, overrides, 500)]


def test_blocks_are_multiplied_out_and_put_one_after_the_other() -> None:
    assert points()[:3] == [{"n": 16}, {"n": 32}, {"kind": "a", "m": 1}]
    assert len(points()) == 2 + 2 * 3


def test_every_case_knows_its_x_axis() -> None:
    assert [case.x for case in expand(BLOCKS, SPECS, {}, 500)] == ["n"] * 2 + ["m"] * 6


def test_an_override_asks_for_exactly_that_case() -> None:
    assert points(n=4090) == [{"n": 4090}]


def test_overrides_of_one_block_combine_and_keep_its_other_axes() -> None:
    assert points(kind="b") == [{"kind": "b", "m": m} for m in (1, 2, 3)]
    assert points(kind=["a"], m=5) == [{"kind": "a", "m": 5}]


def test_null_leaves_an_axis_alone() -> None:
    assert points(n=None) == points()


def test_a_case_that_two_blocks_have_is_measured_once() -> None:
    blocks = {"one": {"x": "n", "n": [16, 16]}, "two": {"x": "n", "n": [16]}}
    assert len(expand(blocks, SPECS, {}, 10)) == 1


@pytest.mark.parametrize(("overrides", "message"), [
    ({"n": 0}, "expected 1 to 4096 elements"),
    ({"n": -5}, "expected 1 to 4096 elements"),
    ({"n": 10**30}, "expected 1 to 4096 elements"),
    ({"n": []}, "is empty"),
    ({"n": "abc"}, "expected a number"),
    ({"n": True}, "expected a number"),
    ({"n": 1.5}, "expected a whole number"),
    ({"n": float("nan")}, "expected a whole number"),
    ({"n": [16, "x"]}, "expected a number"),
    ({"kind": "c"}, "no such choice; choose from a, b"),
    ({"n": 16, "m": 1}, "no block of the grid has m and n together"),
    ({"q": 1}, "no block of the grid has q together"),
])  # fmt: skip
def test_a_wrong_size_is_one_line(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        points(**overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_too_many_cases_are_refused_before_they_are_built() -> None:
    blocks = {"all": {"x": "n", "n": [1] * 10**4, "m": [1] * 10**4, "kind": ["a"] * 10**4}}
    with pytest.raises(RequestError, match=r"1000000000000 cases, more than measure\.max_cases=500"):
        expand(blocks, SPECS, {}, 500)


def test_an_undeclared_axis_is_named() -> None:
    with pytest.raises(RequestError, match="axis k is not declared"):
        expand({"square": {"x": "k", "k": [1]}}, SPECS, {}, 10)


@given(
    st.lists(st.integers(1, 4096), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(1, 64), min_size=1, max_size=9, unique=True),
)
def test_the_cases_are_the_product(ns: list[int], ms: list[int]) -> None:
    cases = expand({"all": {"x": "n", "n": ns, "m": ms}}, SPECS, {}, 100)
    assert [(case.axes["n"], case.axes["m"]) for case in cases] == [(n, m) for n in ns for m in ms]
