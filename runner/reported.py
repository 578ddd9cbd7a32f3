"""Figures that others published, kept as data with their source: shown beside what a run measured, never mixed with it."""

from dataclasses import dataclass
from typing import Any

from runner.errors import RequestError


@dataclass(frozen=True)
class Source:
    """Where figures are from; `device` and `software` are what the source says it used, in a line each."""

    title: str
    date: str
    device: str
    software: str


@dataclass(frozen=True)
class Figure:
    """One published figure: `metric` of `variant` at a case, in the metric's unit; `what` is what was meant by it.

    `metric` is a column of measurements.csv or one of the workload's counters. A measured case fits that has these values of
    these axes, whatever else it has.
    """

    case: dict[str, Any]
    variant: str
    what: str
    metric: str
    value: float


@dataclass(frozen=True)
class Reported:
    """`conf/reported/*.yaml`; `caveat` says in a sentence what is known to be wrong with the figures."""

    source: Source
    caveat: str
    rows: list[Figure]


def check(reported: Reported) -> None:
    """Check what types can't say. Raises RequestError."""
    if not reported.caveat.strip():
        raise RequestError("reported.caveat is empty; say what is known to be wrong with these figures, or that nothing is")
    if not reported.rows:
        raise RequestError("reported.rows is empty; expected figures, as in {case: {n: 64}, variant: fp32, ...}")
    for index, figure in enumerate(reported.rows):
        for axis, value in figure.case.items():
            if isinstance(value, dict | list):
                raise RequestError(f"reported.rows[{index}].case.{axis}: expected a single value, as in {axis}: 64")
