"""Compare two runs, sweeps or tables case by case: what became slower, by how much, with what confidence.

A is the old one, B the new one. Each is the folder of a run, its journal.jsonl, a sweep's folder or name, an MLflow run id (of a
sweep: all its jobs), or a table that was published (reported:NAME, or its YAML); or several runs with commas or as a quoted
pattern, whose medians then tell how much runs scatter. docs/compare.md says how to read what comes out.

exit codes: 0 no regression; 1 a regression: a case is slower by more than the tolerance with confidence, or has no figure in B
any more; 2 the request is wrong
"""

import argparse
import sys
from pathlib import Path

from runner.errors import RequestError, one_line


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 no regression, 1 at least one, 2 the request is wrong."""
    options = _parser().parse_args(arguments)
    from runner.compare import files, text
    from runner.compare.comparison import Asked, compare

    asked = Asked(
        old=options.a,
        new=options.b,
        out=options.out,
        uri=options.uri,
        metric=options.metric,
        tolerance=options.tolerance,
        confidence=options.confidence,
        across_devices=options.across_devices,
    )
    try:
        found = compare(asked)
        for path, content in (
            (options.json, files.as_json),
            (options.csv, files.as_csv),
            (options.markdown, files.as_markdown_page),
        ):
            if path:
                files.write(path, content(found))
    except RequestError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    terminal = sys.stdout if sys.stdout.isatty() else None
    try:
        print("\n".join(text.lines(found, terminal, options.all)), flush=True)
    except BrokenPipeError:  # | head
        sys.stderr.close()
    return found.exit_code


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m runner.compare", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("a", metavar="A", help="the old side")
    add("b", metavar="B", help="the new side")
    add("--tolerance", type=float, default=0.05, metavar="F", help="how much slower is no regression, a fraction (default 0.05)")
    add("--confidence", type=float, default=0.95, metavar="F", help="of all intervals together (default 0.95)")
    add("--across-devices", action="store_true", help="call it a regression also between different physical GPUs")
    add(
        "--metric",
        metavar="NAME",
        help="latency_ms (default), latency_warm_ms, latency_wall_ms, throughput_tflops, bandwidth_gbps, energy_mj or "
        "peak_memory_mb; of published tables all of these that they have",
    )
    add("--all", action="store_true", help="show every pair, and list the cases that only one side has")
    add("--json", type=Path, metavar="FILE", help="write everything as JSON")
    add("--csv", type=Path, metavar="FILE", help="write a row per pair")
    add("--markdown", type=Path, metavar="FILE", help="write a comment for a pull request")
    add(
        "--out",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="where sweeps and the local MLflow store are (default outputs)",
    )
    add("--uri", help="the MLflow tracking URI of run ids; without it MLFLOW_TRACKING_URI's, else the local store")
    return parser


if __name__ == "__main__":
    sys.exit(main())
