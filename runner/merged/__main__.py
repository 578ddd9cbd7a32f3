"""`python -m runner.merged DIR... --out DIR`: thresholds, table, pictures and report of several runs or sweeps together."""

import argparse
import sys
from pathlib import Path

from runner.errors import EXIT_DONE, EXIT_FAILED, RequestError, one_line
from runner.merged import Merged, Price, merge, write
from runner.sweep.folder import is_sweep
from runner.thresholds import in_words


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 done, 1 some run is not complete, 2 a folder holds no run or can't be used."""
    parser = argparse.ArgumentParser(prog="python -m runner.merged", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="the folder of a run or of a sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write; a single sweep's files lie in its own folder")
    parser.add_argument("--no-plots", action="store_true", help="leave the pictures out")
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="GPU=USD",
        help="the price of an hour, as in 'NVIDIA H200=3.79'; marked as given",
    )
    options = parser.parse_args(arguments)
    try:
        prices = dict(map(price, options.price))
        if options.out is None and len(options.folders) == 1 and is_sweep(options.folders[0]):
            merged = write(options.folders[0], not options.no_plots, prices)
        elif options.out is None:
            raise RequestError("no folder to write to; name one with --out DIR")
        else:
            merged = merge(options.folders, options.out, not options.no_plots, prices)
    except RequestError as error:
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code
    return say(merged)


def say(merged: Merged) -> int:
    """Print what a merge found and where it is; return the exit code."""
    for union in merged.thresholds:
        for one in union.evidence:
            print(f"{union.device}: {in_words(one)}")
    done = sum(run.status == "complete" for run in merged.runs)
    print(f"{merged.folder / 'report.md'}: {done} of {len(merged.runs)} complete")
    return EXIT_DONE if merged.complete else EXIT_FAILED


def price(word: str) -> tuple[str, Price]:
    """Read `GPU=USD`. Raises RequestError."""
    name, _, number = word.rpartition("=")
    try:
        if not name or not float(number) > 0:
            raise ValueError
        return name, Price(float(number), "as given")
    except ValueError:
        raise RequestError(f"--price {word}: expected GPU=USD, as in --price 'NVIDIA H200=3.79'") from None


if __name__ == "__main__":
    sys.exit(main())
