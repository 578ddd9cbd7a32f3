"""The SkyPilot task of a job: sky/worker.yaml filled in, and the folder that travels to the node."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import journal, plan
from runner.errors import RequestError
from runner.job import Job
from runner.launch.offers import Offer
from runner.paths import PACKAGE, ROOT

OUT = "out"
"""Where the worker writes on the node, in the folder that travelled."""
CACHES = ("__pycache__", "*.pyc", "*.egg-info", ".git", ".venv")


def templates() -> Path:
    """Return the folder of the task's template and scripts: `sky/` of the checkout, `runner/sky` of an installation."""
    installed = PACKAGE / "sky"
    return installed if installed.is_dir() else ROOT / "sky"


def out(index: int, count: int) -> str:
    """Return where the worker writes the run of a job on the node; of one job alone that is OUT itself."""
    return OUT if count == 1 else f"{OUT}/{_name(index)}"


def files(count: int) -> list[str]:
    """Return the job files of a task with so many jobs, in the folder that travels."""
    return ["job.json"] if count == 1 else [f"jobs/{_name(index)}.json" for index in range(count)]


def stage(runs: Sequence[tuple[Job, Path]], include: Iterable[str], folder: Path) -> None:
    """Fill `folder` with what travels: the measuring code, the jobs, what is measured already, and what `include` names.

    `runs` are the jobs, each with its run folder here. Nothing else of the work tree travels: no outputs, no .git, no file that
    lies around with a key in it. Raises RequestError when a part is missing or the folder can't be written.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ignored = shutil.ignore_patterns(*CACHES, "conf", "sky")
        shutil.copytree(PACKAGE, folder / "runner", ignore=ignored)
        shutil.copytree(templates(), folder / "sky")
        modules: dict[str, str] = {}
        for index, ((job, run_folder), name) in enumerate(zip(runs, files(len(runs)), strict=True)):
            if not job.module.endswith(".py"):
                _package(job.module, folder, ignored)
            module = (folder / name).parent / job.module
            if module.is_file() and modules.setdefault(job.module, job.code) != job.code:
                raise RequestError(f"two workloads are called {job.module}; rename one, or run them in sweeps of their own")
            modules[job.module] = job.code
            plan.save(job, folder / name)
            # The worker goes on from there, so that a second instance measures what the first one did not.
            there = folder / out(index, len(runs))
            if len(runs) > 1 or (run_folder / journal.NAME).is_file():
                there.mkdir(parents=True)
            if (run_folder / journal.NAME).is_file():
                shutil.copyfile(run_folder / journal.NAME, there / journal.NAME)
        for name in include:
            _copy(Path(name).expanduser(), folder, ignored)
        # Its presence keeps SkyPilot from asking git, which knows nothing of this folder or ignores all of it.
        (folder / ".skyignore").write_text("")
    except OSError as error:
        raise RequestError(f"can't prepare what travels to the node in {folder}: {error.strerror or error}") from error


def check_include(include: Iterable[str]) -> None:
    """Raise RequestError for a name in `launch.include` that is not there."""
    for name in include:
        if not Path(name).expanduser().exists():
            raise RequestError(f"launch.include: {name} is not there; expected files or folders of this machine")


def _name(index: int) -> str:
    return f"{index:03d}"


def _package(module: str, folder: Path, ignored: Any) -> None:
    """Copy the top-level package (or module) that a workload's module belongs to."""
    from runner.code import locate

    found = locate(module, [])
    depth = module.count(".")
    top = found.parents[depth - 1] if depth else found
    if (folder / top.name).exists():
        return  # another job's is in the same package
    _copy(top, folder, ignored)


def _copy(path: Path, folder: Path, ignored: Any) -> None:
    if path.is_dir():
        shutil.copytree(path, folder / path.name, ignore=ignored, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, folder / path.name)


def render(
    offers: Sequence[Offer],
    images: Mapping[str, str | None],
    workdir: Path,
    *,
    disk_gb: int,
    idle_minutes: int | None,
    limit_s: float,
    setup_limit_s: float,
    python: str | None,
    setup: str | None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Return the task as plain data: the template with the offers in their order, the limits and the settings.

    `images` maps clouds to the image that they start from, None for SkyPilot's own; no `idle_minutes` is no autostop. Raises
    RequestError when the template is not there, or was changed into something else.
    """
    import yaml

    path = templates() / "worker.yaml"
    try:
        task: dict[str, Any] = yaml.safe_load(path.read_text())
        common: dict[str, Any] = dict(task.pop("resources"))
        common["disk_size"] = disk_gb
        if idle_minutes is None:
            del common["autostop"]
        else:
            common["autostop"] = {**common["autostop"], "idle_minutes": idle_minutes}
        settings = {"CROSSOVER_PYTHON": python or "", "CROSSOVER_SETUP": setup or "", "CROSSOVER_LIMIT_S": f"{limit_s:.0f}"}
        settings["CROSSOVER_SETUP_LIMIT_S"] = f"{setup_limit_s:.0f}"
        task["envs"] = {**task["envs"], "CROSSOVER_JOB": " ".join(files(jobs)), "CROSSOVER_OUT": OUT, **settings}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"can't use the task template {path}: {error}; restore it from the repository") from error
    choices = [_resources(offer, images.get(offer.cloud)) for offer in offers]
    # In this order, whatever SkyPilot's optimizer thinks: it knows hourly prices, not bills.
    resources = common | (choices[0] if len(choices) == 1 else {"ordered": choices})
    return task | {"workdir": str(workdir), "resources": resources}


def _resources(offer: Offer, image: str | None) -> dict[str, Any]:
    # A region in the catalog of a Slurm cluster is a partition, which no task may name without the cluster.
    region = None if offer.cloud == "slurm" else offer.region
    found: dict[str, Any] = {"infra": "/".join(filter(None, [offer.cloud, region]))}
    found["accelerators"] = {offer.accelerator: 1}
    if offer.instance_type:
        found["instance_type"] = offer.instance_type
    if offer.spot:
        found["use_spot"] = True
    if image:
        found["image_id"] = image
    return found


def save(task: Mapping[str, Any], folder: Path) -> None:
    """Write the task as `task.yaml` into the run's folder. Raises RequestError when it can't be written."""
    import yaml

    try:
        (folder / "task.yaml").write_text(yaml.safe_dump(dict(task), sort_keys=False))
    except OSError as error:
        raise RequestError(f"can't write to {folder}: {error.strerror}; name another folder with run_dir=DIR") from error


def remove(folder: Path) -> None:
    """Remove what was staged."""
    shutil.rmtree(folder, ignore_errors=True)
