"""A workload's own figures, as they are read from a journal and named in a config."""

import math

import pytest

from runner import figures
from runner.compose import compose
from runner.errors import RequestError


def test_a_rate_is_by_the_clock_that_the_workload_names():
    event = {
        "statistics": {"median_ms": 1.0, "ci_low_ms": 1.0, "ci_high_ms": 1.0},
        "also": {"wall": {"statistics": {"median_ms": 2.0, "ci_low_ms": 1.0, "ci_high_ms": 4.0}}},
        "rates": {"per_second": {"throughput_tokens_per_s": 500.0}, "by": "wall"},
    }
    (found,) = figures.of(event).values()
    assert (found.value, found.low, found.high) == (500.0, 250.0, 1000.0)
    del event["rates"]["by"]
    (found,) = figures.of(event).values()
    assert (found.low, found.high) == (500.0, 500.0)


def test_what_has_no_interval_has_no_bounds():
    event = {"figures": {"weight_mb": {"value": 4.2, "low": None, "high": None}}}
    assert math.isnan(figures.of(event)["weight_mb"].low)
    assert figures.columns(event) == {"weight_mb": 4.2, "weight_mb_low": None, "weight_mb_high": None}


@pytest.mark.parametrize("name", ["latency_ms", "speedup", "accuracy_low", "Accuracy", "status"])
def test_a_figure_takes_the_name_of_no_column(name):
    with pytest.raises(RequestError, match=f"workload.figures.{name}: expected a name of its own"):
        compose(["workload=matmul", f"+workload.figures={{{name}: ''}}"])
