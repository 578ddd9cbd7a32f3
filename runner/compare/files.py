"""A comparison for scripts and for pull requests: JSON with everything, CSV with a row per pair, Markdown as a comment."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.compare import table, text
from runner.compare.comparison import Comparison
from runner.compare.records import Found, Run
from runner.compare.verdicts import Judged
from runner.errors import RequestError
from runner.paths import write_whole
from runner.report.table import as_markdown

SCHEMA = 1
MAX_MARKDOWN_ROWS = 200
"""GitHub takes comments of 65,536 characters; what is left out is counted."""
COLUMNS = ("metric", "a", "b", "runs_a", "runs_b", "ratio", "ratio_low", "ratio_high", "verdict", "regression", "reason")


def write(path: Path, content: str) -> None:
    """Write a file whole. Raises RequestError when it can't be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise RequestError(f"can't write {path}: {error.strerror}; name a file in a folder that is there") from error


def as_json(found: Comparison) -> str:
    """Return all of it; what is not known is null. `ratio` is B over A, `tolerance` a fraction, `each` a confidence."""
    document = {
        "schema": SCHEMA,
        "exit_code": found.exit_code,
        "conclusion": text.conclusion(found),
        "metrics": found.metrics,
        "tolerance": found.asked.tolerance,
        "confidence": found.asked.confidence,
        "confidence_of_each": found.each,
        "across_devices": found.asked.across_devices,
        "a": {"typed": found.asked.old, "runs": [_run(run) for run in found.old_runs]},
        "b": {"typed": found.asked.new, "runs": [_run(run) for run in found.new_runs]},
        "differences": [vars(one) for one in found.differences],
        "warnings": found.warnings,
        "counts": found.counts,
        "failed_as_before": found.as_before,
        "geometric_means": [
            {"workload": workload, "variant": variant, "metric": metric, "ratio": mean, "cases": count}
            for (workload, variant, metric), (mean, count) in found.geometric_means().items()
        ],
        "pairs": [_pair(one) for one in found.judged],
        "only_in_a": [_identity(one) for one in found.only_old],
        "only_in_b": [_identity(one) for one in found.only_new],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def as_csv(found: Comparison) -> str:
    """Return a row per pair: workload, axes, variant, dtype, device, then COLUMNS; an axis named like one of these is marked."""
    axes = sorted({axis for one in found.judged for axis in one.pair.here.case})
    own = ("workload", "variant", "dtype", "device")
    columns = {axis: f"axis_{axis}" if axis in (*own, *COLUMNS) else axis for axis in axes}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [own[0], *columns.values(), *own[1:], *COLUMNS], lineterminator="\n")
    writer.writeheader()
    for one in found.judged:
        pair = _pair(one)
        case = {columns[axis]: value for axis, value in pair["case"].items()}
        figures = {"runs_a": len(pair["a"]["values"]), "runs_b": len(pair["b"]["values"])}
        row = case | pair | figures | {"a": pair["a"]["value"], "b": pair["b"]["value"]}
        writer.writerow({name: value for name, value in row.items() if name in (writer.fieldnames or ())})
    return stream.getvalue()


def as_markdown_page(found: Comparison) -> str:
    """Return a comment for a pull request: what it comes to, what was compared, regressions in sight, the rest folded away."""
    first = [one for one in found.judged if one.regression or one.excused]
    rest = [one for one in found.judged if not (one.regression or one.excused)]
    opening = [f"- {line.lstrip('! ').strip()}" for line in text.opening(found)]
    parts = [[f"### {text.conclusion(found)}"], opening, _table(found, first), text.closing(found, everything=True)[:-1]]
    if rest:
        parts.append(["<details><summary>All others</summary>", "", *_table(found, rest), "", "</details>"])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _table(found: Comparison, judged: Sequence[Judged]) -> list[str]:
    if not judged:
        return []
    cells = table.rows(found, judged[:MAX_MARKDOWN_ROWS])
    used = [column for column in range(len(table.HEADERS)) if any(row[column] for row in cells)]
    headers = [table.HEADERS[column] for column in used]
    words = {place for place, name in enumerate(headers) if name not in table.RIGHT}
    left = len(judged) - len(cells)
    escaped = ([row[column].replace("*", "\\*") for column in used] for row in cells)
    return [*as_markdown(headers, escaped, words), *(["", f"and {left} more"] if left else [])]


def _run(run: Run) -> dict[str, Any]:
    git = (run.job.get("provenance") or {}).get("git") or {}
    return {
        "name": run.name,
        "session": run.session,
        "workload": run.workload,
        "started_at": run.started_at,
        "status": run.status,
        "device": dict(run.device),
        "software": dict(run.software),
        "git": dict(git),
        "job_hash": run.job.get("hash"),
        "measure": run.job.get("measure"),
    }


def _pair(one: Judged) -> dict[str, Any]:
    ratio = one.ratio
    return _identity(one.pair.here) | {
        "a": _side(one.pair.old),
        "b": _side(one.pair.new),
        "same_device": one.pair.same_device,
        "ratio": ratio.value if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "between_runs": ratio.between if ratio else None,
        "verdict": one.verdict,
        "regression": one.regression,
        "excused": one.excused,
        "reason": one.reason,
    }


def _side(side: Sequence[Found]) -> dict[str, Any]:
    return {
        "statuses": [one.status for one in side],
        "sessions": [one.run.session for one in side],
        "value": table.mean(side),
        "values": [one.estimate.value if one.estimate else None for one in side],
    }


def _identity(one: Found) -> dict[str, Any]:
    return {
        "workload": one.run.workload,
        "case": dict(one.case),
        "variant": one.variant,
        "dtype": one.dtype,
        "device": one.run.model,
        "metric": one.metric,
    }
