"""`python -m runner.lineup DIR...`: one machine on one page, from the runs of a sweep or of any folders."""

import argparse
import sys
from pathlib import Path

from runner import lineup
from runner.errors import EXIT_DONE, RequestError, one_line
from runner.merged.__main__ import price
from runner.sweep.folder import is_sweep


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 done, 2 the folders hold no runs of one machine."""
    parser = argparse.ArgumentParser(prog="python -m runner.lineup", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="the folder of a run or of a sweep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write; a single sweep's page lies in its own folder")
    parser.add_argument(
        "--price", action="append", default=[], metavar="GPU=USD", help="the price of an hour, as in 'NVIDIA H200=3.79'"
    )
    parser.add_argument("--claims", action="store_true", help="only print the old claims with their verdicts, as Markdown")
    options = parser.parse_args(arguments)
    try:
        if options.claims:
            print(lineup.verdicts(options.folders))
            return EXIT_DONE
        out = options.out or (options.folders[0] if len(options.folders) == 1 and is_sweep(options.folders[0]) else None)
        if out is None:
            raise RequestError("no folder to write to; name one with --out DIR")
        print(lineup.write(options.folders, out, dict(map(price, options.price))))
    except RequestError as error:
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
