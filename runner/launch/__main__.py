"""`python -m runner.launch status|down`: what this program has rented and not seen end, and the way to end it."""

import argparse
import sys
import time

from runner import units
from runner.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JobError, RequestError, one_line
from runner.launch import ledger, left, names, server
from runner.launch.ledger import Entry
from runner.masking import mask


def main() -> int:
    """Parse the command line and return the exit code: 1 when a cluster's end could not be confirmed."""
    parser = argparse.ArgumentParser(prog="python -m runner.launch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="status|down")
    commands.add_parser("status", help="show the clusters that this program started and has not seen end")
    down = commands.add_parser("down", help="end them")
    down.add_argument(
        "names", nargs="*", metavar="CLUSTER", help="only these; without names all that were started from this machine"
    )
    arguments = parser.parse_args()
    try:
        return _status() if arguments.command == "status" else _down(arguments.names)
    except (RequestError, JobError) as error:
        print(f"error: {mask(one_line(str(error)))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _status() -> int:
    known = list(ledger.entries())
    with server.connected() as sky:
        if sky is None:
            print("nothing was rented from this machine, and SkyPilot was never used here")
            return EXIT_DONE
        others = [name for name in sky.clusters() if names.is_ours(name) and name not in {entry.cluster for entry, _ in known}]
        for entry, is_held in known:
            state = sky.cluster_state(entry.cluster, refresh=True) or "gone"
            run = "its run goes on" if is_held else "left behind; python -m runner.launch down ends it"
            print(f"{entry.cluster}  {state}  {_price(entry)}{run}  {entry.folder}")
        for name in others:
            print(f"{name}  {sky.cluster_state(name)}  started from another machine; python -m runner.launch down {name} ends it")
        if not known and not others:
            print("nothing of this program is running")
    return EXIT_DONE


def _down(wanted: list[str]) -> int:
    known = {entry.cluster: entry for entry, _ in ledger.entries()}
    for name in wanted:
        if name not in known and not names.is_ours(name):
            raise RequestError(f"{name} was not started by this program; end it with: sky down {name}")
    todo = [known.get(name) or Entry(name, "", 0.0) for name in wanted] if wanted else list(known.values())
    if not todo:
        print("nothing to end")
        return EXIT_DONE
    failed = False
    with server.connected() as sky:
        if sky is None:
            raise RequestError("SkyPilot was never used from this HOME; set HOME to the one that rented them")
        for entry in todo:
            print(f"ending {entry.cluster}", flush=True)
            ended = left.end(sky, entry)
            assert ended is not None
            failed = failed or not ended.confirmed
            print(ended.line if ended.confirmed else f"ALARM: {ended.line}", flush=True)
    return EXIT_FAILED if failed else EXIT_DONE


def _price(entry: Entry) -> str:
    if entry.usd_per_hour is None or not entry.requested_at:
        return ""
    since = time.time() - entry.requested_at
    return f"${entry.usd_per_hour:.2f}/h for {units.duration(since)}, some ${entry.usd_per_hour * since / 3600:.2f}  "


if __name__ == "__main__":
    sys.exit(main())
