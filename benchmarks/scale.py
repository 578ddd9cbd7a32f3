"""Measures what ten thousand runs cost whoever merges, compares, resumes or records them: `python -m benchmarks.scale --help`.

Without --store two sweeps of N jobs are written and merged, compared and resumed; with --store N runs of 100 metric points each
are put into an MLflow store, which is then asked what `runner` and the UI ask. The runs are synthetic: one real, tiny run on
this CPU is repeated with other axes, hash, session and times. Job files and hashes are those that the planner makes. Every
figure is from a process of its own: wall time, CPU time and peak memory, as the kernel counts them (`wait4`).
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner import job as jobs
from runner import journal
from runner.journal import Event
from runner.masking import mask
from runner.spec import Case
from runner.sweep.folder import Sweep, SweepJob

# mlflow, numpy and the like are imported where they are used: a child begins with its parent's peak of memory.
ROOT = Path(__file__).parent.parent
LAYERS = ["llama3_8b_qkv", "llama3_8b_gate_up", "llama3_8b_down", "qwen2_5_7b_gate_up"]
TYPED = [
    "workload=matmul", "~workload.grids.full.square", "workload.grid=full", f"workload.layer=[{','.join(LAYERS)}]",
    "workload.variants=[fp32,bf16]", "measure=quick", "measure.target=0.2", "gpu=local", "tracking.enabled=false",
]  # fmt: skip
"""What is typed for every sweep here; `workload.m`, the rows of the activations, is its axis."""
POINTS = 100
SAMPLES, SPREAD = 12, 0.01
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
REPEATS = 3
LIMIT_S = 1800.0
SERVER_S = 90.0


def measured(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command in the repository; return its wall and CPU seconds, its peak memory, exit code and last words."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(arguments, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid or time.perf_counter() - start > LIMIT_S:
                break
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        if not pid:
            os.killpg(child.pid, signal.SIGKILL)
            _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read().decode(errors="replace").strip().splitlines()
    return {
        "seconds": round(seconds, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
        "exit_code": child.returncode,
        "load_before": round(load, 1),
        "said": [line[:200] for line in words[-3:]],
    }


def real(scratch: Path, like: Path | None) -> tuple[jobs.Job, list[Event], Path]:
    """Return the planner's job for m=1, the journal of a real run of it, and that run's folder."""
    folder, planned = like or scratch / "real", scratch / "job.json"
    base = [sys.executable, "-m", "runner", *TYPED, "workload.m=1", "display=quiet"]
    subprocess.run([*base, f"launch.write_job={planned}"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    if not (folder / journal.NAME).exists():
        subprocess.run([*base, f"run_dir={folder}"], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    return jobs.load(planned), steadied(journal.read(folder)), folder


def steadied(events: list[Event]) -> list[Event]:
    """Return the journal as a quiet machine would have written it: every measurement `ok`, 12 samples within some percent."""
    from runner import stats

    chance = random.Random(0)
    fp32: dict[str, list[float]] = {}
    for event in events:
        if event["event"] != "measurement":
            continue
        middle, case = event["statistics"]["median_ms"], journal.case_key(event["case"])
        samples = [middle * chance.lognormvariate(0, SPREAD) for _ in range(SAMPLES)]
        event |= {"status": "ok", "reason": None, "warnings": [], "samples_ms": samples}
        event["statistics"] = stats.summarize(samples).as_dict()
        fp32.setdefault(case, samples)
        if event["variant"] != "fp32" and (found := stats.speedup_interval(fp32[case], samples)):
            event["speedup"] = {
                "baseline": "fp32", "ratio": found.value, "ci_low": found.low, "ci_high": found.high,
                "verdict": stats.verdict(found, 0.01),
            }  # fmt: skip
        else:
            event["speedup"] = None
    return events


def asked(base: jobs.Job, m: int) -> jobs.Job:
    """Return the job that the planner makes for `workload.m=M`."""
    cases = [Case({"layer": layer, "m": m}, "m") for layer in LAYERS]
    overrides = [*TYPED[:4], f"workload.m={m}", *TYPED[4:]]
    return dataclasses.replace(base, cases=cases, provenance=base.provenance | {"overrides": overrides})


def told(like: list[Event], job: Mapping[str, Any], m: int, slower: float, chance: random.Random) -> list[Event]:
    """Return a journal for a job, from that of the real run: `slower` and chance change all its times by one factor."""
    factor = slower * chance.lognormvariate(0, 0.02)
    begin, session = EPOCH + timedelta(seconds=20 * m), f"{chance.getrandbits(128):032x}"
    events = []
    for number, one in enumerate(like):
        event = one | {"time": (begin + timedelta(seconds=number)).isoformat(timespec="milliseconds")}
        if "case" in event:
            event["case"] = event["case"] | {"m": m}
        if event["event"] == "job_started":
            event |= {"job": job, "hash": job["hash"], "session": session}
        elif event["event"] == "measurement":
            event["samples_ms"] = [value * factor for value in event["samples_ms"]]
            event["statistics"] = {
                name: value * factor if name.endswith("_ms") else value for name, value in event["statistics"].items()
            }
            event["work"] = event["work"] | {"ops": event["work"]["ops"] * m}
            middle, rates = event["statistics"]["median_ms"], event["rates"]
            tflops, bandwidth = event["work"]["ops"] / middle * 1e-9, event["work"]["bytes"] / middle * 1e-6
            event["rates"] = rates | {"tflops": tflops, "bandwidth_gbps": bandwidth}
        elif event["event"] == "job_finished":
            event |= {"status": "complete", "reason": None, "counts": {"ok": 2 * len(LAYERS)}}
        events.append(event)
    return events


def sweep(out: Path, name: str, count: int, base: jobs.Job, like: list[Event], slower: float = 1.0) -> Path:
    """Write a sweep of `count` complete jobs; every tenth one is slower by the factor. Return its folder."""
    folder = out / "sweeps" / name
    typed = [*TYPED[:4], f"workload.m=range(1,{count + 1})", *TYPED[4:], f"out={out}", f"sweep.name={name}"]
    found = Sweep(folder, name, EPOCH.isoformat(), " ".join(["python -m runner -m", *typed]), typed)
    chance = random.Random(name)
    for index in range(count):
        m = index + 1
        job = asked(base, m)
        data = job.as_dict()
        entry = SweepJob(
            index, [*job.provenance["overrides"], *typed[-2:]], data["hash"], f"{index:03d}-matmul-{data['hash'][:8]}",
            "matmul", "local", "local", [f"workload.m={m}"],
        )  # fmt: skip
        run = folder / entry.folder
        run.mkdir(parents=True)
        (run / "job.json").write_text(json.dumps(data, indent=1) + "\n")
        events = told(like, data, m, slower if index % 10 == 0 else 1.0, chance)
        (run / journal.NAME).write_text("".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events))
        found.jobs.append(entry)
    found.save()
    return folder


def folders(options: argparse.Namespace, scratch: Path, keep: Callable[[str, Any], None]) -> None:
    """Write the sweeps and measure what reads them."""
    base, like, _ = real(scratch, options.like)
    out = scratch / "out"
    start = time.perf_counter()
    first, second = sweep(out, "a", options.runs, base, like), sweep(out, "b", options.runs, base, like, slower=1.3)
    few = min(options.runs, options.resume)
    sweep(out, "c", few, base, like)
    keep("write the folders", {"seconds": round(time.perf_counter() - start, 1), "jobs": 2 * options.runs + few})
    python = [sys.executable]
    inside = [*python, "-c", "import sys; from pathlib import Path; from runner import merged; "]
    merge = "merged.write(Path(sys.argv[1]), plots=False)"
    keep("merged table", measured([*inside[:-1], inside[-1] + merge, str(first)]))
    keep("merged table and pictures: python -m runner.report SWEEP", measured([*python, "-m", "runner.report", str(first)]))
    comparing = measured([*python, "-m", "runner.compare", str(first), str(second), "--json", str(scratch / "compare.json")])
    keep("python -m runner.compare A B", comparing)
    states = (
        "import sys; from pathlib import Path; from runner.sweep import folder, state; sweep = folder.load(Path(sys.argv[1])); "
        "print(sum(state.status(sweep.path(job))[0] == 'complete' for job in sweep.jobs), 'complete')"
    )
    keep("the state of every job", measured([*python, "-c", states, str(first)]))
    for name, count in dict.fromkeys([("c", few), *([("a", options.runs)] if options.resume_all else [])]):
        resume = [*python, "-m", "runner", "-m", f"sweep.resume={name}", f"out={out}", f"sweep.max_jobs={count}", "display=plain"]
        keep(f"plan of sweep.resume, {count} jobs complete (launch.dry_run=true)", measured([*resume, "launch.dry_run=true"]))
        keep(f"sweep.resume, {count} jobs complete", measured(resume))


# What follows is one MLflow store: `fill` writes it, PARTS ask it. Both run in processes of their own.


def fill(uri: str, count: int, scratch: Path, like: Path | None) -> dict[str, Any]:
    """Put a parent run and `count` nested ones into a store through MLflow's own tables, in the shape that runs are recorded."""
    from mlflow.store.tracking.dbmodels import models
    from sqlalchemy import Table, create_engine, func, insert, select

    from runner.tracking.store import connect, place

    base, events, folder = real(scratch, like)
    where = place(uri, "matmul", (scratch / "mlartifacts").as_uri(), scratch)
    client, experiment = connect(where)
    parent = client.create_run(experiment, tags={"kind": "sweep", "sweep": "a"}, run_name="a").info.run_id
    note = (folder / "report.md").read_text().partition("\n## Results")[0] if (folder / "report.md").exists() else ""
    tables: dict[str, Table] = {
        name: getattr(models, name).__table__ for name in ("SqlRun", "SqlParam", "SqlTag", "SqlMetric", "SqlLatestMetric")
    }
    chance = random.Random("store")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in tables}
    start = time.perf_counter()
    engine = create_engine(uri)
    for index in range(count):
        data = asked(base, index + 1).as_dict()
        _run_rows(told(events, data, index + 1, 1.0, chance), index, int(experiment), parent, where.artifact_location, note, rows)
        if index % 200 == 199 or index == count - 1:
            with engine.begin() as connection:
                for name, table in tables.items():
                    if engine.dialect.name == "postgresql":
                        _copy(connection, table.name, rows[name])
                    else:
                        connection.execute(insert(table), rows[name])
                    rows[name].clear()
    taken = time.perf_counter() - start
    with engine.connect() as connection:
        counted = {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables.values()
        }
        size = (
            connection.exec_driver_sql("select pg_database_size(current_database())").scalar_one()
            if engine.dialect.name == "postgresql"
            else os.path.getsize(str(engine.url.database))
        )
    return {"seconds": round(taken, 1), "rows": counted, "database_mb": round(size / 1e6, 1), "parent": parent}


def _copy(connection: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Send rows to PostgreSQL as text, which costs it and this process a fraction of what INSERT does."""
    columns = list(rows[0])
    escapes = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
    lines = ("\t".join(str(row[column]).translate(escapes) for column in columns) + "\n" for row in rows)
    with connection.connection.cursor() as cursor:
        cursor.copy_expert(f"copy {table} ({', '.join(columns)}) from stdin", io.StringIO("".join(lines)))


def _run_rows(
    events: list[Event],
    index: int,
    experiment: int,
    parent: str,
    artifacts: str | None,
    note: str,
    rows: dict[str, list[dict[str, Any]]],
) -> None:
    """Add the rows of one recorded run; its measurements stand for as many x as it takes to have POINTS metric points."""
    from runner.tracking import content

    first = events[0]
    run_id = f"{index:032x}"
    steps = content.Steps.of(first["job"])
    begin, end = content.timestamp(first), content.timestamp(events[-1])
    rows["SqlRun"].append(
        {
            "run_uuid": run_id, "name": f"{first['device']['name']} {first['hash'][:8]}", "source_type": "UNKNOWN",
            "source_name": "", "entry_point_name": "", "user_id": "bench", "status": "FINISHED", "start_time": begin,
            "end_time": end, "source_version": "", "lifecycle_stage": "active",
            "artifact_uri": f"{artifacts}/{run_id}/artifacts", "experiment_id": experiment,
        }
    )  # fmt: skip
    given = {
        "sweep": "a", "sweep.index": index, "status": "complete", "reason": "",
        "measurements.ok": 2 * len(LAYERS), "mlflow.parentRunId": parent, "mlflow.runName": f"run {index}",
        "mlflow.user": "bench", "mlflow.source.name": "python -m runner", "mlflow.note.content": note,
    }  # fmt: skip
    tags = content.tags(first, steps, given)
    rows["SqlTag"] += [{"key": key, "value": value, "run_uuid": run_id} for key, value in tags.items()]
    params = content.params(first["job"])
    rows["SqlParam"] += [{"key": key, "value": value, "run_uuid": run_id} for key, value in params.items()]
    figures = [point for event in events for point in content.points(event, steps)]
    work = list(content.work(events))
    latest: dict[str, dict[str, Any]] = {}
    for place in range(POINTS):
        lap, which = divmod(place - len(work), len(figures))
        point, lap = (work[place], 0) if place < len(work) else (figures[which], lap)
        row = {
            "key": point.name, "value": point.value, "timestamp": point.timestamp, "step": point.step + lap, "is_nan": False,
            "run_uuid": run_id,
        }  # fmt: skip
        rows["SqlMetric"].append(row)
        latest[point.name] = row
    rows["SqlLatestMetric"] += latest.values()


def ask(uri: str, scratch: Path, like: Path | None) -> dict[str, Any]:
    """Ask a filled store all PARTS from one process; return the seconds of each call, and the peak memory until then."""
    from runner.tracking.store import connect, load, place

    start = time.perf_counter()
    mlflow = load()
    where = place(uri, "matmul", None, scratch)
    client, experiment = connect(where)
    found: dict[str, Any] = {
        "import mlflow and connect": {"each_s": [round(time.perf_counter() - start, 2)], "peak_mb": _own_mb()}
    }
    known = json.loads((scratch / "known.json").read_text())
    for name, prepare in PARTS.items():
        act = prepare(client, experiment, where, known, scratch, like)
        seconds, cpu, answer = [], [], None
        for _ in range(1 if name in ONCE else REPEATS):
            wall, used = time.perf_counter(), time.process_time()
            try:
                answer = act()
            except mlflow.MlflowException as error:  # the client waits 8 s for an answer, as `runner` has it
                answer = f"failed: {str(error)[:200]}"
            seconds.append(round(time.perf_counter() - wall, 3))
            cpu.append(round(time.process_time() - used, 3))
        found[name] = {"each_s": seconds, "each_cpu_s": cpu, "peak_mb": _own_mb(), "answer": answer}
        print(name, json.dumps(found[name]), flush=True)
    return found


def _own_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _open(session: str) -> Callable[..., Callable[[], Any]]:
    """Return what a recorder asks before anything else: whether there is a run of its session."""

    def prepare(client: Any, experiment: str, where: Any, known: Any, scratch: Path, like: Path | None) -> Callable[[], Any]:
        from runner.tracking.upload import Upload

        folder = scratch / "nothing"
        folder.mkdir(exist_ok=True)
        first = {"session": known.get(session, session)}
        return lambda: bool(Upload(folder, where)._find(client, experiment, first))

    return prepare


def _history(client: Any, experiment: str, where: Any, known: Any, scratch: Path, like: Path | None) -> Callable[[], Any]:
    from runner.launch.estimate import history

    job = jobs.load(scratch / "job.json").as_dict()
    return lambda: f"{history(where, job, {'local': None})['local'].runs} runs"


def _record(client: Any, experiment: str, where: Any, known: Any, scratch: Path, like: Path | None) -> Callable[[], Any]:
    from runner.tracking import Recorder

    base, events, folder = real(scratch, like)

    def act() -> str:
        run = Path(tempfile.mkdtemp(dir=scratch))
        shutil.copytree(folder, run, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlflow.json", ".mlflow.lock"))
        job = asked(base, 20_000).as_dict()
        fresh = told(events, job, 20_000, 1.0, random.Random(str(run)))
        (run / journal.NAME).write_text("".join(json.dumps(event) + "\n" for event in fresh))
        recorder = Recorder(run, where, {"sweep": "a"}, known["parent"])
        for event in fresh:
            recorder.event(event)
        recorder.finish("complete", "")
        if recorder.problem:
            raise SystemExit(recorder.problem)
        found = client.get_run(recorder.run_id).data
        shutil.rmtree(run)
        return f"{len(found.params)} params, {len(found.tags)} tags, {len(found.metrics)} metrics"

    return act


def _children(client: Any, experiment: str, where: Any, known: Any, scratch: Path, like: Path | None) -> Callable[[], Any]:
    from runner.compare import stored

    return lambda: f"{len(stored._children(client, known['parent']))} runs"


def _page(filter_string: str = "", order: str = "attributes.start_time DESC") -> Callable[..., Callable[[], Any]]:
    """Return what the UI asks when its table of runs is opened, or sorted."""

    def prepare(client: Any, experiment: str, where: Any, known: Any, scratch: Path, like: Path | None) -> Callable[[], Any]:
        return lambda: f"{len(client.search_runs([experiment], filter_string, max_results=100, order_by=[order]))} runs"

    return prepare


PARTS: dict[str, Callable[..., Callable[[], Any]]] = {
    "find a run by its session": _open("session"),
    "find that a session is new": _open("0" * 32),
    "estimate.history": _history,
    "record one more run": _record,
    "a page of 100 runs, latest first": _page(),
    "a page of 100 runs, sorted by a metric": _page(order=f"metrics.`latency_ms/bf16/layer:{LAYERS[0]}` ASC"),
    "a page of 100 runs, complete ones": _page("tags.status = 'complete' and params.workload = 'matmul'"),
    "the children of a parent": _children,
}
ONCE = {"the children of a parent"}


def store(options: argparse.Namespace, scratch: Path, keep: Callable[[str, Any], None], had: Mapping[str, Any]) -> None:
    """Fill a store and ask it: as `tracking.uri` itself, and behind an MLflow server; not again what there is of it."""
    again = ["--runs", str(options.runs), "--scratch", str(scratch), *(["--like", str(options.like)] if options.like else [])]
    base = [sys.executable, "-m", "benchmarks.scale", *again]
    answer = scratch / "answer.json"

    def part(name: str, uri: str) -> dict[str, Any]:
        answer.unlink(missing_ok=True)
        found = measured([*base, "--store", uri, "--part", name, "--out", str(answer)])
        return found | (json.loads(answer.read_text()) if answer.exists() else {})

    if not (scratch / "known.json").exists():
        filled = part("fill", options.store)
        keep("fill", filled)
        if filled["exit_code"]:
            raise SystemExit("\n".join(filled["said"]))
        known = {"parent": filled["parent"], "session": _session(options.store)}
        (scratch / "known.json").write_text(json.dumps(known))
    if "directly" not in had:
        keep("directly", part("ask", options.store))
    if "through a server" not in had:
        with _server(options.store, scratch) as (url, peak):
            keep("through a server", part("ask", url))
            keep("server: peak memory of its processes together", {"peak_mb": peak()})


def _session(uri: str) -> str:
    """Return the session of the run in the middle of the store, asked in a process of its own."""
    code = (
        "import sys; from sqlalchemy import create_engine as e, text; c = e(sys.argv[1]).connect(); "
        "print(c.execute(text(\"select value from tags where key = 'session' order by run_uuid\")).scalars().all())"
    )
    said = subprocess.run([sys.executable, "-c", code, uri], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"[0-9a-f]{32}", said)
    return str(found[len(found) // 2])


@contextlib.contextmanager
def _server(uri: str, scratch: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Run an MLflow server on a store; yield its address, and what says its peak memory in MB."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--artifacts-destination", str(scratch / "served"),
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # four more processes, for evaluations
    with open(scratch / "server.log", "wb") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=env)
    try:
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
                break
            except OSError:
                if time.monotonic() > until or child.poll() is not None:
                    raise SystemExit(f"no MLflow server: {scratch / 'server.log'}") from None
                time.sleep(0.3)
        yield url, lambda: _peak_mb(child.pid)
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # it finishes what nobody waits for any more


def _peak_mb(group: int) -> float:
    """Return the peak memory of the processes of a session, each at its own peak, added up."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int((path / "stat").read_text().rpartition(")")[2].split()[3]) == group:
                total += int(re.findall(r"VmHWM:\s+(\d+)", (path / "status").read_text())[0])
    return round(total / 1024, 1)


def _versions(uri: str | None) -> dict[str, str]:
    from importlib.metadata import version

    found = {"python": sys.version.split()[0], "mlflow": version("mlflow"), "sqlalchemy": version("sqlalchemy")}
    if uri and not uri.startswith("sqlite"):
        code = (
            "import sys; from sqlalchemy import create_engine as e, text; c = e(sys.argv[1]).connect(); "
            "print(c.execute(text('select version()')).scalar())"
        )
        said = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, text=True, check=True).stdout
        found["database"] = said.partition(" on ")[0].strip()
    return found


def main() -> None:
    """Measure, and write each figure down as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="runs in a sweep, or in the store (default 10000)")
    parser.add_argument("--resume", type=int, default=1000, metavar="N", help="jobs of the sweep that is resumed (default 1000)")
    parser.add_argument("--resume-all", action="store_true", help="resume the large sweep as well")
    parser.add_argument(
        "--store", metavar="URI", help="fill this empty MLflow store and ask it, sqlite:///... or postgresql://..."
    )
    parser.add_argument("--like", type=Path, metavar="DIR", help="the real run to repeat; without it one is measured")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="keep what is written, in this empty folder")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the figures there too")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = (options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        if options.part:
            if options.part == "fill":
                answer = fill(options.store, options.runs, scratch, options.like)
            else:
                answer = ask(options.store, scratch, options.like)
            options.out.write_text(json.dumps(answer))
            return
        command = shlex.join(["python", "-m", "benchmarks.scale", *(mask(one) for one in sys.argv[1:])])
        figures: dict[str, Any] = {}
        if options.store and options.out and options.out.exists() and (scratch / "known.json").exists():
            before = json.loads(options.out.read_text())["figures"]
            figures = {name: one for name, one in before.items() if not one.get("exit_code")}
        document = {
            "command": command,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {
                "cores": os.cpu_count(),
                "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            },
            "versions": _versions(options.store),
            "runs": options.runs,
            "synthetic": f"one real run repeated with other axes, hash, session and times; in a store {POINTS} points a run",
            "figures": figures,
        }

        def keep(what: str, found: Mapping[str, Any]) -> None:
            figures[what] = dict(found)
            shown = {name: value for name, value in found.items() if name not in ("said", "parent", "rows", "load_before")}
            print(what, json.dumps(shown), flush=True)
            if found.get("exit_code") not in (None, 0):
                print(*found["said"], sep="\n", flush=True)
            document["own_peak_mb"] = _own_mb()
            if options.out:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(document, indent=1) + "\n")

        if options.store:
            store(options, scratch, keep, dict(figures))
        else:
            folders(options, scratch, keep)


if __name__ == "__main__":
    main()
