"""A projection's part of report.md: memory, tokens/s by model and GPU, the claims of others, and what runs measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from runner import units
from runner.projection.declared import Declared
from runner.projection.document import ASSUMED, NAME
from runner.report.table import as_markdown
from runner.results import Results, plain


def render(results: Results, declared: Declared, document: Mapping[str, Any]) -> str:
    """Return the page's head and sections from the content of `projection.yaml`, in place of a measured run's head."""
    parts = [
        _head(results),
        "## Assumed\n\n" + "\n".join(f"- {what}: {one}" for what, one in ASSUMED.items()),
        _memory(document["models"]),
    ]
    for title, rows in _groups(declared, document["projected"]):
        parts.append(_rates(title, list(declared.gpus), rows))
    parts += [_claims(document["claims_of_others"]), _measured(document["measured_elsewhere"])]
    return "\n\n".join(part for part in parts if part)


def _head(results: Results) -> str:
    lines = [f"# {results.workload}: projected from datasheets, nothing measured"]
    if results.status != "complete":
        lines.append(f"> **The run is {results.status}**: {results.reason or 'no reason given'}.")
    lines.append(
        f"{results.started_at[:16].replace('T', ' ')} UTC. Every figure here is arithmetic, an upper bound on what a GPU can do; "
        f"none is a metric in MLflow; [{NAME}]({NAME}) has them all."
    )
    return "\n\n".join(lines)


def _memory(models: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"`{one['model']}`",
            f"`{one['weights']}`",
            f"{one['parameters']:,}",
            units.digits(one["weights_gb"]),
            units.digits(one["read_per_step_gb"]),
            units.digits(one["kv_kb_per_token"]),
        ]
        for one in models
    ]
    columns = ["model", "weights", "parameters", "weights (GB)", "read a step (GB)", "KV cache (kB a token)"]
    notes = {one["model"]: one["note"] for one in models if one.get("note")}
    table = "\n".join(as_markdown(columns, rows, words=(0, 1)))
    return "\n\n".join(["## Memory", table, *(f"`{model}`: {note}" for model, note in notes.items())])


def _groups(declared: Declared, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Return the rows by what they have in common beside model, format and GPU, each with a title."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for case in declared.cases:
        axes = {axis: value for axis, value in case.items() if axis != "model"}
        title = f"{'Prefill' if 'prompt' in case else 'Decode'}, {plain(axes)}"
        found.setdefault(title, []).extend(row for row in rows if {**case}.items() <= row.items())
    return list(found.items())


def _rates(title: str, gpus: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["model"], row["weights"]), {})[row["gpu"]] = _cell(row)
    table = as_markdown(
        ["model", "weights", *gpus],
        ([f"`{model}`", f"`{one}`", *(by_gpu[gpu] for gpu in gpus)] for (model, one), by_gpu in cells.items()),
        words=(0, 1),
    )
    said = "Tokens/s at most; *c* where the operations take longer than moving the bytes, - where weights and cache don't fit."
    return "\n".join([f"## {title}", "", said, "", *table])


def _cell(row: Mapping[str, Any]) -> str:
    if not row["fits"]:
        return "-"
    if row["projected_tokens_per_s"] is None:
        return "no peak"
    return units.digits(row["projected_tokens_per_s"]) + (" *c*" if row["bound_by"] == "compute" else "")


def _claims(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = ["source", "of", "they say", "the same here", "what differs"]
    table = as_markdown(columns, ([row["source"], _of(row), row["said"], _ours(row), row["differs"]] for row in rows))
    return "\n".join(["## What others projected", "", "Neither column was measured.", "", *table])


def _of(row: Mapping[str, Any]) -> str:
    case = {axis: row[axis] for axis in ("batch", "context", "prompt") if axis in row}
    named = {"weights": "weights", "decode": "decode", "prefill": "prefill"}[row["figure"]]
    parts = [f"`{row['model']}` `{row['weights']}`", named, plain(case), f"on {row['gpu']}" if row["gpu"] else ""]
    return ", ".join(part for part in parts if part)


def _ours(row: Mapping[str, Any]) -> str:
    if row["figure"] == "weights":
        return f"{units.digits(row['projected_gb'])} GB"
    rate = row["projected_tokens_per_s"]
    return "does not fit" if rate is None else f"at most {units.digits(rate)} tokens/s, bound by {row['bound_by']}"


def _measured(found: Mapping[str, Any]) -> str:
    title = "## Projected against measured"
    if not found["rows"]:
        return f"{title}\n\nNothing to compare with: {found['note'] or 'no run fits'}."
    table = as_markdown(
        ["GPU", "what", "unit", "datasheet or bound", "measured", "measured / datasheet", "at", "run"],
        (
            [
                row["gpu"],
                row["what"],
                row["unit"],
                units.digits(row["projected"], 4),
                units.digits(row["measured"], 4),
                f"{row['measured_pct']:.1f}%",
                plain(row["case"]),
                f"{row['workload']} of {row['started_at'][:10]}, `{row['run_id']}`",
            ]
            for row in found["rows"]
        ),
        words=(0, 1, 2, 6, 7),
    )
    said = "Measured by earlier runs, the latest finished one of each kind on that GPU; their reports have the intervals."
    return "\n".join([title, "", said, "", *table])
