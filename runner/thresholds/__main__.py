"""`python -m runner.thresholds show|apply`: say what a run's thresholds are, or write them into the consumer's own YAML."""

import argparse
import sys
from pathlib import Path

from runner.errors import EXIT_DONE, EXIT_REQUEST, RequestError, one_line


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 done, or nothing to do; 2 the request is wrong, and nothing was written."""
    options = _parser().parse_args(arguments)
    try:
        return show(options) if options.command == "show" else apply(options)
    except RequestError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_REQUEST


def show(options: argparse.Namespace) -> int:
    """Print the thresholds in words."""
    from runner.thresholds import document, words

    lines = list(words.of_document(document.read(options.run)))
    print("\n".join(lines or ["no thresholds"]))
    return EXIT_DONE


def apply(options: argparse.Namespace) -> int:
    """Show what would change, ask on a terminal, write.

    Raises RequestError when a value can't be chosen, found or written.
    """
    from runner.thresholds import apply as values
    from runner.thresholds import document

    scope = values.asked(options.scope or [])
    settings, left = values.select(document.read(options.run), scope, options.undecided)
    text = values.read(options.to)
    try:
        new = values.edited(text, settings, options.add, values.Consent(options.other_device, options.other_scope))
    except RequestError as error:
        raise RequestError(f"{options.to}: {error}") from error
    for line in (*values.difference(options.to, text, new), *(f"left alone, {one}" for one in left)):
        print(line)
    if new == text:
        print(f"{options.to}: nothing to change")
    elif options.dry_run or not (options.yes or _agreed(options.to)):
        print(f"{options.to}: nothing written")
    else:
        values.write(options.to, new)
        print(f"{options.to}: written")
    return EXIT_DONE


def _agreed(path: Path) -> bool:
    """Ask, where there is someone to answer."""
    if not sys.stdin.isatty():
        return True
    try:
        return input(f"write {path}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m runner.thresholds", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="show|apply")
    shown = commands.add_parser("show", help="print the thresholds in words")
    written = commands.add_parser("apply", help="write the values into a YAML, whose every other byte stays as it is")
    for command in (shown, written):
        command.add_argument("run", type=Path, metavar="RUN_OR_FILE", help="a run's folder, or a thresholds.yaml")
    add = written.add_argument
    add("--to", type=Path, required=True, metavar="FILE", help="the YAML to write to; its keys are found by name")
    add(
        "--scope", nargs="+", metavar="AXIS=VALUE", help="which of the values that differ by scope, as in dtype=bf16 head_dim=128"
    )
    add("--add", metavar="PATH", help="where keys that the file lacks are added, as in runtime")
    add("--undecided", action="store_true", help="write undecided keys too, as never")
    add("--other-device", action="store_true", help="overwrite values that are marked with another GPU")
    add("--other-scope", action="store_true", help="overwrite values that are marked with another scope")
    add("--dry-run", action="store_true", help="only show what would change")
    add("--yes", action="store_true", help="don't ask")
    parser.epilog = shown.format_usage() + written.format_usage()
    return parser


if __name__ == "__main__":
    sys.exit(main())
