"""Where a model's files are: in a folder of this machine, or a pinned revision on the Hugging Face hub. Code is never fetched."""

import functools
import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.worker.workload import Unsupported

PACKAGES = ("transformers", "accelerate")
"""accelerate is what transformers' BitNet quantiser asks for."""
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""No *.py, which would be the model's own code, and no *.bin, which are pickles."""


def imported(name: str) -> Any:
    """Import a package that only this workload needs."""
    return importlib.import_module(name)


def require(params: Mapping[str, Any]) -> None:
    """Raise Unsupported where the packages are missing, or no model is named."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unsupported(f"{' and '.join(missing)} not installed: pip install 'crossover-runner[bitnet]'")
    if not params["model"]:
        raise Unsupported("name a model with workload.params.model=DIR, or a hub name and workload.params.revision=COMMIT")


def folder(params: Mapping[str, Any]) -> Path:
    """Return the folder with the model's files; those of a hub name are downloaded unless they are here already.

    Raises Unsupported when they can't be had, or a hub name comes without the commit that says which files it means.
    """
    name, revision = str(params["model"]), str(params["revision"] or "")
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise Unsupported(f"workload.params.model={name}: no such folder here; name one, or a hub name as in owner/model")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise Unsupported(
            f"workload.params.revision={revision or 'null'}: a hub name needs the 40 digits of a commit, as a branch may move"
        )
    return _download(name, revision)


@functools.lru_cache
def _download(name: str, revision: str) -> Path:
    """Ask the hub which files there are, and get those that are not here; without a network, what is here."""
    try:
        found = imported("huggingface_hub").snapshot_download(name, revision=revision, allow_patterns=WANTED)
    except Exception as error:  # whatever goes wrong on the way to the hub, the model is not here
        raise Unsupported(f"can't get {name} ({error}); download it first: hf download {name} --revision {revision}") from error
    return Path(found)
