"""lineup.md, the page of one machine: what it is, what it does, what that costs, and what was said of such machines."""

from collections import Counter
from collections.abc import Sequence

from runner import decisions, thresholds, units
from runner.cost import usd
from runner.lineup.claims import HOLDS, Report, Verdict, judge
from runner.merged import Price, prices
from runner.merged.sources import Origin, Source
from runner.rental import load as rental_of
from runner.report import markdown, troubles
from runner.report.table import as_markdown, flat
from runner.results import MEASURED, Results

Runs = Sequence[tuple[Source, Results]]


def render(
    origin: Origin, machine: str, runs: Runs, price: Price | None, price_source: str, costs: str, reports: Sequence[Report]
) -> str:
    """Return the page."""
    results = [run for _, run in runs]
    parts = [
        _head(origin, machine, runs),
        _hardware(results),
        *(_workload(source, run) for source, run in runs),
        costs,
        _bill(origin, runs, price, price_source),
        of_claims(reports, results),
        _again(origin, results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(origin: Origin, machine: str, runs_of: Runs) -> str:
    runs = [run for _, run in runs_of]
    counts = Counter(event["status"] for run in runs for event in run.measurements)
    said = ", ".join(f"{count} {status}" for status, count in counts.items())
    started = {source.index for source, _ in runs_of}
    names = {source.index: " ".join(source.varied) or source.folder.name for source in origin.sources if source.same_as is None}
    undone = [f"{name} never started" for index, name in names.items() if index not in started]
    undone += [f"`{run.workload}` is {run.status}: {run.reason or 'no reason given'}" for run in runs if run.status != "complete"]
    seconds = _measured_s(runs)
    software = runs[0].software
    versions = ", ".join(f"{name} {software[name]}" for name in ("torch", "cuda", "triton", "driver") if software.get(name))
    cards = {str(run.device["uuid"]) for run in runs if run.device.get("uuid")}
    lines = [
        f"# {machine}, measured",
        *(f"> **{one}**" for one in undone),
        f"{units.several(len(runs), 'workload')}, {min(run.started_at for run in runs)[:16].replace('T', ' ')} UTC, "
        f"{units.duration(seconds)} of measuring. Measurements: {said or 'none'}. {versions}.",
        f"From {len(cards)} cards of this name: {', '.join(sorted(cards))}." if len(cards) > 1 else "",
        f"Every time is a median with its {100 * runs[0].confidence:g}% interval, of outputs that were held against a float64 "
        "reference first.",
    ]
    return "\n\n".join(filter(None, lines))


def _measured_s(runs: Sequence[Results]) -> float:
    return sum(float((run.finished or {}).get("measure_s") or 0) for run in runs)


def _hardware(runs: Sequence[Results]) -> str:
    """Hold the machine against its datasheet: what the driver says of it, and the highest rates that were measured."""
    known = next((run for run in runs if run.spec), None)
    if known is None or known.spec is None:
        return "## Hardware\n\nNo datasheet of this device is known, so nothing here is held against one."
    answer = decisions.hardware(known)
    rows = markdown.held(answer) if answer else []
    spec, best = known.spec, _best(runs)
    rates = [("memory bandwidth, GB/s", spec.bandwidth_gbps, "bandwidth")]
    rates += [
        (f"{dtype}, {'TOPS' if dtype == 'int8' else 'TFLOPS'}", peak, dtype) for dtype, peak in spec.peak_tflops.items() if peak
    ]
    for what, peak, key in rates:
        if key in best:
            value, where = best[key]
            rows.append(
                [f"{what}: highest measured", units.digits(peak), f"{units.digits(value)}, {100 * value / peak:.0f}%", where]
            )
    table = as_markdown(["", "datasheet", "found", "agrees, or by"], rows)
    return "\n".join([f"## Hardware against the datasheet of the {spec.name}", "", *table])


def _best(runs: Sequence[Results]) -> dict[str, tuple[float, str]]:
    """Return the highest bandwidth of a plain copy and the highest TFLOPS of a matrix product, by precision, with what had it."""
    best: dict[str, tuple[float, str]] = {}
    for run in runs:
        for event in run.measurements:
            row, name = flat(event), f"`{event['variant']}` of {run.workload}"
            found = [("bandwidth", row["bandwidth_gbps"])] if run.workload == "inspect" else []
            found += [(str(event.get("dtype")), row["throughput_tflops"])] if run.workload == "matmul" else []
            for key, value in found:
                if event["status"] in MEASURED and value and value > best.get(key, (0.0, ""))[0]:
                    best[key] = (value, name)
    return best


def _workload(source: Source, run: Results) -> str:
    """Return what one run found, its headings two levels down."""
    answers = [one for one in decisions.derive_all(run) if one.key != "hardware"]
    parts = [
        markdown.of_thresholds(thresholds.derive_all(run)),
        markdown.of_decisions(answers),
        markdown.tables(run),
        troubles.section(run),
    ]
    inner = "\n\n".join(f"##{part}".replace("\n### ", "\n##### ") for part in parts if part)
    fixed = f" Fixed: {units.listed(run.settings)}." if run.settings else ""
    return f"## {run.workload}\n\n[Its own report]({source.link}/report.md).{fixed}\n\n{inner}"


def _bill(origin: Origin, runs: Runs, price: Price | None, price_source: str) -> str:
    """Say what all this cost, or what it would have at the dated price."""
    seconds = _measured_s([run for _, run in runs])
    found = prices.bill(filter(None, (rental_of(source.folder) for source, _ in runs)), origin.clusters)
    if found.clusters:
        cost = usd(found.usd) if found.usd is not None else "of unknown price"
        clusters = f"{units.several(found.clusters, 'cluster')} on {', '.join(found.clouds)}"
        said = f"{clusters}: {cost}, by the price and the time from request to end."
    elif price is None:
        said = "Nothing was rented, and no dated price of this device is known."
    else:
        cost = usd(seconds / 3600 * price.usd_per_hour)
        said = (
            f"Nothing was rented. {units.duration(seconds)} of measuring are {cost} at {usd(price.usd_per_hour)} an hour, "
            f"{price.source} ({price_source}); start and end of a machine come on top."
        )
    return f"## What it cost\n\n{said}"


def of_claims(reports: Sequence[Report], runs: Sequence[Results]) -> str:
    """Return every claim with its verdict, a table per report."""
    lines = [
        "## What was claimed",
        "",
        "Each claim of the reports that these workloads began with, held against what is on this page.",
    ]
    for report in reports:
        rows = [_row(judge(claim, runs)) for claim in report.claims]
        lines += [
            "",
            f"### {report.title}, {report.date}",
            "",
            *as_markdown(["claim", "verdict", "here", "what is behind it"], rows, range(4)),
        ]
    return "\n".join(lines)


def _row(judged: Verdict) -> list[str]:
    verdict = judged.verdict if judged.verdict == HOLDS else f"**{judged.verdict}**"
    here = "; ".join(filter(None, (judged.here, judged.reason)))
    return [judged.claim.claim, verdict, here, judged.claim.behind]


def _again(origin: Origin, runs: Sequence[Results]) -> str:
    commands = [origin.command] if origin.command else list(dict.fromkeys(run.command for run in runs))
    return "\n".join(["## How to reproduce", "", f"At {markdown.code(runs[0])}:", "", "```", *commands, "```"])
