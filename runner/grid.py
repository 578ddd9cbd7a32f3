"""From a workload's grid to its cases: blocks of axes are multiplied out, overrides replace an axis and pick the blocks.

A grid is one or more named blocks; each block is the product of its axes and names its x-axis, and may name the variants
that are measured on it. An override such as `workload.n=4096` replaces the axis `n` and keeps only the blocks that have it, so
it asks for exactly that case.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from runner.errors import RequestError, nearest
from runner.spec import AxisSpec, Case

Block = Mapping[str, Any]

NOT_AXES = ("x", "variants")
"""The keys of a block that are no axes."""


def expand(
    blocks: Mapping[str, Block],
    specs: Mapping[str, AxisSpec],
    overrides: Mapping[str, Any],
    max_cases: int,
    variants: Sequence[str] = (),
) -> list[Case]:
    """Return the cases of `blocks` after `overrides` (axis -> value or list; None leaves the axis alone).

    `variants` are the job's: blocks keep those of their own that are among them, and a block left without any is dropped.

    Raises RequestError for a value outside its axis' bounds or at odds with another axis, an empty list, overrides that no
    single block has together, no block left, or more than `max_cases` cases (counted before they are built).
    """
    asked = {axis: value for axis, value in overrides.items() if value is not None}
    having = [block for block in blocks.values() if asked.keys() <= block.keys()]
    if not having:
        have = "; ".join(f"{name}: {', '.join(a for a in block if a not in NOT_AXES)}" for name, block in blocks.items())
        raise RequestError(
            f"no block of the grid has {' and '.join(sorted(asked))} together (blocks are {have}); override the axes of one block"
        )
    names = [[one for one in variants if one in (block.get("variants") or variants)] for block in having]
    chosen = [(block, own) for block, own in zip(having, names, strict=True) if own or not variants]
    if not chosen:
        have = ", ".join(dict.fromkeys(one for block in having for one in block["variants"]))
        raise RequestError(f"workload.variants=[{','.join(variants)}]: no block of this grid has any of them; choose from {have}")
    axes_of = [
        {axis: _values(axis, asked.get(axis, values), specs) for axis, values in block.items() if axis not in NOT_AXES}
        for block, _ in chosen
    ]
    count = sum(prod(len(values) for values in axes.values()) for axes in axes_of)
    if count > max_cases:
        raise RequestError(
            f"the grid has {count} cases, more than measure.max_cases={max_cases}; shorten an axis or raise measure.max_cases"
        )
    cases: dict[str, Case] = {}
    for (block, own), axes in zip(chosen, axes_of, strict=True):
        for point in product(*axes.values()):
            case = Case(dict(zip(axes, point, strict=True)), block["x"], own)
            _check_relations(case.axes, specs)
            key = repr(sorted(case.axes.items()))
            both = {*own, *(cases[key].variants if key in cases else ())}
            cases[key] = Case(case.axes, case.x, [one for one in variants if one in both])
    # All of the job's is the rule and goes without saying.
    return [Case(case.axes, case.x, [] if len(case.variants) == len(variants) else case.variants) for case in cases.values()]


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
    if spec.whole and not isinstance(value, int):
        raise RequestError(f"workload.{axis}={value}: expected a whole number, as in workload.{axis}={_example(spec)}")
    if not _within(value, spec):
        low, high = (None if bound is None else f"{bound:.15g}" for bound in (spec.min, spec.max))
        bounds = f"{low} to {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        raise RequestError(f"workload.{axis}={value}: expected {bounds} {spec.unit}".rstrip())


def _check_relations(axes: Mapping[str, Any], specs: Mapping[str, AxisSpec]) -> None:
    """Hold the axes of one case against each other, where it has both of a pair; each alone is known to be in its bounds."""
    for axis, value in axes.items():
        spec = specs[axis]
        step, least = _other(spec.multiple_of, axes), _other(spec.at_least, axes)
        if step is not None and value % step:
            other, expected = spec.multiple_of, f"a multiple of {_named(spec.multiple_of, axes)}"
        elif least is not None and value < least:
            other, expected = spec.at_least, f"at least {_named(spec.at_least, axes)}"
        else:
            continue
        fits = _nearest_fit(value, step, least, spec)
        change = other if other in axes else f"axes.{axis}"
        way = f"try workload.{axis}={fits}" if fits is not None else f"none fits; change workload.{change}"
        raise RequestError(f"workload.{axis}={value}: expected {expected}; {way}")


def _other(relation: str | None, axes: Mapping[str, Any]) -> Any:
    """Return what an axis is held against: another axis' value here, a number, or None."""
    if relation is not None and relation in axes:
        return axes[relation]
    return int(relation) if relation is not None and relation.isdecimal() else None


def _named(relation: str | None, axes: Mapping[str, Any]) -> str:
    return f"{relation}={axes[relation]}" if relation is not None and relation in axes else f"{relation}"


def _nearest_fit(value: Any, step: Any, least: Any, spec: AxisSpec) -> Any:
    """Return a value that all relations and bounds allow: the next larger one, else the next smaller, else None."""
    larger = value if least is None else max(value, least)
    smaller = value
    if step is not None:
        larger, smaller = -(-larger // step) * step, smaller // step * step
    return next((one for one in (larger, smaller) if _within(one, spec) and (least is None or one >= least)), None)


def _within(value: float, spec: AxisSpec) -> bool:
    return (spec.min is None or value >= spec.min) and (spec.max is None or value <= spec.max)


def _example(spec: AxisSpec) -> str:
    if spec.choices:
        return spec.choices[0]
    return f"{spec.min:.15g}" if spec.min is not None else "1"
