"""From plain data to dataclasses, with errors a person can act on: the full key, what was expected, the nearest name.

OmegaConf's structured configs do not merge into frozen dataclasses inside one another, and name only the innermost key; the
specs here are frozen and nested. The types used are few, so reading them is short.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from runner.errors import RequestError, nearest, one_line

T = TypeVar("T")

_EXPECTED = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read(cls: type[T], data: Any, key: str) -> T:
    """Return an instance of the dataclass `cls` from plain `data`; `key` is where the data is, for messages.

    Fields whose metadata says `derived` are not read.

    Raises RequestError for an unknown or missing key and for a value of a wrong type, NaN and infinity included.
    """
    if not isinstance(data, Mapping):
        raise RequestError(f"{key or 'the config'}: expected keys and values, got {_shown(data)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if "derived" not in field.metadata}  # type: ignore[arg-type]
    hints = _hints(cls)  # type: ignore[arg-type]
    for name in data:
        if name not in fields:
            raise RequestError(f"{_join(key, name)} is no key of the config; {nearest(str(name), fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise RequestError(f"{_join(key, name)} is missing; expected {_describe(hints[name])}")
    return cls(**{name: _value(hints[name], value, _join(key, name)) for name, value in data.items()})


def read_group(
    cls: type[T], folders: Iterable[Path], group: str, left_out: str, check: Callable[[T, str], object]
) -> dict[str, T]:
    """Return the files of the config folders' `group/` as dataclasses, by choice; of two with one name the first folder's stands.

    That is as in Hydra. Left out are one choice, and files that build on others through a defaults list, which Hydra alone reads.
    `check` is given each with its choice, to raise RequestError.

    Raises RequestError for a file that can't be read or is none of `cls`.
    """
    import yaml

    found: dict[str, T] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            try:
                data = yaml.safe_load(path.read_text())
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise RequestError(f"can't read {path}: {one_line(str(error))}") from error
            if path.stem in found or not isinstance(data, dict) or path.stem == left_out or "defaults" in data:
                continue
            try:
                found[path.stem] = read(cls, data, group)
                check(found[path.stem], path.stem)
            except RequestError as error:
                raise RequestError(f"{path}: {error}") from error
    return found


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _value(kind: Any, value: Any, key: str) -> Any:
    """Return `value` as the type `kind`; integers pass as floats and numbers as text, nothing else is converted."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{key}={value}: expected a finite number")
    if get_origin(kind) in (Union, types.UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        return None if value is None else _value(inner[0], value, key)
    if kind is Any:
        return _any(value, key)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return read(kind, value, key)
    if get_origin(kind) is list and isinstance(value, Sequence) and not isinstance(value, str):
        return [_value(get_args(kind)[0], item, f"{key}[{index}]") for index, item in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {str(name): _value(get_args(kind)[1], item, _join(key, name)) for name, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _float(value, key)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise RequestError(f"{key}={_shown(value)}: expected {_describe(kind)}")


def _any(value: Any, key: str) -> Any:
    """Check that free-form data holds finite numbers only: JSON and hashes have no others."""
    if isinstance(value, Mapping):
        return {str(name): _value(Any, item, _join(key, name)) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_value(Any, item, f"{key}[{index}]") for index, item in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise RequestError(f"{key}: expected text, numbers, lists or keys and values, got a {type(value).__name__}")


def _float(value: float, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise RequestError(f"{key}: expected a number, this one is too large") from None


def _describe(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        inner = [one for one in get_args(kind) if one is not type(None)]
        return f"{_describe(inner[0])} or null"
    if get_origin(kind) is list:
        return f"a list, as in [{_example(get_args(kind)[0])}]"
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "keys and values"
    return _EXPECTED.get(kind, "a value")


def _example(kind: Any) -> str:
    return {str: "a,b", int: "1,2", float: "1,2"}.get(kind, "{...}")


def _shown(value: Any) -> str:
    """Return a value as the user would type it, cut to a readable length."""
    text = {None: "null", True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
