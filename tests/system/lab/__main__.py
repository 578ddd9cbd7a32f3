"""Start, use and stop a lab by hand: `python -m tests.system.lab start|env|reset|stop DIR`."""

import argparse
import shlex
import sys
import time
from pathlib import Path

from tests.system.lab.lab import Lab
from tests.system.lab.needs import LabMissing


def main() -> int:
    """Do what the command line says; 2 where this machine can't have a lab."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.lab", description=__doc__)
    parser.add_argument("action", choices=["start", "env", "reset", "stop"])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    lab = Lab(options.folder)
    before = time.monotonic()
    try:
        if options.action == "env":
            print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in lab.environment().items()))
            return 0
        if options.action == "start" and lab.is_running:
            print(f"error: a lab runs in {lab.folder}; python -m tests.system.lab stop {options.folder}", file=sys.stderr)
            return 2
        {"start": lab.start, "reset": lab.reset, "stop": lab.stop}[options.action]()
    except LabMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.action}: {time.monotonic() - before:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
