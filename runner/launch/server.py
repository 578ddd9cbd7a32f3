"""SkyPilot's API server as this program uses it: started when needed, left as the user had it, shared with our other runs."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from runner.errors import JobError, RequestError
from runner.launch import ledger, skypilot
from runner.launch.skypilot import Sky

LOG = "skypilot.log"
MARK = "server-started"
ENDPOINT = "SKYPILOT_API_SERVER_ENDPOINT"


def is_set_up() -> bool:
    """Whether anybody ever used SkyPilot from this HOME, so that clouds can be enabled: asking it costs seconds and a server.

    The database is there once a local server ran, as in `sky check`; the configuration names a remote one (`sky api login`).
    """
    home = Path("~/.sky").expanduser()
    return bool(os.environ.get(ENDPOINT)) or (home / "state.db").exists() or (home / "config.yaml").exists()


@contextlib.contextmanager
def connected() -> Iterator[Sky | None]:
    """Yield a connection to SkyPilot, None where it was never set up.

    A local server that this program started is stopped again when the last of its runs is done and nothing it rented is left.
    Raises RequestError when SkyPilot is missing, too old or out of reach.
    """
    if not is_set_up():
        yield None
        return
    folder = ledger.folder()
    sky = Sky(folder / LOG)
    with open(folder / "server.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if sky.connect(folder):
            (folder / MARK).touch()
        try:
            yield sky
        finally:
            _leave_as_found(sky, folder, lock.fileno())


def _leave_as_found(sky: Sky, folder: Path, lock: int) -> None:
    if not (folder / MARK).exists():
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another run of ours uses it, and will stop it
    if any(ledger.entries()):
        return  # what could not be ended needs it
    with contextlib.suppress(JobError):
        sky.stop_server()
    (folder / MARK).unlink(missing_ok=True)


def check_guard(sky: Sky, credentials: str) -> None:
    """Check that no cloud credentials would be copied to the node, unless `launch.credentials=allow` says that they may.

    Raises RequestError with the ways on.
    """
    if credentials == "allow" or sky.is_guarded():
        return
    if skypilot.remote_endpoint():
        way = "its administrator can add runner.launch.guard.NoCredentials to its plugins (docs/clouds.md)"
    else:
        way = "stop it with sky api stop, and this program starts it with its guard"
    raise RequestError(
        f"the SkyPilot server in use would copy the cloud credentials in its HOME to the node; {way}; or accept it with "
        "launch.credentials=allow"
    )
