"""Writes derived values into the consumer's own YAML, each marked with the GPU and the scope that it is from."""

import difflib
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from runner.errors import RequestError, nearest
from runner.thresholds import edit
from runner.thresholds.edit import Place

MARK = re.compile(r"# crossover(?: (?P<key>[\w.-]+))?: (?P<gpu>[^,#]*?)(?:, (?P<scope>[^,#]*?))?(?=\s*(?:#|$))")


@dataclass(frozen=True)
class Setting:
    """One value to write, and what it holds for: a GPU's name and a scope as in `dtype=bf16 head_dim=128`, "" for all."""

    key: str
    value: Any
    gpu: str
    scope: str

    @property
    def number(self) -> str:
        """The value as YAML has it."""
        return str(yaml.safe_dump(self.value)).splitlines()[0]

    @property
    def source(self) -> str:
        """What its marker says: `NVIDIA H200, dtype=bf16 head_dim=128`."""
        return f"{self.gpu}, {self.scope}" if self.scope else self.gpu


@dataclass(frozen=True)
class Consent:
    """What may be overwritten beside unmarked values: those from another GPU, and those for another scope."""

    other_device: bool = False
    other_scope: bool = False


def asked(words: Iterable[str]) -> dict[str, str]:
    """Return the scope that was typed, as in `dtype=bf16 head_dim=128`.

    Raises RequestError for a word that is no AXIS=VALUE.
    """
    pairs = {word: word.partition("=") for word in words}
    for word, (axis, _, value) in pairs.items():
        if not axis or not value:
            raise RequestError(f"--scope {word}: expected AXIS=VALUE, as in --scope dtype=bf16 head_dim=128")
    return {axis: value for axis, _, value in pairs.values()}


def select(document: Mapping[str, Any], scope: Mapping[str, str], undecided: bool = False) -> tuple[list[Setting], list[str]]:
    """Return what to write from a thresholds.yaml, and a sentence for each key that is left alone.

    Raises RequestError when a key has values that differ by scope and `scope` does not say which, or nothing is for `scope`.
    """
    _check_axes(document, scope)
    gpu = re.sub(r"[,#\s]+", " ", str(document["device"].get("name") or "an unknown device"))
    settings, left = [], []
    for key, entry in document["evidence"].items():
        if key not in document["runtime"]:
            left.append(f"{key}: {entry['reason']}")
            continue
        for axis, value in entry["scope"].items():
            if scope.get(axis, _text(value)) != _text(value):
                raise RequestError(
                    f"{key} was measured at {axis}={_text(value)} only, not at {axis}={scope[axis]}; drop it from --scope"
                )
        chosen, label = _of_scope(key, entry, document["runtime"][key], scope)
        guard = (document["policy"].get("guards") or {}).get(key) or {}
        if chosen["decision"] == "undecided" and not undecided and not guard.get("applied"):
            left.append(f"{key}: undecided, {chosen['reason']}")
        else:
            settings.append(Setting(key, chosen["runtime"], gpu, label))
    return settings, left


def edited(text: str, settings: Sequence[Setting], add: str | None = None, consent: Consent | None = None) -> str:
    """Return the text with the settings in it; everything else is as it was, and what is there already stays.

    Keys are found by name, wherever they are; those that are nowhere are added to the mapping at `add`, as in `runtime`.

    Raises RequestError for a key that is nowhere or at several places, holds no plain value, or has another's marker.
    """
    found = {setting.key: edit.places(text, setting.key) for setting in settings}
    missing = [key for key, places in found.items() if not places]
    if missing and add is None:
        raise RequestError(f"{', '.join(missing)}: no such key in the file; add it there, or with --add PATH as in --add runtime")
    for key, places in found.items():
        if len(places) > 1:
            raise RequestError(f"{key} is there {len(places)} times: {', '.join(map(str, places))}; rename all but one")
        if places and places[0].problem:
            raise RequestError(f"{places[0]} {places[0].problem}; expected a number of its own, as in {key}: 512")
    for setting in settings:
        if setting.key in missing:
            text = edit.insert(text, tuple(add.split(".")) if add else (), setting.key, setting.number)
        # Anew each time: the edit before has moved what is behind it.
        text = _put(text, edit.places(text, setting.key)[0], setting, consent or Consent())
    return text


def difference(path: Path, old: str, new: str) -> list[str]:
    """Return the lines of a unified diff."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), str(path), str(path), n=2, lineterm="")
    return list(lines)


def read(path: Path) -> str:
    """Return the text of a file with its line ends as they are.

    Raises RequestError when it can't be read as UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise RequestError(f"can't read {path}: {error.strerror}; name the YAML to write to with --to FILE") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8; save it as UTF-8 first") from error


def write(path: Path, text: str) -> None:
    """Replace the file as a whole or not at all; where it is a link, the file behind it.

    Raises RequestError when its folder can't be written.
    """
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(text.encode())
        shutil.copymode(target, beside)
        os.replace(beside, target)
    except OSError as error:
        raise RequestError(f"can't write {path}: {error.strerror}; make its folder writable") from error
    finally:
        beside.unlink(missing_ok=True)


def _check_axes(document: Mapping[str, Any], scope: Mapping[str, str]) -> None:
    entries = document["evidence"].values()
    known = {axis for entry in entries for part in (entry, *(entry.get("scopes") or [])) for axis in part["scope"]}
    for axis in scope:
        if axis not in known:
            raise RequestError(f"--scope {axis}={scope[axis]}: no threshold has a scope of {axis}; {nearest(axis, known)}")


def _of_scope(key: str, entry: Mapping[str, Any], runtime: Any, scope: Mapping[str, str]) -> tuple[Mapping[str, Any], str]:
    """Return decision, value and reason for the scope that was asked for, and what all scopes that fit it share, as a label."""
    scopes = entry.get("scopes") or []
    fitting = [
        one for one in scopes if all(scope.get(axis, _text(value)) == _text(value) for axis, value in one["scope"].items())
    ]
    if scopes and not fitting:
        asked = " ".join(f"{axis}={value}" for axis, value in scope.items())
        raise RequestError(f"{key} has no value for {asked}; measured were {_listed(scopes)}")
    if len({repr(one["runtime"]) for one in fitting}) > 1:
        raise RequestError(f"{key} differs by scope: {_listed(fitting)}; say which, as in --scope {_label(fitting[0]['scope'])}")
    first = fitting[0]["scope"] if fitting else {}
    label = _label({axis: value for axis, value in first.items() if all(one["scope"][axis] == value for one in fitting)})
    if len(fitting) == len(scopes):
        return {**entry, "runtime": runtime}, label
    return next((one for one in fitting if one["decision"] == "undecided"), fitting[0]), label


def _put(text: str, place: Place, setting: Setting, consent: Consent) -> str:
    """Write one value and its marker behind the comment that is there, in the place of an older one."""
    tail = text[place.tail : place.eol]
    name = re.sub(r"[^\w.-]", "_", setting.key) if place.flow else None
    marker = f"# crossover{f' {name}' if name else ''}: {setting.source}"
    mark = next((found for found in MARK.finditer(tail) if found["key"] == name), None)
    if mark is None:
        tail = f"{tail.rstrip()}  {marker}"
    else:
        if mark["gpu"] != setting.gpu and not consent.other_device:
            raise RequestError(f"{place} is from {mark['gpu']}, this is from {setting.gpu}; overwrite it with --other-device")
        if (mark["scope"] or "") != setting.scope and not consent.other_scope:
            here, there = setting.scope or "all that was measured", mark["scope"] or "all that was measured"
            raise RequestError(f"{place} is for {there}, this is for {here}; overwrite it with --other-scope")
        tail = tail[: mark.start()] + marker + tail[mark.end() :]
    return edit.replace(text, place, setting.number, tail)


def _listed(scopes: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{_label(one['scope'])}: {one['runtime']}" for one in scopes)


def _label(scope: Mapping[str, Any]) -> str:
    return " ".join(re.sub(r"[,#\s]", "_", f"{axis}={_text(value)}") for axis, value in scope.items())


def _text(value: Any) -> str:
    """Write an axis value as it is typed."""
    return str(value).lower() if isinstance(value, bool) else str(value)
