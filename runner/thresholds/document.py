"""thresholds.yaml: what a runtime loads, and the evidence behind it; written from a journal, read back from a run or a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner import journal
from runner.errors import RequestError, one_line
from runner.journal import Event
from runner.results import Results, from_events
from runner.thresholds import choose
from runner.thresholds.derivation import derive_all
from runner.thresholds.evidence import Evidence

SCHEMA = choose.SCHEMA
NAME = "thresholds.yaml"


def thresholds(events: list[Event], run_id: str | None = None) -> dict[str, Any]:
    """Return the content of `thresholds.yaml` for a journal's events.

    Raises RequestError when the journal holds no job.
    """
    results = from_events(events)
    return as_dict(derive_all(results), results, run_id)


def as_dict(found: list[Evidence], results: Results, run_id: str | None = None) -> dict[str, Any]:
    """Return the content of `thresholds.yaml`; `run_id` is MLflow's, and the session's where there is none.

    A key whose `never` means the opposite is left out of the runtime block.
    """
    margins = {evidence.spec.margin for evidence in found}
    policy: dict[str, Any] = {"margin": margins.pop() if len(margins) == 1 else None, "confidence": results.confidence}
    guards = {one.spec.key: {"off_on_sm": one.spec.off_on_sm, "applied": one.off} for one in found if one.spec.off_on_sm}
    return head(results, run_id) | {
        "policy": policy | ({"guards": guards} if guards else {}),
        "runtime": {evidence.spec.key: evidence.runtime for evidence in found if evidence.usable_never},
        "evidence": {evidence.spec.key: evidence.as_dict() for evidence in found},
    }


def head(results: Results, run_id: str | None = None) -> dict[str, Any]:
    """Return what `thresholds.yaml` and `decisions.yaml` both start with: where the numbers are from."""
    return {
        "schema": SCHEMA,
        "device": {key: results.device.get(key) for key in ("name", "uuid", "sm")} | {"driver": results.software.get("driver")},
        "software": {key: results.software.get(key) for key in ("torch", "cuda", "triton")},
        "source": {
            "run_id": run_id or results.session,
            "session": results.session,
            "workload": results.workload,
            "job_hash": results.job_hash,
            "git_sha": results.git["sha"],
            "measured_at": results.started_at,
        },
    }


def read(run_or_file: Path) -> Mapping[str, Any]:
    """Return the thresholds of a run's folder, derived anew where it has a journal, or those of a thresholds.yaml.

    Raises RequestError when there is neither, or it can't be used.
    """
    path = run_or_file
    if path.is_dir():
        if (path / journal.NAME).exists():
            return thresholds(journal.read(path))
        path = path / NAME
        if not path.exists():
            raise RequestError(f"{run_or_file} has no {journal.NAME} and no {NAME}; name a folder written by a run, or a {NAME}")
    try:
        document = choose.load(path).document
        for key, entry in document["evidence"].items():
            if not {"margin", "scope", "reason"} <= set(entry):
                raise ValueError(f"{path}: evidence.{key} lacks its margin, scope or reason; name a {NAME} that a run wrote")
        return document
    except OSError as error:
        raise RequestError(f"can't read {path}: {error.strerror}; name a run's folder or a {NAME}") from error
    except ValueError as error:
        raise RequestError(one_line(str(error))) from error
