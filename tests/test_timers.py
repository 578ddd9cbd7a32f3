"""A cold sample must not hold a wait for the host: where the device was at its start too early, it is taken again."""

import pytest

from runner.worker import timers


class Event:
    """An event that the device has passed, or not, when the host asks."""

    def __init__(self, passed: bool) -> None:
        self.passed = passed

    def record(self) -> None:
        """Nothing runs here."""

    def query(self) -> bool:
        return self.passed


class Planted:
    """Pairs of events of which the first `late` starts were passed too early."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.given = 0

    def get(self) -> tuple[Event, Event]:
        self.given += 1
        return Event(self.given <= self.late), Event(False)

    def read(self, pair) -> float:
        return float(self.given)


@pytest.fixture
def kept_busy(monkeypatch) -> list[float]:
    """How long the device was kept busy before each sample, in ms."""
    durations: list[float] = []
    monkeypatch.setattr(timers, "block", lambda duration_ms, clock_mhz: durations.append(duration_ms))
    monkeypatch.setattr(timers.torch.cuda, "_sleep", lambda cycles: None)
    return durations


def cold(host_ms: float, late: int) -> timers.ColdEvents:
    return timers.ColdEvents(lambda: None, lambda: None, Planted(late), host_ms, 1000.0)


def test_a_sample_in_time_is_taken_once(kept_busy):
    sampler = cold(0.2, 0)
    assert sampler.take()() == 1
    assert kept_busy == pytest.approx([1.2 * 0.2 - timers.FLUSH_MS])


def test_a_late_one_is_taken_again_with_twice_the_time_also_for_those_that_follow(kept_busy):
    sampler = cold(0.2, 2)
    assert sampler.take()() == 3
    assert kept_busy == pytest.approx([1.2 * host_ms - timers.FLUSH_MS for host_ms in (0.2, 0.4, 0.8)])
    sampler.take()
    assert kept_busy[-1] == pytest.approx(1.2 * 0.8 - timers.FLUSH_MS)


def test_a_call_that_is_always_late_still_gives_a_sample(kept_busy):
    assert cold(0.2, 100).take()() == 1 + timers.LATE_RETRIES


@pytest.mark.parametrize("host_ms", [0.0, timers.MOST_HIDDEN_MS])
def test_what_cannot_be_hidden_is_not_tried_again(kept_busy, host_ms):
    assert cold(host_ms, 100).take()() == 1


def test_the_time_to_hide_ends_at_what_a_queue_holds(kept_busy):
    sampler = cold(0.9 * timers.MOST_HIDDEN_MS, 100)
    sampler.take()
    assert sampler.host_ms == timers.MOST_HIDDEN_MS
