"""Where things are: the program's own configs and sources, and the folder of a run."""

import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout, or the site-packages folder of an installation."""


def conf_dir() -> Path:
    """Return the folder of the program's own configs: `conf/` of the checkout, `runner/conf` of an installation."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else ROOT / "conf"


def run_folder(out: str, run_dir: str | None, workload: str, job_hash: str) -> Path:
    """Return the absolute folder of a run: `run_dir` if given, else a new name under `out` (nothing is created).

    The name holds the UTC time, the job's hash and four random hex digits, so that two runs of one second differ.
    """
    if run_dir is not None:
        return Path(os.path.abspath(run_dir))
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return Path(out).absolute() / workload / f"{now}-{job_hash[:8]}-{secrets.token_hex(2)}"


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and move it there: no reader ever sees half of it. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
