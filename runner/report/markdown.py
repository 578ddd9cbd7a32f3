"""report.md: one page that a person would send to a colleague; everything on it is in the journal or derived from it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runner import composition, figures, thresholds, units
from runner.decisions import Answer
from runner.journal import Event
from runner.rental import Rental
from runner.report import rented, shares, troubles
from runner.report.table import as_markdown, flat, looked_up
from runner.reported import Figure
from runner.results import MEASURED, Results, labels, plain
from runner.stats import Interval
from runner.thresholds import Evidence


def render(
    results: Results,
    found: Sequence[Evidence],
    answers: Sequence[Answer],
    plots: Sequence[str],
    rental: Rental | None = None,
    projected: str = "",
) -> str:
    """Return the page; `plots` are paths relative to it, `rental` is what was rented for the run, `projected` its projection."""
    parts = [
        projected or _head(results, answers, rental),
        of_thresholds(found),
        of_decisions(answers),
        _search(results),
        tables(results),
        shares.section(results),
        _reported(results),
        troubles.section(results),
        _plots(plots),
        rented.section(rental, results.measurements),
        _machine(results, answers),
        _again(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results, answers: Sequence[Answer], rental: Rental | None) -> str:
    device = results.device
    lines = [f"# {results.workload} on {device.get('name') or 'an unknown device'}", *rented.loud(rental)]
    mismatch = next((answer for answer in answers if answer.key == "hardware" and answer.answer == "mismatch"), None)
    if mismatch:
        lines.append(f"> **Not the hardware that was asked for.** {mismatch.reason}")
    if results.status != "complete":
        lines.append(
            f"> **The run is {results.status}**: {results.reason or 'no reason given'}. What was measured until then stands."
        )
    counts = dict.fromkeys((event["status"] for event in results.measurements), 0)
    for event in results.measurements:
        counts[event["status"]] += 1
    if results.missing:
        counts["not measured"] = len(results.missing)
    measured = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    variants = ", ".join(f"`{variant}`" for variant in results.job.get("variants") or [])
    lines.append(
        f"{units.several(len(results.cases), 'case')} of {variants}"
        + (f" against `{results.baseline}`" if results.baseline else "")
        + f", {results.started_at[:16].replace('T', ' ')} UTC. Measurements: {measured}. "
        f"Intervals are at {100 * results.confidence:g}% confidence."
    )
    if results.settings:
        lines.append(f"Fixed: {units.listed(results.settings)}.")
    lines.append(rented.summary(rental, results.measurements))
    return "\n\n".join(filter(None, lines))


def of_thresholds(found: Sequence[Evidence]) -> str:
    """Return the section of what was derived, "" where nothing was declared."""
    if not found:
        return ""
    lines = ["## Thresholds", ""]
    lines += as_markdown(
        ["key", "value", "found", "in words"],
        ([f"`{one.spec.key}`", f"{one.runtime}", one.decision, _sentence(thresholds.in_words(one))] for one in found),
    )
    return "\n".join(lines)


def of_decisions(answers: Sequence[Answer]) -> str:
    """Return the section of questions and answers, "" where there are none."""
    if not answers:
        return ""
    rows = ([answer.question, f"**{answer.answer}**", answer.reason] for answer in answers)
    return "\n".join(["## Decisions", "", *as_markdown(["question", "answer", "because"], rows)])


def _search(results: Results) -> str:
    lines = []
    for event in results.searches:
        best = event.get("best")
        looked = f"{event.get('tried')} cases looked at in {units.duration(event.get('seconds') or 0)}"
        if best:
            interval = f"[{units.digits(best['ci_low_tflops'], 4)}, {units.digits(best['ci_high_tflops'], 4)}]"
            found = f"{units.digits(best['tflops'], 4)} TFLOPS {interval} at {plain(best['case'])}"
            lines.append(f"- `{event.get('variant')}`: {found} ({looked})")
        else:
            lines.append(f"- `{event.get('variant')}`: nothing found ({looked})")
    return "\n".join(["## Search", "", *lines]) if lines else ""


def tables(results: Results) -> str:
    """Return a table per series, cases against x downward and variants within."""
    series: dict[str, tuple[str, dict[str, Any], list[Event]]] = {}
    for event in results.measurements:
        others = results.series(event)
        series.setdefault(f"{event['x']}/{others!r}", (event["x"], others, []))[2].append(event)
    if not series:
        return ""
    stages = composition.stages(results.job)
    parts = ["## Results"]
    if any((event.get("also") or {}).get("wall") for event in results.measurements):
        parts.append(
            "The latency is the device's time"
            + (", with a cold L2" if _primary(results) == "cold" else "")
            + "; wall is what the "
            "host's clock shows around a call and the wait for it, *launch bound* where that is over 1.5 times as long."
        )
    if shown := [variant for variant in results.job.get("variants") or [] if variant in stages]:
        declared = composition.declared(results.job)
        wholes = " and ".join(f"`{one.whole}`" for one in declared)
        too = ", or other forms of them" if {*shown} - {stage for one in declared for stage in one.stages} else ""
        if results.baseline:
            parts.append(
                f"{', '.join(f'`{variant}`' for variant in shown)} are stages of {wholes}{too}: they have no speedup over "
                f"`{results.baseline}`, which does what a whole does."
            )
    for x, others, events in series.values():
        rows = [flat(event) | ({"speedup": None} if event["variant"] in stages else {}) for event in events]
        unit, factor = units.rate_unit(max((row["throughput_tflops"] or 0 for row in rows), default=0))
        columns = [_axis(results, x), "variant", "latency", "wall", f"speedup over `{results.baseline}`", unit]
        columns += ["GB/s", "% of peak", "% of bandwidth"]
        own = _figures(results, events)
        columns += list(own)
        cells = [
            _cells(event, row, factor) + [column[index] for column in own.values()]
            for index, (event, row) in enumerate(zip(events, rows, strict=True))
        ]
        used = [index for index in range(len(columns)) if index < 3 or any(row[index] for row in cells)]
        title = [f"### {plain(others)}", ""] if others else []
        table = as_markdown([columns[i] for i in used], ([row[i] for i in used] for row in cells), words=(1,))
        parts.append("\n".join([*title, *table]))
    return "\n\n".join(parts)


def _figures(results: Results, events: Sequence[Event]) -> dict[str, list[str]]:
    """Return the columns of the workload's own figures, in the order in which it declares them, with a cell for each event."""
    declared, found = figures.units(results.job), [figures.of(event) for event in events]
    names = dict.fromkeys([*declared, *(name for one in found for name in one)])
    return {
        f"{name} ({declared[name]})" if declared.get(name) else name: [_figure(one.get(name)) for one in found] for name in names
    }


def _figure(found: Interval | None) -> str:
    if found is None or math.isnan(found.value):
        return ""
    if math.isnan(found.low):
        return _plain(found.value)
    return f"{_plain(found.value)} [{_plain(found.low)}, {_plain(found.high)}]"


def _plain(value: float) -> str:
    """Write a figure of any size: `0.981`, `2.40e-07`, `24.5 M`."""
    if abs(value) >= 1e5:
        return f"{units.digits(value / 1e6)} M"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else units.digits(value)


def _primary(results: Results) -> str:
    return next((str(event["timing"]) for event in results.measurements if event.get("timing")), "")


def _axis(results: Results, axis: str) -> str:
    """Name an axis with its unit."""
    unit = results.unit(axis)
    return f"{axis} ({unit})" if unit else axis


def _cells(event: Event, row: Mapping[str, Any], factor: float) -> list[str]:
    x = f"{event['case'].get(event['x'], '')}"
    if event["status"] not in MEASURED:
        return [x, f"`{event['variant']}`", f"*{event['status']}*", "", "", "", "", "", ""]
    tflops, bandwidth = row["throughput_tflops"], row["bandwidth_gbps"]
    return [
        x,
        f"`{event['variant']}`",
        units.interval(row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"]) + _if_noisy(event),
        _wall(row),
        units.speedup(event["speedup"]) if row["speedup"] is not None else "",
        units.digits(tflops * factor) if tflops else "",
        units.digits(bandwidth) if bandwidth else "",
        *(f"{row[what]:.1f}" if row[what] else "" for what in ("pct_of_peak", "pct_of_bandwidth")),
    ]


def _wall(row: Mapping[str, Any]) -> str:
    if row["latency_wall_ms"] is None:
        return ""
    return units.latency(row["latency_wall_ms"]) + (" *launch bound*" if row["launch_bound"] else "")


def _if_noisy(event: Event) -> str:
    return " *noisy*" if event["status"] == "noisy" else ""


def _reported(results: Results) -> str:
    """Set what others published beside what this run measured; no ratios, the two were not measured side by side."""
    reported = results.reported
    if reported is None:
        return ""
    source = reported.source
    cases = [labels(figure.case, results.settings) for figure in reported.rows]
    common = {axis: value for axis, value in cases[0].items() if all(one.get(axis) == value for one in cases)}
    common = common if any(one.keys() - common for one in cases) else {}
    order = list(dict.fromkeys(figure.what for figure in reported.rows))
    columns = ["what", "case", "variant", "metric", f"reported: {source.device}", f"here: {results.device.get('name')}"]
    rows = (
        [
            figure.what,
            units.listed({axis: value for axis, value in case.items() if axis not in common}),
            f"`{figure.variant}`",
            figure.metric,
            f"{figure.value:.15g}",
            _here(figure, results),
        ]
        for figure, case in sorted(zip(reported.rows, cases, strict=True), key=lambda one: order.index(one[0].what))
    )
    about = f"*{source.title}*, {source.date}; {source.software}." + (f" All at {units.listed(common)}." if common else "")
    lines = ["## Reported by others, not measured here", "", about, ""]
    return "\n".join([*lines, f"> **What is wrong with it:** {reported.caveat}", "", *as_markdown(columns, rows)])


def _here(figure: Figure, results: Results) -> str:
    """Say what this run found for a published figure: the value with its interval, or why there is none."""
    wanted = figure.case.items()
    found = [one for one in results.measurements if one["variant"] == figure.variant and wanted <= one["case"].items()]
    if len(found) != 1:
        return f"{len(found)} cases fit" if found else "-"
    event = found[0]
    if event["status"] not in MEASURED:
        return f"*{event['status']}*"
    primary = f"latency_{event['timing']}_ms"  # where the host's clock is the only one, the latency is its
    value, low, high = looked_up(event, "latency_ms" if figure.metric == primary else figure.metric)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    text = f"{value}" if isinstance(value, int) else units.digits(value, 4)
    text += f" [{units.digits(low, 4)}, {units.digits(high, 4)}]" if low is not None and high is not None else ""
    text += f" over `{results.baseline}`" if figure.metric == "speedup" else ""
    return text if isinstance(value, int) else text + _if_noisy(event)  # a count is not noisy


def _plots(plots: Sequence[str]) -> str:
    return "\n\n".join(["## Plots", *(f"![{path}]({path})" for path in plots)]) if plots else ""


def _machine(results: Results, answers: Sequence[Answer]) -> str:
    device, software = results.device, results.software
    hardware = next((answer for answer in answers if answer.key == "hardware"), None)
    lines = ["## Machine", ""]
    if hardware:
        lines += [*as_markdown(["", "asked for", "found", "agrees"], held(hardware)), ""]
    facts = [
        ("device", device.get("name")),
        ("UUID", device.get("uuid")),
        ("SM version", device.get("sm")),
        ("CPU", f"{device.get('cpu')}, {device.get('cores')} cores, {device.get('threads')} threads used"),
        ("software", ", ".join(f"{name} {version}" for name, version in software.items() if version)),
    ]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts if value)])


def held(hardware: Answer) -> list[list[str]]:
    """Return the rows of a machine that was held against its datasheet."""
    judged = {True: "yes", False: "**no**", None: "-"}
    return [[row["what"], row["expected"], row["found"], judged[row["ok"]]] for row in hardware.table]


def code(results: Results) -> str:
    """Name the checkout that a run was asked from."""
    git = results.git
    return f"commit `{git['sha']}`" + (" with uncommitted changes" if git["dirty"] else "") if git["sha"] else "an unknown commit"


def _again(results: Results) -> str:
    return "\n".join(
        [
            "## How to reproduce",
            "",
            f"At {code(results)}:",
            "",
            "```",
            results.command,
            "```",
            "",
            f"Job `{results.job_hash}`, seed {results.job['seed']}; on the machine itself: "
            "`python -m runner.worker job.json --out DIR`. Everything here can be derived again from `job.json` and "
            "`journal.jsonl` with `python -m runner.report DIR`.",
        ]
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("undecided") else text
