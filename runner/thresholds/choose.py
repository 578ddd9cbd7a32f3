"""What a program does with thresholds.yaml: ask which variant to use for the sizes at hand. Needs PyYAML, nothing else.

>>> dispatch = load({"schema": 1, "runtime": {"k": 256}, "evidence": {"k": {
...     "decision": "enabled", "operation": "sliding", "axis": "window", "baseline": "masked", "candidate": "flash"}}})
>>> dispatch.choose("sliding", window=512), dispatch.choose("sliding", window=128)
('flash', 'masked')
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

SCHEMA = 1
NEEDED = {"decision", "axis", "baseline", "candidate"}


@dataclass(frozen=True)
class Dispatch:
    """The thresholds of one file; `document` is its content as plain data."""

    document: Mapping[str, Any]

    def choose(self, operation: str, /, **axes: Any) -> str:
        """Return the variant to use for `operation` (or a threshold's key) at these axis values.

        Of the thresholds that are about it, in the file's order, the first that is reached gives its candidate; else it is
        the baseline. The other axes given choose what is held against: the value of their scope where the threshold has one,
        else the one that holds everywhere. Where nothing was measured, nothing is reached.

        Raises ValueError for an unknown operation or axis, a missing axis, and a value that is neither a number nor a name.
        """
        evidence = self.document["evidence"]
        found = {key: entry for key, entry in evidence.items() if operation in (key, entry.get("operation"))}
        if not found:
            known = dict.fromkeys(entry.get("operation") or key for key, entry in evidence.items())
            raise ValueError(f"no threshold is about {operation}; the file knows {_names(known)}")
        self._check(operation, list(found.values()), axes)
        fallback = _fallback(operation, list(found.values()))
        for key, entry in found.items():
            if entry["axis"] in axes and self._reached(key, entry, axes):
                return str(entry["candidate"])
        return fallback

    def _check(self, operation: str, entries: list[Mapping[str, Any]], axes: Mapping[str, Any]) -> None:
        wanted = dict.fromkeys(entry["axis"] for entry in entries)
        known = wanted | dict.fromkeys(axis for entry in entries for row in _measured(entry) for axis in row)
        for axis, value in axes.items():
            if axis not in known:
                raise ValueError(f"{axis} is no axis of {operation}; it has {_names(known)}")
            if not isinstance(value, str | int | float) or (axis in wanted and isinstance(value, str | bool)):
                raise ValueError(f"{axis}={value}: expected a number" + ("" if axis in wanted else " or a name, as in 'bf16'"))
        if not set(wanted) & set(axes):
            raise ValueError(f"{operation} depends on {_names(wanted)}; give a value, as in {next(iter(wanted))}=512")

    def _reached(self, key: str, entry: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
        """Whether the axis' value is at or beyond the threshold of every measured scope that the other axes leave open."""
        others = {axis: value for axis, value in axes.items() if axis != entry["axis"]}
        if not _covered(_measured(entry), others):
            return False
        scopes = entry.get("scopes") or []
        named = {axis: value for axis, value in others.items() if scopes and axis in scopes[0]["scope"]}
        if named:
            scopes = [one for one in scopes if all(one["scope"][axis] == value for axis, value in named.items())]
        else:
            scopes = [{"decision": entry["decision"], "runtime": self.document["runtime"].get(key)}]
        x, upto = axes[entry["axis"]], entry.get("direction") == "upto"
        return bool(scopes) and all(
            one["decision"] == "enabled"
            and one["runtime"] not in (None, entry.get("never"))
            and (x <= one["runtime"] if upto else x >= one["runtime"])
            for one in scopes
        )


def load(source: "str | PathLike[str] | Mapping[str, Any]", device: str | None = None, workload: str | None = None) -> Dispatch:
    """Read a thresholds.yaml, or take its content: a dict, or what OmegaConf.load returned.

    Of a merged one, that of several runs, take what is from `device` (needed where it has several) and, where two workloads have
    the same key, from `workload`.

    Raises ValueError when it is none of this schema, or `device` is given and it was measured on a GPU of another name, and
    OSError when the file can't be read.
    """
    document: Any = _plain(source) if isinstance(source, Mapping) else _read(source)
    where = "the thresholds" if isinstance(source, Mapping) else str(source)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        raise ValueError(f"{where}: schema {found}, expected {SCHEMA}; give a thresholds.yaml that a run wrote")
    if document.get("kind") == "merged":
        document = _one_of(document.get("devices") or {}, device, workload, where)
    document = {"device": {}, "policy": {}} | document
    if not all(isinstance(document.get(part), dict) for part in ("device", "policy", "runtime", "evidence")):
        raise ValueError(f"{where}: expected the parts runtime and evidence; give a thresholds.yaml that a run wrote")
    for key, entry in document["evidence"].items():
        if not isinstance(entry, dict) or not set(entry) >= NEEDED:
            raise ValueError(
                f"{where}: evidence.{key} lacks some of {_names(sorted(NEEDED))}; give a thresholds.yaml that a run wrote"
            )
    if device is not None and document["device"].get("name") != device:
        raise ValueError(f"{where}: measured on {document['device'].get('name')}, this is {device}; measure here")
    return Dispatch(document)


def _one_of(devices: Mapping[str, Any], device: str | None, workload: str | None, where: str) -> dict[str, Any]:
    """Return one GPU's thresholds out of a merged file, those of its workloads together unless one is named."""
    name = next(iter(devices)) if device is None and len(devices) == 1 else device
    if name is None or name not in devices:
        asked = "say which with device=" if device is None else f"this is {device}; measure here"
        raise ValueError(f"{where}: measured on {_names(devices) or 'nothing'}, {asked}")
    found = devices[name]
    if workload is not None and workload not in found:
        raise ValueError(f"{where}: no workload {workload} on {name}; it has {_names(found)}")
    parts = list(found.values()) if workload is None else [found[workload]]
    keys = [key for part in parts for key in part["evidence"]]
    twice = dict.fromkeys(key for key in keys if keys.count(key) > 1)
    if twice:
        raise ValueError(f"{where}: {_names(twice)} is there for several of {_names(found)}; say which with workload=")
    joined = {kind: {key: value for part in parts for key, value in part[kind].items()} for kind in ("runtime", "evidence")}
    return {**parts[0], **joined}


def _read(path: "str | PathLike[str]") -> Any:
    import yaml

    with open(path, encoding="utf-8") as file:
        try:
            return yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error


def _plain(value: Any) -> Any:
    """Return mappings and lists of any kind as dicts and lists, so that OmegaConf's need no import to be read."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _measured(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the axes but the threshold's own of every case that it is about."""
    scope = entry.get("scope") or {}
    return [{**scope, **(row.get("held") or {})} for row in entry.get("table") or []] or [dict(scope)]


def _covered(rows: list[dict[str, Any]], axes: Mapping[str, Any]) -> bool:
    """Whether cases were measured with all of these values together, or, for a number, on both sides of it."""
    met = [axis for axis, value in axes.items() if any(row.get(axis) == value for row in rows)]
    for axis in (*met, *(axis for axis in axes if axis not in met)):
        there = [row for row in rows if row.get(axis) == axes[axis]]
        if not there and not _between([row[axis] for row in rows if axis in row], axes[axis]):
            return False
        rows = there or rows
    return True


def _between(measured: list[Any], value: Any) -> bool:
    ordered = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (*measured, value))
    return bool(measured) and ordered and bool(min(measured) < value < max(measured))


def _fallback(operation: str, entries: list[Mapping[str, Any]]) -> str:
    """Return the baseline that is no candidate itself: where thresholds build on one another, the first of the chain."""
    candidates = {entry["candidate"] for entry in entries}
    baselines = dict.fromkeys(entry["baseline"] for entry in entries if entry["baseline"] not in candidates)
    if len(baselines) != 1:
        raise ValueError(
            f"the thresholds of {operation} fall back to {_names(baselines) or 'one another'}; ask for one by its key"
        )
    return str(next(iter(baselines)))


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
