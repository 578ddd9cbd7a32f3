"""From a workload's grid to its cases: blocks of axes are multiplied out, overrides replace an axis and pick the blocks.

A grid is one or more named blocks; each block is the product of its axes and names its x-axis. An override such as
`workload.n=4096` replaces the axis `n` and keeps only the blocks that have it, so it asks for exactly that case.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from runner.errors import RequestError, nearest
from runner.spec import AxisSpec, Case

Block = Mapping[str, Any]


def expand(
    blocks: Mapping[str, Block], specs: Mapping[str, AxisSpec], overrides: Mapping[str, Any], max_cases: int
) -> list[Case]:
    """Return the cases of `blocks` after `overrides` (axis -> value or list; None leaves the axis alone).

    Raises RequestError for a value outside its axis' bounds, an empty list, overrides that no single block has together, or
    more than `max_cases` cases (counted before they are built).
    """
    asked = {axis: value for axis, value in overrides.items() if value is not None}
    chosen = [block for block in blocks.values() if asked.keys() <= block.keys()]
    if not chosen:
        have = "; ".join(f"{name}: {', '.join(a for a in block if a != 'x')}" for name, block in blocks.items())
        raise RequestError(
            f"no block of the grid has {' and '.join(sorted(asked))} together (blocks are {have}); override the axes of one block"
        )
    axes_of = [
        {axis: _values(axis, asked.get(axis, values), specs) for axis, values in block.items() if axis != "x"} for block in chosen
    ]
    count = sum(prod(len(values) for values in axes.values()) for axes in axes_of)
    if count > max_cases:
        raise RequestError(
            f"the grid has {count} cases, more than measure.max_cases={max_cases}; shorten an axis or raise measure.max_cases"
        )
    cases: dict[str, Case] = {}
    for block, axes in zip(chosen, axes_of, strict=True):
        for point in product(*axes.values()):
            case = Case(dict(zip(axes, point, strict=True)), block["x"])
            cases[repr(sorted(case.axes.items()))] = case
    return list(cases.values())


def _values(axis: str, value: Any, specs: Mapping[str, AxisSpec]) -> list[Any]:
    """Return the checked values of one axis, in order."""
    if axis not in specs:
        raise RequestError(f"the grid's axis {axis} is not declared under axes; {nearest(axis, specs)}")
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise RequestError(f"workload.{axis} is empty; give at least one value, as in workload.{axis}={_example(specs[axis])}")
    for one in values:
        _check(axis, one, specs[axis])
    return values


def _check(axis: str, value: Any, spec: AxisSpec) -> None:
    if spec.choices is not None:
        if value not in spec.choices:
            raise RequestError(f"workload.{axis}={value}: no such choice; {nearest(str(value), spec.choices)}")
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RequestError(f"workload.{axis}={value}: expected a number, as in workload.{axis}={_example(spec)}")
    whole = all(bound is None or float(bound).is_integer() for bound in (spec.min, spec.max))
    if whole and not isinstance(value, int):
        raise RequestError(f"workload.{axis}={value}: expected a whole number, as in workload.{axis}={_example(spec)}")
    if (spec.min is not None and value < spec.min) or (spec.max is not None and value > spec.max):
        low, high = (None if bound is None else f"{bound:g}" for bound in (spec.min, spec.max))
        bounds = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        raise RequestError(f"workload.{axis}={value}: expected {bounds} {spec.unit}".rstrip())


def _example(spec: AxisSpec) -> str:
    if spec.choices:
        return spec.choices[0]
    return f"{spec.min:g}" if spec.min is not None else "1"
