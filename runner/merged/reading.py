"""Reads one run after the other: each journal once, and of its raw samples nothing is kept but what thresholds make of them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from runner import composition, decisions, figures, journal, rental, thresholds
from runner.errors import RequestError, one_line
from runner.journal import Event, case_key
from runner.merged.facts import Answered, Case, Cell, Declared, Point, Price, Read, Run
from runner.merged.prices import of_rental
from runner.merged.sources import JOB, Source
from runner.report.table import flat
from runner.results import MEASURED, Results, from_events
from runner.spec import GpuSpec, ThresholdSpec

DAMAGED = (RequestError, ValueError, TypeError, KeyError, AttributeError)
"""What reading files of another version, or ones that were edited, may end in: one such run must not lose the others."""

Sink = Callable[[int, Cell, str, Mapping[str, Any]], None]
"""Takes each measurement as it is read: its run's place, its cell, its GPU's UUID, and its figures by their columns' names."""


class Reader:
    """Reads runs into a `Read`; `sink` gets every measurement's row. `prices` are by device name, for runs without a rental's."""

    def __init__(self, sink: Sink, prices: Mapping[str, Price]) -> None:
        self.read = Read()
        self._sink = sink
        self._prices = prices
        self._cases: dict[str, Case] = {}
        self._equal: dict[str, Any] = {}

    def add(self, source: Source) -> Run:
        """Read one run and return it; one that can't be read says so in its status. Never raises for what a folder holds."""
        place = len(self.read.runs)
        rows: list[tuple[Cell, str, dict[str, Any]]] = []
        try:
            events = journal.read(source.folder)
            started = any(event["event"] == "job_started" for event in events)
            results = from_events(events) if started else _asked(source)
            run = Run(source, "missing", "nothing was started")
            if results is not None:
                run = self._run(source, results, events)
                machines, stages = _machines(events), composition.stages(results.job)
                for event in results.measurements:
                    device, uuid = machines[id(event)]
                    row = flat(event)
                    # Against a baseline that does what a whole does, a stage's speedup says nothing.
                    ratio = {} if event["variant"] in stages else row
                    rows.append((self._cell(place, device or run.name, event, row, ratio), uuid, row | figures.columns(event)))
        except (*DAMAGED, OSError) as error:
            # A bare KeyError says but a key.
            said = f"{error}" if isinstance(error, RequestError | OSError) else f"{type(error).__name__}: {error}"
            run, rows = Run(source, "unreadable", one_line(said)), []
        self._rented(run)
        self.read.runs.append(run)
        self.read.cells += [cell for cell, _, _ in rows]
        for cell, uuid, row in rows:
            self._sink(place, cell, uuid, row)
        return run

    def _run(self, source: Source, results: Results, events: list[Event]) -> Run:
        job, measure = results.job, results.job["measure"]
        timing = (measure.get("timings") or ["cold" if job["device"] == "cuda" else "wall"])[0]
        what = {key: job.get(key) for key in ("workload", "mode", "module", "params", "measure", "code")}
        software = {key: results.software.get(key) for key in ("torch", "cuda", "triton", "driver")}
        # A CPU's time depends on how many of its cores took part; a GPU's doesn't.
        threads = results.device.get("threads") if results.device.get("type") == "cpu" else None
        versions = {key: software[key] for key in ("torch", "cuda", "triton")}
        run = Run(
            source=source,
            status=results.status,
            reason=one_line(results.reason),
            workload=results.workload,
            hash=results.job_hash,
            session=results.session,
            overrides=[str(one) for one in results.provenance.get("overrides") or []],
            git_sha=results.git["sha"],
            git_dirty=results.git["dirty"],
            device=self._one({key: results.device.get(key) for key in ("type", "name", "uuid", "sm", "power_limit_w", "ecc")}),
            software=self._one(software),
            datasheet=self._datasheet(results),
            started_at=results.started_at,
            ended_at=str(events[-1]["time"]) if events else "",
            measure_s=sum(float(one.get("measure_s") or 0) for one in events if one["event"] == "job_finished"),
            study=self._one({"workload": results.workload, "timing": timing, "params": job.get("params")}),
            setup=self._one(what | versions | {"threads": threads}),
            asked=self._one(what | {"gpu": (job.get("gpu") or {}).get("name")}),
            settings=self._one(dict(results.settings)),
            units=self._one(dict(job["derive"].get("axes") or {})),
            confidence=results.confidence,
            same_within=results.same_within,
            baseline=results.baseline,
            variants=tuple(map(str, job.get("variants") or [])),
            comparable=_comparable(results),
            cases=len(results.cases),
            missing=len(results.missing),
            declared=self._declared(results),
            answers=[Answered(one.key, one.question, one.answer, one_line(one.reason)) for one in decisions.derive_all(results)],
        )
        _tell(run, results)
        return run

    def _cell(self, place: int, device: str, event: Event, row: Mapping[str, Any], ratio: Mapping[str, Any]) -> Cell:
        return Cell(
            run=place,
            device=device,
            case=self._case(event["case"]),
            x=str(event["x"]),
            variant=str(event["variant"]),
            dtype=str(event.get("dtype") or ""),
            status=str(event["status"]),
            time=str(event["time"]),
            latency_ms=row["latency_ms"],
            latency_low_ms=row["latency_low_ms"],
            latency_high_ms=row["latency_high_ms"],
            speedup=ratio.get("speedup"),
            speedup_low=ratio.get("speedup_low"),
            speedup_high=ratio.get("speedup_high"),
            tflops=row["throughput_tflops"],
            ops=row["ops"],
            bytes=row["bytes"],
            energy_mj=row["energy_mj"],
        )

    def _declared(self, results: Results) -> list[Declared]:
        found = []
        measured = results.by_key()
        order = {case_key(axes): place for place, (axes, _) in enumerate(results.cases)}  # evidence has its rows sorted
        for spec in results.declared("thresholds", ThresholdSpec):
            points = []
            evidence = thresholds.derive(spec, results)
            for row in evidence.rows:
                case = self._case({**evidence.scope, **row.held, spec.axis: row.x})
                pair = [measured.get((case_key(case), variant)) for variant in (spec.baseline, spec.candidate)]
                times = [str(one["time"]) for one in pair if one]
                points.append(Point(case, row, len(times) == 2, max(times, default="")))
            points.sort(key=lambda point: order[case_key(point.case)])
            found.append(Declared(self._one(spec), points))
        return found

    def _rented(self, run: Run) -> None:
        try:
            run.rental = rental.load(run.source.folder)
        except RequestError as error:
            run.alarms.append(one_line(str(error)))
        if run.status == "missing" and run.rental and run.rental.attempts:
            last = run.rental.attempts[-1]
            run.reason = one_line(": ".join(part for part in (run.reason, last.outcome, last.reason) if part))
        run.price, run.cloud = of_rental(run.rental)
        run.price = run.price or self._prices.get(run.name)

    def _datasheet(self, results: Results) -> GpuSpec | None:
        """Return the datasheet of the GPU that was measured, None where it is not the one that was asked for."""
        spec, device = results.spec, results.device
        known = spec is not None and spec.is_this(str(device.get("name")), device.get("memory_bytes") or 0)
        found: GpuSpec | None = self._one(spec) if known else None
        return found

    def _case(self, axes: Case) -> Case:
        return self._cases.setdefault(case_key(axes), axes)

    def _one(self, value: Any) -> Any:
        """Return the first of equal values: ten thousand runs have few different policies."""
        return self._equal.setdefault(json.dumps(value, sort_keys=True, default=repr), value)


def _asked(source: Source) -> Results | None:
    """Return what stands for the results of a job that no worker started: its cases are planned, and open; None without a job."""
    path = source.folder / JOB
    if not path.exists():
        return None
    job = json.loads(path.read_text())
    reason = "no worker ever started"
    return Results(job, str(job["hash"]), "", "", {}, {}, [], "missing", reason)


def _machines(events: list[Event]) -> dict[int, tuple[str, str]]:
    """Return the name and UUID of the device that each measurement was taken on: a continued run may have several."""
    found: dict[int, tuple[str, str]] = {}
    here = ("", "")
    for event in events:
        if event["event"] == "job_started":
            device = event.get("device") or {}
            here = (str(device.get("name") or ""), str(device.get("uuid") or ""))
        elif event["event"] == "measurement":
            found[id(event)] = here
    return found


def _comparable(results: Results) -> frozenset[str]:
    """Return the variants that do the whole task.

    Where a whole has stages, other variants may be parts too: only those count that a threshold is about.
    """
    composed = composition.declared(results.job)
    variants = {str(event["variant"]) for event in results.measurements}
    if not composed:
        return frozenset(variants)
    asked = {name for spec in results.declared("thresholds", ThresholdSpec) for name in (spec.baseline, spec.candidate)}
    wholes = {one.whole for one in composed} | ({results.baseline} if results.baseline else set())
    return frozenset(variants & (asked | wholes) - composition.stages(results.job))


def _tell(run: Run, results: Results) -> None:
    """Count what a reader must know before trusting the run."""
    for event in results.measurements:
        run.counts[str(event["status"])] += 1
        if event["status"] not in MEASURED:
            run.unfit[str(event["variant"]), str(event["status"]), one_line(str(event.get("reason") or "no reason given"))] += 1
        elif event.get("launch_bound"):
            run.launch_bound[str(event["variant"])] += 1
        for line in event.get("warnings") or []:
            run.warnings[str(line).partition(":")[0]] += 1
        control = event.get("control")
        if control and control["verdict"] in ("faster", "slower"):
            run.warnings["A/A control failed"] += 1
    run.alarms += results.warnings
    if results.other_processes:
        run.alarms.append("other processes were on the GPU")
