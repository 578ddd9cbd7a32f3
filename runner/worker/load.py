"""Finds a job's workload: an importable module, or a .py file beside the job file."""

import importlib
import importlib.util
import sys
from pathlib import Path

from runner import code
from runner.errors import RequestError, nearest
from runner.job import Job
from runner.worker.workload import Workload


def workload(job: Job, folder: Path) -> Workload:
    """Import the job's module and return its WORKLOAD; `folder` is where the job file lies.

    Raises RequestError when the module is missing or declares something else, lacks a variant of the job, or when the code
    here is not the code that the job was made with: one curve would come from two programs.
    """
    name = job.module
    here = code.digest(name, code.locate(name, [folder]))
    if here != job.code:
        raise RequestError(f"the code here is not that of the job ({job.code[:12]}); write the job anew, for a new folder")
    if job.mode == "projection":  # its module is the control plane's, and has nothing to run
        return Workload(inputs=lambda axes, context: (), variants={})
    try:
        if name.endswith(".py"):
            path = folder / Path(name).name
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.exists():
                raise RequestError(f"the workload {path} is missing; it belongs beside the job file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(name)
    except ImportError as error:
        raise RequestError(f"can't import the workload {name}: {error}; set workload.module or install what it needs") from error
    found = getattr(module, "WORKLOAD", None)
    if not isinstance(found, Workload):
        raise RequestError(f"{name} declares no WORKLOAD = Workload(...); see docs/adding-a-workload.md")
    for variant in job.variants:
        if variant not in found.variants:
            raise RequestError(f"the workload {job.workload} has no variant {variant}; {nearest(variant, found.variants)}")
    return found
