"""`python -m runner`."""

import os
import sys

from runner.cli import main

code = main()
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # taking mlflow apart would take a second, and everything is written
