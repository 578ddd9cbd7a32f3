"""The job: one fully resolved, hashable run as a JSON file; what the worker gets and all it gets.

The hash covers everything that can change a number (config, cases, policy, seed, code) and nothing else: no paths, dates
or people, so the same question asked twice has the same hash and continues the same journal.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import RequestError
from runner.spec import Case, Gate, GpuSpec, MeasurePolicy, SearchSpec, Warmup

SCHEMA = 2
SECONDARY_TIME = 0.5
"""Share of the time limits that timings after the first get."""


@dataclass(frozen=True)
class Job:
    """A resolved run. `code` is a digest of the measuring code; `derive` holds what is for those who read the results.

    `device` is the torch device type, `cuda` or `cpu`. `gpu` is the datasheet of the GPU that was asked for (None: any).
    `module` is an importable module or a `.py` file next to the job file. `provenance` (git state, command, time) is not hashed.
    """

    workload: str
    module: str
    params: dict[str, Any]
    variants: list[str]
    baseline: str | None
    cases: list[Case]
    device: str
    gpu: GpuSpec | None
    measure: MeasurePolicy
    seed: int
    code: str
    mode: str = "grid"
    search: SearchSpec = field(default_factory=SearchSpec)
    derive: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """The SHA-256 of everything but `provenance`, as 64 hex digits; the first 12 name it in messages."""
        data = {key: value for key, value in dataclasses.asdict(self).items() if key != "provenance"}
        return hashlib.sha256(json.dumps({"schema": SCHEMA, **data}, sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data: the content of `job.json`."""
        return {"schema": SCHEMA, "hash": self.hash, **dataclasses.asdict(self)}

    def save(self, path: Path) -> None:
        """Write the job file.

        Raises RequestError when the folder can't be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
            os.replace(beside, path)  # a kill in between leaves no half of a job
        except OSError as error:
            raise RequestError(f"can't write {path}: {error.strerror}; name another folder with run_dir=DIR") from error


def from_dict(data: dict[str, Any]) -> Job:
    """Build a job from plain data, the inverse of `Job.as_dict`.

    Raises ValueError, KeyError or TypeError when the data is no job of this schema, or was edited after it was hashed.
    """
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')}, expected {SCHEMA}")
    measure = dict(data["measure"])
    measure["warmup"] = Warmup(**measure["warmup"])
    measure["gate"] = Gate(**measure["gate"])
    fields = {key: value for key, value in data.items() if key not in ("schema", "hash")}
    job = Job(
        **fields
        | {
            "cases": [Case(**case) for case in data["cases"]],
            "gpu": GpuSpec(**data["gpu"]) if data["gpu"] else None,
            "measure": MeasurePolicy(**measure),
            "search": SearchSpec(**data["search"]),
        }
    )
    if job.hash != data.get("hash"):
        raise ValueError("its content does not match its hash")
    return job


def load(path: Path) -> Job:
    """Read a job file.

    Raises RequestError when it can't be read, is no job file, or was changed by hand.
    """
    try:
        return from_dict(json.loads(path.read_text()))
    except OSError as error:
        raise RequestError(f"can't read the job {path}: {error.strerror}; write one with launch.write_job=JOB.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is no valid job file ({error}); write it anew with launch.write_job=JOB.json") from error


def at_most_s(data: Mapping[str, Any]) -> float:
    """Return the seconds that measuring a job (as plain data) takes at most; imports, compilation and gates come on top."""
    measure, cuda = data["measure"], data["device"] == "cuda"
    timings = len(measure["timings"] or (("cold", "warm", "wall") if cuda else ("wall",)))
    sampling_s = measure["max_time_s"] * (1 + SECONDARY_TIME * (timings - 1) + (1 if measure["aa_control"] else 0))
    each_s = measure["warmup"]["max_s"] + sampling_s + (measure["energy_window_s"] if cuda else 0)
    if data["mode"] == "search":
        return float(data["search"]["budget_s"] + len(data["variants"]) * (data["search"]["finalists"] + 1) * each_s)
    return float(measurements(data) * each_s)


def measurements(data: Mapping[str, Any]) -> int:
    """Return how many measurements a job (as plain data) plans: a case counts once for each variant measured on it."""
    return sum(len(case.get("variants") or data["variants"]) for case in data["cases"])
