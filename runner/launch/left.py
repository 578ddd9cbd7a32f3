"""What a run that was killed left behind: its journal is brought home as far as it can be, then its cluster is ended."""

import contextlib
import hashlib
import io
import time
from pathlib import Path

from runner import journal
from runner.errors import JobError, RequestError
from runner.launch import bring, ledger, skypilot, task, teardown
from runner.launch.charge import charge
from runner.launch.ledger import Entry
from runner.launch.skypilot import Sky
from runner.rental import load


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
    if held is not None and folder is not None:
        _bring_home(sky, entry, folder)
    ended = teardown.end(sky, entry, folder)
    if folder is not None:
        _note(sky, entry, folder, ended)
        _record(folder)
    if held is not None:
        held.close() if ended.confirmed else held.release()
    return ended


def _bring_home(sky: Sky, entry: Entry, folder: Path) -> None:
    """Append what the node's journal has beyond ours; a node that can't be reached keeps it."""
    with contextlib.suppress(JobError, RequestError, OSError):
        if sky.cluster_state(entry.cluster) != "UP":
            return
        node = bring.Node(sky.ssh_options(entry.cluster), entry.cluster)
        home = bring.Journal(folder)
        try:
            digest = hashlib.sha256((folder / journal.NAME).read_bytes()[: home.size]).hexdigest()
            remote = f"{task.OUT}/{journal.NAME}"
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
