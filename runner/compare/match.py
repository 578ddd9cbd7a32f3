"""Which measurements of A belong to which of B: the same case and variant, on one GPU a side, repeats together."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from runner.compare.records import Found, Key


@dataclass(frozen=True, eq=False)
class Pair:
    """The same figure in A (`old`) and in B (`new`): of each side the runs that are repeats of each other, in order of time."""

    old: tuple[Found, ...]
    new: tuple[Found, ...]

    @property
    def here(self) -> Found:
        """The last of B's, which speaks for what both share: case, variant, metric."""
        return self.new[-1]

    @property
    def same_device(self) -> bool:
        """Whether both ran on the same physical device, as far as that is known."""
        physical = self.old[-1].run.physical
        return physical is not None and physical == self.new[-1].run.physical


@dataclass
class Matched:
    """All pairs, what only one side has, and how many measurements were passed over since a later one stands."""

    pairs: list[Pair] = field(default_factory=list)
    only_old: list[Found] = field(default_factory=list)
    only_new: list[Found] = field(default_factory=list)
    passed_over: int = 0


def match(old: Iterable[Found], new: Iterable[Found]) -> Matched:
    """Pair the measurements of two sides, in the order of A's.

    Different physical GPUs are never pooled: where a side has a case on several of a model, the one that the other side has too
    stands, else the latest. Models are matched by name; one that the other side lacks is paired with the only other one there.
    """
    ours, theirs = _by_key(old), _by_key(new)
    matched = Matched()
    for key in dict.fromkeys([*ours, *theirs]):
        some, others = _by_model(ours.get(key, [])), _by_model(theirs.get(key, []))
        for before, now in _models(some, others):
            mine, its = some.pop(before), others.pop(now)
            pair = Pair(*map(_repeats, _closest(mine, its)))
            matched.pairs.append(pair)
            matched.passed_over += len(_last(mine)) + len(_last(its)) - len(pair.old) - len(pair.new)
        matched.only_old += [one for found in some.values() for one in _last(found)]
        matched.only_new += [one for found in others.values() for one in _last(found)]
    return matched


def _by_key(found: Iterable[Found]) -> dict[Key, list[Found]]:
    grouped: dict[Key, list[Found]] = {}
    for one in found:
        grouped.setdefault(one.key, []).append(one)
    return grouped


def _models(old: Collection[str], new: Collection[str]) -> list[tuple[str, str]]:
    """Return which model of A is held against which of B: its own, else the only other one where both have one left."""
    shared = [model for model in old if model in new]
    left = [model for model in old if model not in shared], [model for model in new if model not in shared]
    return [(model, model) for model in shared] + ([(left[0][0], left[1][0])] if len(left[0]) == len(left[1]) == 1 else [])


def _by_model(found: Sequence[Found]) -> dict[str, list[Found]]:
    grouped: dict[str, list[Found]] = {}
    for one in found:
        grouped.setdefault(one.run.model, []).append(one)
    return grouped


def _closest(old: list[Found], new: list[Found]) -> tuple[list[Found], list[Found]]:
    """Choose the physical device of each side: one that both have where there is one, else its latest."""
    shared = {one.run.physical for one in old} & {one.run.physical for one in new} - {None}
    device_new = _latest([one for one in new if not shared or one.run.physical in shared]).run.physical
    device_old = device_new if shared else _latest(old).run.physical
    return (
        [one for one in old if one.run.physical == device_old],
        [one for one in new if one.run.physical == device_new],
    )


def _repeats(found: Sequence[Found]) -> tuple[Found, ...]:
    """Return the measurements that the latest one is a repeat of, itself last: the same setup, each run once."""
    setup = _latest(found).run.setup
    return tuple(one for one in _last(found) if one.run.setup == setup)


def _last(found: Sequence[Found]) -> list[Found]:
    """Return the last word of each run (a run that restarted has several processes), in order of time."""
    return list({one.run.session: one for one in sorted(found, key=_time)}.values())


def _latest(found: Sequence[Found]) -> Found:
    return max(found, key=_time)


def _time(one: Found) -> str:
    return one.at or one.run.started_at
