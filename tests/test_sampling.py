"""When sampling stops: each variant on its own precision and time, all of them on the time of all."""

from dataclasses import dataclass

import pytest

from runner.spec import MeasurePolicy
from runner.worker import sampling

POLICY = MeasurePolicy(target=0.05, min_samples=30, min_time_s=0.0, max_time_s=0.5)


@dataclass
class Planted:
    """Samples of a fixed time, or of two times in turn, taken from a clock that only they move."""

    clock: list[float]
    times_ms: tuple[float, ...]
    name: str = "planted"
    taken: int = 0

    def take(self):
        sample = self.times_ms[self.taken % len(self.times_ms)]
        self.taken += 1
        self.clock[0] += sample / 1e3
        return lambda: sample


class Calm:
    def throttled(self, since):
        return False


@pytest.fixture
def collect(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(sampling.time, "perf_counter", lambda: clock[0])

    def run(**times_ms):
        samplers = {name: Planted(clock, times) for name, times in times_ms.items()}
        return sampling.collect(samplers, POLICY, lambda: None, Calm(), lambda precision: None)

    return run


def test_a_variant_stops_when_it_is_precise_and_has_its_samples(collect):
    found = collect(fast=(1.0,))["fast"]
    assert found.precise
    assert 30 <= len(found.samples_ms) < 1000


def test_a_slow_variant_leaves_with_ten_samples_and_is_precise_with_them(collect):
    found = collect(slow=(60.0,), fast=(1.0, 1.5))
    assert found["slow"].precise
    assert 10 <= len(found["slow"].samples_ms) < 30


def test_a_slow_variant_leaves_the_time_to_the_others(collect):
    found = collect(slow=(60.0,), fast=(1.0, 1.5))
    assert len(found["fast"].samples_ms) > 2 * len(found["slow"].samples_ms)


def test_a_slow_variant_that_is_not_precise_is_said_to_be_so(collect):
    assert not collect(slow=(40.0, 80.0))["slow"].precise


def test_fewer_than_ten_samples_are_never_precise(collect):
    found = collect(glacial=(400.0,))["glacial"]
    assert not found.precise
    assert len(found.samples_ms) < 10


def test_who_ran_out_of_time_because_of_others_needs_ten_samples_only(collect):
    """Two slow ones nearly fill the time of all three."""
    found = collect(slow=(66.0,), slower=(67.0,), short=(20.0,))
    assert found["short"].precise
    assert 10 <= len(found["short"].samples_ms) < 30
