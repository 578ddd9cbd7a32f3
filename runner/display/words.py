"""The sentences that the displays share: what will run, what a measurement says, what to warn of, what was found."""

from collections.abc import Container, Iterator, Mapping
from typing import Any

from runner import decisions, thresholds, units
from runner.errors import RequestError, one_line
from runner.job import at_most_s, measurements
from runner.journal import Event
from runner.report.table import flat
from runner.results import MEASURED, Results, from_events, labels

TELLING = ("noisy", "incorrect", "oom", "timeout", "error")
"""Statuses that are worth a warning; `unsupported` is only told in the table."""


def opening(job: Mapping[str, Any]) -> str:
    """Say what will run: `matmul on NVIDIA H200: 7 cases x 4 variants, at most 4 min 12 s`."""
    gpu = (
        job["gpu"]["name"]
        if job.get("gpu")
        else {"cuda": "this machine's GPU", "cpu": "this machine's CPU"}.get(job["device"], "?")
    )
    if job.get("mode") == "projection":
        sheets = units.several(len(job["derive"]["projection"]["gpus"]), "datasheet")
        return f"{job['workload']}: projected from {sheets}, nothing is measured"
    variants, cases = units.several(len(job["variants"]), "variant"), units.several(len(job["cases"]), "case")
    count = measurements(job)
    if job.get("mode") == "search":
        what = f"a search over shapes for {variants}"
    elif count == len(job["cases"]) * len(job["variants"]):
        what = f"{cases} x {variants}"
    else:  # not every variant on every case
        what = f"{cases} of {variants}, {units.several(count, 'measurement')}"
    return f"{job['workload']} on {gpu}: {what}, at most {units.duration(at_most_s(job))}"


def phase(progress: Mapping[str, Any]) -> str:
    """Say what is going on where no case is measured: `provisioning: runpod RTX4090 in CA, $0.34/h`; "" for a case's progress."""
    detail = one_line(str(progress.get("detail") or ""))
    return ": ".join(filter(None, [str(progress.get("phase") or ""), detail])) if progress.get("phase") else ""


def settings(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a job's plain data: what `fixed` says once, and names of cases leave out."""
    return (job.get("derive") or {}).get("settings") or {}


def fixed(job: Mapping[str, Any]) -> list[str]:
    """Say once what is the same in the whole job, in a line, if there is anything."""
    return [f"fixed      {units.listed(settings(job))}"] if settings(job) else []


def case(event: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Name a case without the job's settings, its x last: `layer=qkv m=16`."""
    axes, x = labels(event["case"], settings or {}), event.get("x")
    ordered = [axis for axis in axes if axis != x] + ([x] if x in axes else [])
    return " ".join(f"{axis}={axes[axis]}" for axis in ordered)


def measurement(event: Event, stages: Container[str] = ()) -> str:
    """Say what a measurement found in one line, without its case and variant; of `stages` of a whole no speedup."""
    if event["status"] not in MEASURED:
        return f"{event['status']}" + (f" ({one_line(event['reason'])})" if event.get("reason") else "")
    row = flat(event)
    parts = [units.interval(row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"])]
    if event.get("speedup") and event["variant"] not in stages:
        parts.append(units.speedup(event["speedup"]))
    parts += rates(row)
    if event["status"] == "noisy":
        parts.append("noisy")
    return "  ".join(parts)


def rates(row: Mapping[str, Any]) -> list[str]:
    """Return TFLOPS and GB/s with what they are of the datasheet's, as far as known: `695 TFLOPS 70.2%`."""
    found = []
    for what, unit, percent in (
        ("throughput_tflops", "TFLOPS", "pct_of_peak"),
        ("bandwidth_gbps", "GB/s", "pct_of_bandwidth"),
    ):
        if row[what]:
            share = f" {row[percent]:.1f}%" if row[percent] is not None else ""
            found.append(f"{units.digits(row[what])} {unit}{share}")
    return found


def warnings(event: Event, settings: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Yield what a person should know at once about an event; cases are named without the job's settings."""
    if event["event"] == "job_started":
        yield from event.get("warnings") or []
        for other in event.get("other_processes") or []:
            memory = f" using {units.size(other['memory_bytes'])}" if other.get("memory_bytes") else ""
            yield f"another process is on the GPU: {other.get('name') or 'unknown'} (pid {other.get('pid')}){memory}"
        if event.get("restart"):
            yield "the worker started itself anew: the device was left in error"
    if event["event"] != "measurement":
        return
    where = f"{case(event, settings)} {event['variant']}"
    if event["status"] in TELLING:
        yield f"{where}: {event['status']}" + (f", {one_line(event['reason'])}" if event.get("reason") else "")
    told = [one_line(line) for line in event.get("warnings") or []]
    for line in told:
        yield f"{where}: {line}"
    throttled = event.get("throttled") or []
    if throttled and not any("throttl" in line for line in told):
        reasons = ", ".join((event.get("telemetry") or {}).get("throttle_reasons") or []) or "the GPU slowed itself down"
        yield f"{where}: {units.several(len(throttled), 'sample')} throttled ({reasons})"
    control = event.get("control")
    if control and control["verdict"] in ("faster", "slower"):
        yield f"{where}: A/A control failed, the baseline against itself is {units.speedup(control)}"


def counts(results: Results) -> str:
    """Say how many measurements ended how: `26 ok, 1 noisy`."""
    found: dict[str, int] = {}
    for event in results.measurements:
        found[event["status"]] = found.get(event["status"], 0) + 1
    if found and results.missing:
        found["not measured"] = len(results.missing)
    return ", ".join(f"{count} {status}" for status, count in found.items()) or "nothing measured"


def found(results: Results) -> tuple[list[str], list[str], list[str]]:
    """Return (thresholds, decisions, search results), each in words."""
    searches = []
    for event in results.searches:
        if best := event.get("best"):
            interval = f"[{units.digits(best['ci_low_tflops'], 4)}, {units.digits(best['ci_high_tflops'], 4)}]"
            shape = " ".join(f"{axis}={value}" for axis, value in best["case"].items())
            searches.append(f"best {event.get('variant')}: {units.digits(best['tflops'], 4)} TFLOPS {interval} at {shape}")
    try:
        return (
            [thresholds.in_words(one) for one in thresholds.derive_all(results)],
            [decisions.in_words(one) for one in decisions.derive_all(results)],
            searches,
        )
    except RequestError as error:  # a display never ends a run; `runner.report` says the same and exits with 2
        return [str(error)], [], searches


def results_of(events: list[Event]) -> Results | None:
    """Read the events so far; None when no worker ever started."""
    try:
        return from_events(events)
    except RequestError:
        return None
