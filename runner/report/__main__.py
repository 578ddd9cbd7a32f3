"""`python -m runner.report DIR`: derive thresholds, decisions, CSV, plots and the report of a run again, or merge a sweep's."""

import argparse
import sys
from pathlib import Path

from runner.decisions import in_words as decision_in_words
from runner.errors import EXIT_DONE, EXIT_FAILED, RequestError, one_line
from runner.report.files import write
from runner.sweep.folder import is_sweep
from runner.thresholds import in_words


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 done, 1 the run itself, or one of a sweep's, is not complete, 2 nothing there that can be used."""
    parser = argparse.ArgumentParser(prog="python -m runner.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run (it holds journal.jsonl) or of a sweep")
    folder = parser.parse_args(arguments).folder
    if is_sweep(folder):
        from runner.merged.__main__ import main as merge  # what a run's report doesn't need

        return merge([str(folder)])
    try:
        derived = write(folder)
    except RequestError as error:
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code
    for line in [*map(in_words, derived.thresholds), *map(decision_in_words, derived.decisions)]:
        print(line)
    print(f"{folder / 'report.md'}: {derived.results.status}" + (f", {derived.results.reason}" if derived.results.reason else ""))
    return EXIT_DONE if derived.results.status == "complete" else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
