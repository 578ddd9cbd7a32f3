"""The measuring code of a job: where a workload's module is, a digest of it, and the state of the checkout.

Nothing is imported to find out: workloads import torch, which the control plane never does.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from runner.errors import RequestError, nearest
from runner.paths import PACKAGE, ROOT

SHARED = ("journal.py", "job.py", "spec.py", "stats.py")


def locate(module: str, folders: Sequence[Path]) -> Path:
    """Return the file (or a package's folder) of a workload's `module`.

    A dotted name is looked up in the checkout and on `sys.path`; a `.py` file in the config `folders`, beside their
    `workload/`, or as a path of its own.

    Raises RequestError when it is not there.
    """
    if module.endswith(".py"):
        places = [folder / part for folder in folders for part in ("", "workload", "workloads")]
        found = next((path for path in (place / module for place in places) if os.path.isfile(path)), None)
        if found is None:
            where = ", ".join(str(folder) for folder in folders)
            raise RequestError(
                f"workload.module={module}: no such file in {where}; name the folder that has it with --config-dir DIR"
            )
        return found.resolve()
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise RequestError(f"workload.module={module}: expected a module's dotted name or a .py file")
    for root in dict.fromkeys([ROOT, *(Path(entry or ".") for entry in sys.path)]):
        path = root.joinpath(*parts)
        if os.path.isfile(f"{path}.py"):  # os.path takes names that no file can have; Path would raise
            return Path(f"{path}.py").resolve()
        if os.path.isfile(path / "__init__.py"):
            return path.resolve()
    known = [f"workloads.{path.stem}" for path in (ROOT / "workloads").glob("[!_]*") if path.suffix in ("", ".py")]
    raise RequestError(f"workload.module={module}: no such module; {nearest(module, known)}")


def digest(module: str, path: Path) -> str:
    """Return the SHA-256 of the sources that a measurement depends on: the engine's and the workload's, located at `path`.

    A module inside a package of its own, such as `workloads.nsa.decode`, stands for the whole package.
    """
    parts = module.split(".")
    dotted = not module.endswith(".py")
    if dotted and path.is_file() and len(parts) > 2:
        path = path.parents[len(parts) - 3]
    engine = [*sorted((PACKAGE / "worker").rglob("*.py")), *(PACKAGE / name for name in SHARED)]
    own = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for name, file in [
        *((str(file.relative_to(PACKAGE)), file) for file in engine),
        *((f"workload/{file.relative_to(path if path.is_dir() else path.parent)}", file) for file in own),
    ]:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise RequestError(f"can't read {file}: {error.strerror}") from error
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def git_state(folder: Path = ROOT) -> dict[str, str | bool | None]:
    """Return the checkout's commit and whether it was changed since; both None outside a checkout or without git."""
    if not (folder / ".git").exists():
        return {"sha": None, "dirty": None}
    sha = _git(folder, ["rev-parse", "HEAD"])
    changes = _git(folder, ["status", "--porcelain"])
    return {"sha": sha, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, arguments: Iterable[str]) -> str | None:
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def lock_digest(folder: Path = ROOT) -> str | None:
    """Return the SHA-256 of the requirements lock, None when there is none."""
    locks = sorted((folder / "requirements").glob("*.lock")) or sorted((folder / "requirements").glob("*.txt"))
    return hashlib.sha256(locks[0].read_bytes()).hexdigest() if locks else None
