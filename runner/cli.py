"""The command line: Hydra does the work, this keeps its word on exit codes, one-line errors, a quick --help and completion."""

import contextlib
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import __version__
from runner.errors import EXIT_DONE, EXIT_INTERRUPTED, JobError, RequestError, one_line
from runner.masking import mask
from runner.paths import conf_dir

if TYPE_CHECKING:
    import argparse

    from omegaconf import DictConfig


@dataclass
class Outcome:
    """What the jobs of this process came to; `crash` is a bug of this program, to be shown as one."""

    codes: list[int] = field(default_factory=list)
    crash: Exception | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line (`argv` without the program's name) and return its exit code.

    A wrong request is one line on stderr and code 2, whatever raised it; HYDRA_FULL_ERROR=1 shows the traceback instead.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except (RequestError, JobError) as error:
        return _report(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def console() -> None:
    """Run as the console script `crossover`."""
    sys.exit(main())


def _report(error: RequestError | JobError) -> int:
    print(f"error: {mask(one_line(str(error)))}", file=sys.stderr)
    return error.exit_code


def _dispatch(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"crossover {__version__}")
        return EXIT_DONE
    if "--help" in arguments or "-h" in arguments:
        from runner.help import text

        print(text([conf_dir(), *_config_dir(arguments)]), end="")
        return EXIT_DONE
    args = _parse(arguments)
    if args.shell_completion:
        for command in ("install", "uninstall"):
            if f"{command}=bash" in args.overrides:
                from runner.completion import script

                print(script(command), end="")
                return EXIT_DONE
        _prepare_query(args)
    if any(one.startswith("sweep.resume=") for one in args.overrides):
        from runner.sweep.recall import overrides

        args.overrides, recalled = overrides(args.overrides)
        args.multirun = args.multirun or recalled
    return _run_hydra(args)


def _config_dir(arguments: Sequence[str]) -> list[Path]:
    """Return the folder given by --config-dir, found without a parser."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, joined = option.partition("=")
        if name in ("--config-dir", "-cd") and Path(joined or value).is_dir():
            return [Path(joined or value)]
    return []


def _parse(arguments: list[str]) -> "argparse.Namespace":
    """Parse with Hydra's own parser; options may stand before, between and after overrides. Raises RequestError."""
    from hydra._internal.utils import get_args_parser

    def fail(message: str) -> None:
        raise RequestError(f"{message}; python -m runner --help lists what there is")

    parser = get_args_parser()
    parser.error = fail  # type: ignore[method-assign, assignment]
    args = parser.parse_intermixed_args(arguments)
    if args.config_dir is not None and not os.path.isdir(args.config_dir):
        raise RequestError(f"--config-dir {args.config_dir}: no such folder")
    return args


def _prepare_query(args: "argparse.Namespace") -> None:
    """Let Hydra complete `python -m runner ...`, with the config folder of the line being typed."""
    from runner.completion import rewrite

    line, options = rewrite(os.environ.get("COMP_LINE", ""))
    os.environ["COMP_LINE"] = line
    if options and os.path.isdir(options[1]):
        args.config_dir = options[1]


def _argv(args: "argparse.Namespace") -> list[str]:
    """Return the arguments in the order that Hydra's parser takes: options, then overrides."""
    flags = {"run": "--run", "multirun": "--multirun", "shell_completion": "--shell-completion", "hydra_help": "--hydra-help"}
    values = ("cfg", "package", "config_path", "config_name", "config_dir", "experimental_rerun", "info")
    options = [flag for name, flag in flags.items() if getattr(args, name)]
    options += [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in values if getattr(args, name) is not None]
    # The config of the job is shown as it will be used. Hydra's own part has values that exist only while running.
    options += ["--resolve"] if args.resolve or args.cfg == "job" else []
    return [*options, "--", *args.overrides]


def _run_hydra(args: "argparse.Namespace") -> int:
    """Hand over to hydra.main and translate what it raises."""
    import hydra

    from runner.sweep.entry import Sweeps

    outcome = Outcome()

    def task(cfg: "DictConfig") -> None:
        _run_task(cfg, outcome)

    sweeps = task.sweeps = Sweeps(args.overrides, args.config_dir)  # type: ignore[attr-defined] # where our launcher finds it
    program = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its errors itself, in several lines, and exit with 1. With this it raises them.
    before = {"argv": sys.argv, "environ": {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "CROSSOVER_SWEEP_DIR")}}
    with tempfile.TemporaryDirectory(prefix="crossover-") as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"hydra\.")
        os.environ["HYDRA_FULL_ERROR"] = "1"
        os.environ["CROSSOVER_SWEEP_DIR"] = scratch  # Hydra saves its multirun.yaml before it checks the jobs
        sys.argv = [sys.argv[0], *_argv(args)]
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said) if args.cfg else contextlib.nullcontext():
                program()
        except SystemExit as stop:  # --cfg of a package that is not there
            if stop.code not in (None, 0):
                raise RequestError(said.getvalue() or "Hydra could not do this") from stop
        except KeyboardInterrupt:
            outcome.codes.append(EXIT_INTERRUPTED)
        except Exception as error:
            if wants_traceback:
                raise
            from runner.explain import explain

            raise RequestError(explain(error, args.overrides, args.config_dir)) from error
        finally:
            _restore(before)
    outcome.codes += filter(None, [sweeps.finish()])
    if crash := outcome.crash or sweeps.crash:
        raise crash
    return _worst(outcome.codes)


def _restore(before: dict[str, Any]) -> None:
    sys.argv = before["argv"]
    for name, value in before["environ"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _worst(codes: Sequence[int]) -> int:
    """Return the exit code of several jobs: interrupted, then a wrong request, then a failed job, then done."""
    return max(codes, default=EXIT_DONE)


def _run_task(cfg: "DictConfig", outcome: Outcome) -> None:
    """Run one job. Nothing is raised into Hydra, which would add its own lines; a multirun goes on after a failed job."""
    if outcome.crash or EXIT_INTERRUPTED in outcome.codes:
        return
    try:
        from hydra.core.hydra_config import HydraConfig

        from runner.compose import checked

        composed = checked(cfg, HydraConfig.get())
        from runner.app import run

        outcome.codes.append(run(composed.config, composed.overrides, composed.folders))
    except (RequestError, JobError) as error:
        outcome.codes.append(_report(error))
    except Exception as error:  # kept, and raised by main when Hydra is done
        outcome.crash = error
