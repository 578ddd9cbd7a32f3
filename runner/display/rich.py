"""The display on a terminal: what will run, one bar while it runs with warnings above it, then tables and what was found."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from runner import composition, units
from runner.cost import usd
from runner.display import words
from runner.journal import Event
from runner.report.table import flat
from runner.results import MEASURED, Results, plain

REFRESH_HZ = 4  # the display shares the machine with the measurement
MAX_ROWS = 60
NARROW = 96  # columns; below, a table has no room for rates, which are in report.md, and the bar is half as long
STYLES = {"faster": "green", "slower": "red", "same": "dim", "unclear": "yellow"}


class Rich:
    """A sink for a terminal."""

    def __init__(self, stream: TextIO, console: Console | None = None) -> None:
        self._console = console or Console(file=stream, highlight=False)
        self._events: list[Event] = []
        self._told: set[str] = set()
        self._settings: Mapping[str, Any] = {}
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._live = False
        self._started = time.monotonic()
        self._measuring: float | None = None
        self._done = 0
        self._total = 0

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Say what will run and show the bar, still without a case."""
        title, _, rest = words.opening(job).partition(": ")
        self._console.print(Text.assemble((title, "bold"), f"  {rest}"))
        for line in words.fixed(job):
            self._console.print(Text(line, style="dim"))
        self._begin(job)

    def event(self, event: Event) -> None:
        """Move the bar; show warnings above it."""
        self._events.append(event)
        if event["event"] == "job_started":
            self._settings = words.settings(event["job"])
            if self._progress is None:
                self._begin(event["job"])
        for line in words.warnings(event, self._settings):
            self.warn(line)
        if self._progress is None or self._task is None:
            return
        if event["event"] == "case_started":
            self._measuring = self._measuring or time.monotonic()
            self._done = event["index"]
            what = escape(words.case(event, self._settings))
            self._progress.update(self._task, total=event["total"], completed=event["index"], what=what, live="")

    def progress(self, progress: dict[str, Any]) -> None:
        """Show the phase, or the current case, the variants under way and how precise their medians are by now; and the bill."""
        if self._progress is None or self._task is None:
            return
        if progress.get("spent_usd") is not None:
            self._progress.update(self._task, spent=usd(progress["spent_usd"]))
        if line := words.phase(progress):
            self._progress.update(self._task, what=escape(line), live="", eta="")
        if "index" not in progress:
            return
        reached = progress.get("precision") or {}
        # The least precise one decides when the case is done.
        live = f"±{100 * max(reached.values()):.1f}%" if reached else ""
        names = progress.get("variants") or []
        shown = escape(" ".join(names[:4])) + (f" +{len(names) - 4}" if len(names) > 4 else "")
        what = f"{escape(words.case(progress, self._settings))}  [cyan]{shown}[/]"
        self._progress.update(
            self._task, total=progress["total"], completed=progress["index"], what=what, live=live, eta=self._eta(progress)
        )

    def warn(self, line: str) -> None:
        """Show a warning once."""
        if line not in self._told:
            self._told.add(line)
            self._print(Text.assemble(("! ", "bold yellow"), (line, "yellow")))

    def alarm(self, line: str) -> None:
        """Show an alarm, in one line however long, so that a command in it can be copied."""
        self._print(Text(f"ALARM: {line}", style="bold red"), soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None and self._live:
            self._live = False
            self._progress.live.stop()  # Progress.stop adds an empty line where the screen is none

    def finish(self, status: str, reason: str) -> None:
        """Take the bar away; show the tables and what was found."""
        self.close()
        results = words.results_of(self._events)
        if results:
            for table in tables(results, self._console.width):
                self._console.print(table)
            self._console.print()
            for group, style in zip(words.found(results), ("bold cyan", "", "bold"), strict=True):
                for line in group:
                    self._console.print(Padding(Text(line, style=style), (0, 0, 0, 2)))
            self._console.print()
        ended = Text.assemble((status, "bold green" if status == "complete" else "bold red"), f" ({reason})" if reason else "")
        took = f" in {units.duration(time.monotonic() - self._started)}"
        self._console.print(Text.assemble(ended, took, f"  {words.counts(results)}" if results else ""))

    def closing(self, lines: list[str]) -> None:
        """Say where the results are."""
        for line in lines:
            self._console.print(Text(line, style="dim"), soft_wrap=True)

    def _begin(self, job: Mapping[str, Any]) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24 if self._console.width >= NARROW else 12),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[what]}", table_column=Column(no_wrap=True, ratio=1)),
            TextColumn("[yellow]{task.fields[live]}[/]"),
            TextColumn("[dim]{task.fields[eta]}[/]"),
            TextColumn("[bold]{task.fields[spent]}[/]", justify="right"),
            console=self._console,
            refresh_per_second=REFRESH_HZ,
            transient=True,
            expand=True,  # what is too long is cut in the middle column, and the bill stays at the right
        )
        self._total = len(job["cases"])
        self._task = self._progress.add_task("", total=max(self._total, 1), what="starting the worker", live="", eta="", spent="")
        self._progress.start()
        self._live = True

    def _eta(self, progress: Mapping[str, Any]) -> str:
        """Say how long it may still take, from the cases done so far."""
        done = progress["index"]
        if self._measuring is None or done == 0:
            return ""
        spent = time.monotonic() - self._measuring
        return f"{units.duration(spent / done * (progress['total'] - done))} left"

    def _print(self, text: Text, soft_wrap: bool = False) -> None:
        (self._progress.console if self._progress else self._console).print(text, soft_wrap=soft_wrap)


def tables(results: Results, width: int = 100) -> list[Any]:
    """Return a table per series; of long runs only the largest x of each, with a line that says so."""
    series: dict[str, tuple[str, dict[str, Any], list[Event]]] = {}
    for event in results.measurements:
        others = results.series(event)
        series.setdefault(f"{event['x']}/{others!r}", (event["x"], others, []))[2].append(event)
    left_out = 0
    if len(results.measurements) > MAX_ROWS and len(series) > 1:
        for key, (x, others, events) in series.items():
            last = events[-1]["case"].get(x)
            kept = [event for event in events if event["case"].get(x) == last] if others else events
            left_out += len(events) - len(kept)
            series[key] = (x, others, kept)
    shown: list[Any] = [_table(x, others, events, results, width) for x, others, events in series.values()]
    shown.append(Text())
    reasons = {
        (event["variant"], event.get("reason")): None for event in results.measurements if event["status"] == "unsupported"
    }
    shown += [Text(f"  {variant}: unsupported" + (f" ({reason})" if reason else ""), style="dim") for variant, reason in reasons]
    if left_out:
        shown.append(
            Text(
                f"  {units.several(left_out, 'measurement')} at smaller sizes are in report.md and measurements.csv", style="dim"
            )
        )
    return shown


def _table(x: str, others: Mapping[str, Any], events: Sequence[Event], results: Results, width: int) -> Any:
    # A variant that is not supported at any of these cases is one line below all tables, not a row per case.
    timed = {event["variant"] for event in events if event["status"] != "unsupported"}
    events = [event for event in events if event["variant"] in timed]
    stages = composition.stages(results.job)
    rows = [flat(event) | ({"speedup": None} if event["variant"] in stages else {}) for event in events]
    compared = any(row["speedup"] for row in rows)
    # The rate that the datasheet can be held against: arithmetic where the workload declares any, else memory.
    rates = (("TFLOPS", "throughput_tflops"), ("% peak", "pct_of_peak"))
    if not any(row["throughput_tflops"] for row in rows):
        rates = (("GB/s", "bandwidth_gbps"), ("% bw", "pct_of_bandwidth"))
    columns = [(title, name) for title, name in rates if any(row[name] for row in rows) and width >= NARROW]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column(x, justify="right", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    table.add_column("latency", no_wrap=True)
    if compared:
        table.add_column(f"speedup over {results.baseline}", no_wrap=True)
    for title, _ in columns:
        table.add_column(title, justify="right", no_wrap=True)
    previous: Any = None
    for event, row in zip(events, rows, strict=True):
        value = event["case"].get(x)
        cells = [Text("" if value == previous else f"{value}", style="bold"), Text(str(event["variant"])), _latency(event, row)]
        cells += [_speedup(event) if row["speedup"] else Text("")] if compared else []
        cells += [Text(_rate(name, row[name])) for _, name in columns]
        previous = value
        table.add_row(*cells)
    heading = [Text(plain(others), style="bold")] if others else []
    return Padding(Group(*heading, *([table] if rows else [])), (1, 0, 0, 2))


def _latency(event: Event, row: Mapping[str, Any]) -> Text:
    if event["status"] not in MEASURED:
        return Text(str(event["status"]), style="dim" if event["status"] == "unsupported" else "bold red")
    value, _, interval = units.interval(row["latency_ms"], row["latency_low_ms"], row["latency_high_ms"]).partition(" [")
    text = Text.assemble((f"{value:>7}", "bold"), (f" [{interval}", "dim"))
    return text + Text(" noisy", style="yellow") if event["status"] == "noisy" else text


def _speedup(event: Event) -> Text:
    ratio, _, rest = units.speedup(event["speedup"]).partition(" ")
    interval, verdict = rest.rsplit(" ", 1)
    style = STYLES.get(verdict, "")
    return Text.assemble((f"{ratio:>7}", f"bold {style}"), (f" {interval} ", "dim"), (verdict, style))


def _rate(name: str, value: float | None) -> str:
    if not value:
        return ""
    return f"{value:.1f}" if name.startswith("pct") else units.digits(value)
