"""The merged thresholds.yaml: first what runtimes load by GPU, workload and key, then each GPU's and workload's whole document.

A document under `devices` is made as that of a single run is, so `runner.thresholds.choose.load` takes it as it is.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from runner import thresholds
from runner.merged.facts import Run
from runner.merged.sources import Origin
from runner.merged.union import Union, runtime
from runner.report.files import to_yaml
from runner.results import Results

NAME = "thresholds.yaml"
KIND = "merged"


def content(unions: Sequence[Union], origin: Origin) -> dict[str, Any]:
    """Return the content of the merged thresholds.yaml."""
    values: dict[str, dict[str, Any]] = {}
    documents: dict[str, dict[str, Any]] = {}
    for union in unions:
        values.setdefault(union.device, {})[union.label] = _values(union)
        documents.setdefault(union.device, {})[union.label] = _document(union)
    head = {"schema": thresholds.SCHEMA, "kind": KIND, "of": origin.title}
    return head | {"runtime": values, "devices": documents}


def to_text(data: Mapping[str, Any]) -> str:
    """Return the YAML; each document is written as a run's own file has it, further to the right."""
    parts = [to_yaml({key: value for key, value in data.items() if key != "devices"})]
    parts.append("devices:\n" if data["devices"] else "devices: {}\n")
    for device, documents in data["devices"].items():
        parts.append(f"  {_key(device)}:\n")
        for label, document in documents.items():
            parts += [f"    {_key(label)}:\n", textwrap.indent(to_yaml(document), 6 * " ")]
    return "".join(parts)


def _values(union: Union) -> dict[str, Any]:
    """Return per key what a runtime loads: `all` holds everywhere, `by` has a value for each scope."""
    found: dict[str, Any] = {}
    for one in union.evidence:
        if one.usable_never:
            scopes = union.by.get(one.spec.key) or []
            by = [{**scope.scope, "value": runtime(one, scope.value), "decision": scope.decision} for scope in scopes]
            found[one.spec.key] = {"all": one.runtime, "decision": one.decision, "by": by}
    return found


def _document(union: Union) -> dict[str, Any]:
    """Return the document of one GPU and workload; what its runs don't agree on is null, and listed with each run."""
    runs = union.runs
    first = runs[0]
    # What several runs have in common, in the form in which one run's results are: the documents are then made alike.
    results = Results(
        job={
            "workload": first.workload,
            "measure": {"confidence": first.confidence, "same_within": first.same_within},
            "derive": {},
            "provenance": {"git": {"sha": _common(run.git_sha for run in runs)}},
        },
        job_hash=_common(run.hash for run in runs),
        session=_common(run.session for run in runs),
        started_at=max(run.started_at for run in runs),
        device={key: _common(run.device.get(key) for run in runs) for key in ("name", "uuid", "sm")},
        software={key: _common(run.software.get(key) for run in runs) for key in ("torch", "cuda", "triton", "driver")},
        measurements=[],
        status="complete",
        reason="",
    )
    document = thresholds.as_dict(union.evidence, results)
    document["source"]["runs"] = [_run(run) for run in (*runs, *union.waiting)]
    return document


def _run(run: Run) -> dict[str, Any]:
    return {
        "run": run.source.link,
        "status": run.status,
        "job_hash": run.hash,
        "uuid": run.device.get("uuid"),
        "measured_at": run.started_at or None,
    }


def _common(values: Iterable[Any]) -> Any:
    """Return what all are, None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _key(name: str) -> str:
    """Write a mapping's key as YAML has it."""
    return str(yaml.safe_dump(name, allow_unicode=True, width=10_000)).splitlines()[0]
