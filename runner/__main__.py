"""`python -m runner`."""

import os
import sys

from runner.cli import main

if __name__ == "__main__":  # a sweep's processes import this module again
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking mlflow apart would take a second, and everything is written
