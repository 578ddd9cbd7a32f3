"""What a run that was killed left behind: its journal is brought home as far as it can be, then its cluster is ended."""

import contextlib
import hashlib
import io
import sys
import time
from pathlib import Path

from runner import journal
from runner.errors import JobError, RequestError
from runner.launch import bring, ledger, server, skypilot, task, teardown
from runner.launch.charge import charge
from runner.launch.ledger import Entry
from runner.launch.skypilot import Sky
from runner.rental import load


def end_all() -> None:
    """End what earlier runs of this program rented and, killed, could not end; say so on stderr. Raises nothing."""
    if not ledger.left_behind():
        return
    try:
        with server.connected() as sky:
            if sky is None:
                raise RequestError("SkyPilot was never used from this HOME; set HOME to the one that rented it")
            for entry in ledger.left_behind():
                print(f"ending {entry.cluster}, which a run that was killed left behind", file=sys.stderr, flush=True)
                ended = end(sky, entry, force=False)
                if ended is None:
                    continue  # another command is at it
                print(ended.line if ended.confirmed else f"ALARM: {ended.line}", file=sys.stderr, flush=True)
    except RequestError as error:  # this run has nothing to do with it
        print(
            f"ALARM: what a killed run left behind still runs: {error}; python -m runner.launch down", file=sys.stderr, flush=True
        )


def end(sky: Sky, entry: Entry, force: bool = True) -> teardown.Ended | None:
    """Bring home and end the cluster of an entry; forget the entry when its end is confirmed.

    One that somebody else holds is ended with `force` only; else it is theirs, and None is returned.
    """
    if entry.folder and entry.endpoint != skypilot.remote_endpoint():
        where = entry.endpoint or "the local server"
        how = f"sky api login -e {entry.endpoint}" if entry.endpoint else "sky api logout"
        return teardown.Ended(entry.cluster, False, f"it was rented through {where}; {how}, and call this again")
    held = ledger.take(entry.cluster)
    if held is None and not force:
        return None
    folder = Path(entry.folder) if entry.folder and Path(entry.folder).is_dir() else None
    runs = [(Path(here), there) for here, there in _runs(entry).items() if Path(here).is_dir()]
    for here, there in runs if held is not None else ():
        _bring_home(sky, entry, here, there)
    ended = teardown.end(sky, entry, folder)
    if folder is not None:
        _note(sky, entry, folder, ended)
    for here, _ in runs:
        _record(here)
    if held is not None:
        held.close() if ended.confirmed else held.release()
    return ended


def _runs(entry: Entry) -> dict[str, str]:
    """Return where the runs of an entry are here and there; of one that says nothing, its folder is the run's."""
    return entry.runs or ({entry.folder: task.OUT} if entry.folder else {})


def _bring_home(sky: Sky, entry: Entry, folder: Path, there: str) -> None:
    """Append what the node's journal has beyond ours; a node that can't be reached keeps it."""
    with contextlib.suppress(JobError, RequestError, OSError):
        if sky.cluster_state(entry.cluster) != "UP":
            return
        node = bring.Node(sky.ssh_options(entry.cluster), entry.cluster)
        home = bring.Journal(folder)
        try:
            digest = hashlib.sha256((folder / journal.NAME).read_bytes()[: home.size]).hexdigest()
            remote = f"{there}/{journal.NAME}"
            said = node.run(f"head -c {home.size} {remote} | sha256sum; tail -c +{home.size + 1} {remote}", 60.0) or ""
            same, _, more = said.partition("\n")
            if not same.startswith(digest):
                return  # another instance has gone on since
            for line in more.splitlines(keepends=True):
                if line.endswith("\n"):
                    home.append(line.encode())
        finally:
            home.close()


def _note(sky: Sky, entry: Entry, folder: Path, ended: teardown.Ended) -> None:
    """Write into the run's record how its cluster ended."""
    with contextlib.suppress(OSError, RequestError):
        record = load(folder)
        for attempt in record.attempts if record else []:
            if attempt.cluster == entry.cluster and not attempt.confirmed_down:
                attempt.outcome = attempt.outcome or "left behind"
                attempt.down_at, attempt.confirmed_down = time.time(), ended.confirmed
                with contextlib.suppress(JobError):
                    attempt.sky_cost_usd = sky.cost_usd(entry.cluster)
                charge(attempt)
        if record:
            record.save(folder)


def _record(folder: Path) -> None:
    """Tell MLflow how the run ended, where it was being recorded; what fails here `python -m runner.tracking` does later."""
    if not (folder / "mlflow.json").exists():
        return
    from runner.tracking.__main__ import record

    with contextlib.suppress(RequestError, OSError), contextlib.redirect_stdout(io.StringIO()):
        record(folder)
