"""report.md: one page that a person would send to a colleague; everything on it is in the journal or derived from it."""

from collections.abc import Iterable, Sequence
from typing import Any

from runner import thresholds, units
from runner.decisions import Answer
from runner.journal import Event, case_key
from runner.report.table import flat
from runner.results import MEASURED, Results, plain
from runner.thresholds import Evidence


def render(results: Results, found: Sequence[Evidence], answers: Sequence[Answer], plots: Sequence[str]) -> str:
    """Return the page; `plots` are paths relative to it."""
    parts = [
        _head(results, answers),
        _thresholds(found),
        _decisions(answers),
        _search(results),
        _tables(results),
        _troubles(results),
        _plots(plots),
        _machine(results, answers),
        _again(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(results: Results, answers: Sequence[Answer]) -> str:
    device = results.device
    lines = [f"# {results.workload} on {device.get('name') or 'an unknown device'}"]
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
    measured = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none"
    variants = ", ".join(f"`{variant}`" for variant in results.job.get("variants") or [])
    lines.append(
        f"{units.several(len(results.cases), 'case')} of {variants}"
        + (f" against `{results.baseline}`" if results.baseline else "")
        + f", {results.started_at[:16].replace('T', ' ')} UTC. Measurements: {measured}. "
        f"Intervals are at {100 * results.confidence:g}% confidence."
    )
    return "\n\n".join(lines)


def _thresholds(found: Sequence[Evidence]) -> str:
    if not found:
        return ""
    lines = ["## Thresholds", ""]
    lines += _table(
        ["key", "value", "found", "in words"],
        ([f"`{one.spec.key}`", f"{one.runtime}", one.decision, _sentence(thresholds.in_words(one))] for one in found),
    )
    return "\n".join(lines)


def _decisions(answers: Sequence[Answer]) -> str:
    if not answers:
        return ""
    rows = ([answer.question, f"**{answer.answer}**", answer.reason] for answer in answers)
    return "\n".join(["## Decisions", "", *_table(["question", "answer", "because"], rows)])


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


def _tables(results: Results) -> str:
    """Return a table per series, cases against x downward and variants within."""
    series: dict[str, tuple[str, dict[str, Any], list[Event]]] = {}
    for event in results.measurements:
        others = {axis: value for axis, value in event["case"].items() if axis != event["x"]}
        series.setdefault(f"{event['x']}/{others!r}", (event["x"], others, []))[2].append(event)
    parts = ["## Results"]
    for x, others, events in series.values():
        unit = results.unit(x)
        columns = [
            f"{x} ({unit})" if unit else x,
            "variant",
            "latency",
            "speedup",
            "TFLOPS",
            "GB/s",
            "% of peak",
            "% of bandwidth",
        ]
        rows = [_row(event) for event in events]
        used = [index for index in range(len(columns)) if index < 3 or any(row[index] for row in rows)]
        title = [f"### {plain(others)}", ""] if others else []
        parts.append(
            "\n".join([*title, *_table([columns[i] for i in used], ([row[i] for i in used] for row in rows), numbers=used)])
        )
    return "\n\n".join(parts) if series else ""


def _row(event: Event) -> list[str]:
    row = flat(event)
    x = event["case"].get(event["x"], "")
    if event["status"] not in MEASURED:
        return [f"{x}", f"`{event['variant']}`", f"*{event['status']}*", "", "", "", "", ""]
    latency = units.interval(row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"])
    speedup = event.get("speedup")
    return [
        f"{x}",
        f"`{event['variant']}`",
        latency + (" *noisy*" if event["status"] == "noisy" else ""),
        units.speedup(speedup) if speedup else "",
        *(units.digits(row[what]) if row[what] is not None else "" for what in ("throughput_tflops", "bandwidth_gbps")),
        *(f"{row[what]:.1f}" if row[what] is not None else "" for what in ("pct_of_peak", "pct_of_bandwidth")),
    ]


def _troubles(results: Results) -> str:
    """List what isn't ok, equal reasons together, and every warning."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for event in results.measurements:
        if event["status"] != "ok":
            key = (str(event["variant"]), str(event["status"]), str(event.get("reason") or "no reason given"))
            reasons.setdefault(key, []).append(case_key(event["case"]))
    lines = [f"- `{variant}` is **{status}** at {_some(cases)}: {reason}" for (variant, status, reason), cases in reasons.items()]
    said: dict[tuple[str, str], list[str]] = {}  # (case, warning) -> variants: what hit a whole case is said once
    for event in results.measurements:
        for warning in event.get("warnings") or []:
            said.setdefault((case_key(event["case"]), str(warning)), []).append(f"`{event['variant']}`")
        control = event.get("control")
        if control and control["verdict"] in ("faster", "slower"):
            text = f"A/A control failed, the baseline against itself is {units.speedup(control)}"
            said.setdefault((case_key(event["case"]), text), []).append(f"`{event['variant']}`")
    warnings: dict[tuple[str, str], list[str]] = {}
    for (case, warning), variants in said.items():
        warnings.setdefault((", ".join(variants), warning), []).append(case)
    lines += [f"- {warning}" for warning in results.warnings]
    if results.other_processes:
        names = ", ".join(f"{one.get('name') or 'unknown'} (pid {one.get('pid')})" for one in results.other_processes)
        lines.append(f"- other processes were on the GPU: {names}")
    lines += [f"- {variants} at {_some(cases)}: {warning}" for (variants, warning), cases in warnings.items()]
    return "\n".join(["## What to know before trusting this", "", *lines]) if lines else ""


def _plots(plots: Sequence[str]) -> str:
    return "\n\n".join(["## Plots", *(f"![{path}]({path})" for path in plots)]) if plots else ""


def _machine(results: Results, answers: Sequence[Answer]) -> str:
    device, software = results.device, results.software
    hardware = next((answer for answer in answers if answer.key == "hardware"), None)
    lines = ["## Machine", ""]
    if hardware:
        judged = {True: "yes", False: "**no**", None: "-"}
        rows = ([row["what"], row["expected"], row["found"], judged[row["ok"]]] for row in hardware.table)
        lines += [*_table(["", "asked for", "found", "agrees"], rows), ""]
    facts = [
        ("device", device.get("name")),
        ("UUID", device.get("uuid")),
        ("SM version", device.get("sm")),
        ("CPU", f"{device.get('cpu')}, {device.get('cores')} cores, {device.get('threads')} threads used"),
        ("software", ", ".join(f"{name} {version}" for name, version in software.items() if version)),
    ]
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in facts if value)])


def _again(results: Results) -> str:
    git = results.git
    code = f"commit `{git['sha']}`" + (" with uncommitted changes" if git["dirty"] else "") if git["sha"] else "an unknown commit"
    return "\n".join(
        [
            "## How to reproduce",
            "",
            f"At {code}:",
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


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> list[str]:
    """Return a Markdown table; `numbers` given, all but the second column are aligned to the right."""
    rule = ["---:" if numbers and index != 1 else "---" for index in range(len(columns))]
    lines = [columns, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _some(cases: Sequence[str], most: int = 4) -> str:
    """Name the first few cases of many."""
    names = [case or "the only case" for case in cases[:most]]
    return "; ".join(names) + (f" and {len(cases) - most} more" if len(cases) > most else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("undecided") else text
