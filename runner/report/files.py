"""Writes what is derived from a run's journal into its folder, each file whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from runner import decisions, rental, thresholds
from runner.decisions import Answer
from runner.errors import RequestError
from runner.report.table import write_csv
from runner.results import Results, read
from runner.thresholds import Evidence


@dataclass(frozen=True)
class Derived:
    """What was derived from a run, and the plots that could be drawn."""

    results: Results
    thresholds: list[Evidence]
    decisions: list[Answer]
    plots: list[Path]


def write(folder: Path, plots: bool = True) -> Derived:
    """Derive everything for the run in `folder` and write it there; made twice from one journal, the files are the same.

    Raises RequestError when there is no usable journal, `launch.json` is damaged or the folder can't be written.
    """
    results, rented = read(folder), rental.load(folder)
    found, answers = thresholds.derive_all(results), decisions.derive_all(results)
    run_id = _recorded_run(folder)
    try:
        _replace(folder / "thresholds.yaml", lambda path: path.write_text(to_yaml(thresholds.as_dict(found, results, run_id))))
        _replace(folder / "decisions.yaml", lambda path: path.write_text(to_yaml(decisions.as_dict(answers, results, run_id))))
        _replace(folder / "measurements.csv", lambda path: write_csv(path, results))
        _replace(folder / "environment.json", lambda path: path.write_text(json.dumps(environment(results), indent=1) + "\n"))
        if results.reported:
            data = asdict(results.reported)
            _replace(folder / "reported.yaml", lambda path: path.write_text(to_yaml(data)))
        projected = ""
        if results.job.get("mode") == "projection":
            from runner.projection import declared, document, measured, page

            given = declared.of_job(results.job)
            content = document.as_dict(given, measured.remembered(folder), results)
            projected = page.render(results, given, content)
            _replace(folder / document.NAME, lambda path: path.write_text(to_yaml(content)))
        drawn = _plots(folder, results, found) if plots else []
        from runner.report.markdown import render  # after the plots: it links those that there are

        text = render(results, found, answers, [path.relative_to(folder).as_posix() for path in drawn], rented, projected)
        _replace(folder / "report.md", lambda path: path.write_text(text))
    except OSError as error:
        raise RequestError(f"can't write to {folder}: {error.strerror}; make it writable or copy the run elsewhere") from error
    return Derived(results, found, answers, drawn)


def environment(results: Results) -> dict[str, Any]:
    """Return the content of `environment.json`: what the numbers depend on beside the job."""
    return {
        "device": dict(results.device),
        "software": dict(results.software),
        "other_processes": results.other_processes,
        "warnings": results.warnings,
        "session": results.session,
        "started_at": results.started_at,
        "job_hash": results.job_hash,
        "provenance": dict(results.provenance),
    }


class _Line(dict[str, Any]):
    """A mapping that is written in one line."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc] # the one in C where there is one
    """Keeps the order of keys, writes `_Line`s and lists of plain values in one line, and never uses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out each time."""
        return True


_Dumper.add_representer(
    _Line, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=True)
)
_Dumper.add_representer(
    dict, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=False)
)
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(item, dict) for item in data)
    ),
)


def to_yaml(data: dict[str, Any]) -> str:
    """Return YAML with the keys in the given order, the device and the rows of a table each in one line."""
    short = {key: _Line(value) for key, value in data.items() if key in ("device", "software", "policy", "scope", "where")}
    return yaml.dump(_lines(data | short), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def _lines(data: Any) -> Any:
    if isinstance(data, dict):
        return type(data)({key: _lines(value) for key, value in data.items()})
    if isinstance(data, list):
        return [_Line(item) if isinstance(item, dict) else item for item in data]
    return data


def _plots(folder: Path, results: Results, found: list[Evidence]) -> list[Path]:
    from runner.report import bars, plots  # matplotlib takes a third of a second to import; those who only read don't pay it

    shutil.rmtree(folder / "plots", ignore_errors=True)
    return plots.write(folder / "plots", results, found) + bars.write(folder / "plots", results)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there, so that no reader ever sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _recorded_run(folder: Path) -> str | None:
    """Return the id of the MLflow run that this folder was recorded as, if it was."""
    try:
        run_id = json.loads((folder / "mlflow.json").read_text()).get("run_id")
    except (OSError, ValueError, AttributeError):
        return None
    return str(run_id) if run_id else None
