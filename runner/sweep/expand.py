"""From the command line of a sweep to the overrides of each job: products of axes, and axes that step together."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from runner.errors import RequestError, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def expand(overrides: Sequence["Override"], zipped: Sequence[str] = (), max_jobs: int | None = None) -> list[list[str]]:
    """Return the overrides of every job, as text, the last axis changing fastest.

    `overrides` are Hydra's, in the order of the command line; a key that comes twice has its last value. The axes named in
    `zipped` take their first values together, then their second ones, in the place of the first of them.

    Raises RequestError for axes that are none or differ in length, for a range without steps, and for more than `max_jobs`
    jobs (counted before they are built).
    """
    axes = {override.get_key_element(): list(_values(override)) for override in overrides}
    steps = _zip(axes, zipped)
    count = prod(len(values) for values in steps)
    if max_jobs is not None and count > max_jobs:
        lengths = " x ".join(str(len(values)) for values in steps if len(values) > 1)
        raise RequestError(
            f"the sweep has {count} jobs ({lengths}), more than sweep.max_jobs={max_jobs}; shorten an axis or raise it"
        )
    return [[one for part in parts for one in part] for parts in product(*steps)]


def _values(override: "Override") -> Iterator[str]:
    """Yield the settings of one key: one, or those of a sweep over it."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        yield override.input_line or f"{key}={override.get_value_element_as_str()}"
        return
    if not override.is_discrete_sweep():
        raise RequestError(
            f"{key}: a range without steps is for a sweeper that searches (hydra/sweeper=optuna); list its values, or use range()"
        )
    count = 0
    for value in override.sweep_string_iterator():
        count += 1
        yield f"{key}={value}"
    if count == 0:
        raise RequestError(f"{key}: the sweep over it has no values; give at least one")


def _zip(axes: dict[str, list[str]], zipped: Sequence[str]) -> list[list[tuple[str, ...]]]:
    """Return one list of steps per axis, or per group of axes that step together."""
    names = {key.lstrip("+~"): key for key in axes}
    swept = [name for name, key in names.items() if len(axes[key]) > 1]
    for name in zipped:
        if name not in names:
            raise RequestError(f"sweep.zip: {name} is not swept over; {nearest(name, swept)}")
        if list(zipped).count(name) > 1:
            raise RequestError(f"sweep.zip: {name} is named twice; name each axis once")
    if len(zipped) == 1:
        raise RequestError(f"sweep.zip: {zipped[0]} alone has nothing to step with; name at least two axes")
    together = [names[name] for name in zipped]
    if len({len(axes[key]) for key in together}) > 1:
        lengths = ", ".join(f"{name} has {len(axes[names[name]])}" for name in zipped)
        raise RequestError(f"sweep.zip: {lengths}; axes that step together have equally many values")
    steps: list[list[tuple[str, ...]]] = []
    for key, values in axes.items():
        if key not in together:
            steps.append([(value,) for value in values])
        elif key == next(one for one in axes if one in together):
            steps.append(list(zip(*(axes[one] for one in axes if one in together), strict=True)))
    return steps
