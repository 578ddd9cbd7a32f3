"""Thresholds in sentences, from the evidence or from a thresholds.yaml alike."""

from collections.abc import Iterator, Mapping
from typing import Any

from runner.results import plain
from runner.thresholds.evidence import Evidence


def in_words(evidence: Evidence) -> str:
    """Say a threshold in one sentence, as in `bf16 beats fp32 by 1.2x from n = 512 on`."""
    return _sentence(evidence.as_dict(), evidence.spec.off_on_sm if evidence.off else [])


def of_document(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line per key of a thresholds.yaml: `bf16_min_n = 512: bf16 beats fp32 by 1.2x from n = 512 on`."""
    guards = document["policy"].get("guards") or {}
    for key, entry in document["evidence"].items():
        runtime = document["runtime"].get(key)
        guard = guards.get(key) or {}
        # Files of the first version had no `value`: there it is what a runtime loads.
        known = {"value": runtime, "direction": "from"} | entry
        left_out = "" if key in document["runtime"] else " (not for a runtime)"
        yield f"{key} = {runtime}{left_out}: {_sentence(known, guard['off_on_sm'] if guard.get('applied') else [])}"


def _sentence(entry: Mapping[str, Any], off_on_sm: list[str]) -> str:
    margin = "" if entry["margin"] == 1 else f" by {entry['margin']:g}x"
    claim = f"{entry['candidate']} beats {entry['baseline']}{margin}"
    named = {axis: value for axis, value in entry["scope"].items() if axis not in (entry.get("settings") or [])}
    scope = f" ({plain(named)})" if named else ""
    if entry["decision"] == "enabled":
        said = f"{claim} {_reach(entry, entry['value'])}{scope}"
    elif entry["decision"] == "disabled":
        said = f"{entry['candidate']} does not beat {entry['baseline']}{margin}{scope}: {entry['reason']}"
    else:
        said = f"undecided whether {claim}{scope}: {entry['reason']}"
    off = f"; whatever was measured, it is off on SM {', '.join(off_on_sm)} by policy" if off_on_sm else ""
    return said + _per_scope(entry) + off


def _reach(entry: Mapping[str, Any], value: Any) -> str:
    return f"from {entry['axis']} = {value} on" if entry["direction"] == "from" else f"up to {entry['axis']} = {value}"


def _per_scope(entry: Mapping[str, Any]) -> str:
    """Say what each scope has, those with the same together: `; per dtype/head_dim: from n = 256 on bf16/64; never fp16/64`."""
    found: dict[str, list[str]] = {}
    for one in entry.get("scopes") or []:
        what = _reach(entry, one["value"]) if one["decision"] == "enabled" else one["decision"]
        found.setdefault(what, []).append("/".join(map(str, one["scope"].values())))
    if not found or _is_all(entry):
        return ""
    axes = "/".join(entry["scopes"][0]["scope"])
    return f"; per {axes}: " + ", ".join(f"{what} for {' and '.join(names)}" for what, names in found.items())


def _is_all(entry: Mapping[str, Any]) -> bool:
    """Whether the one scope there is says no more than what holds everywhere."""
    scopes = entry["scopes"]
    return len(scopes) == 1 and (scopes[0]["decision"], scopes[0]["value"]) == (entry["decision"], entry["value"])
