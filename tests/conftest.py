"""Every test has a HOME of its own: SkyPilot writes into it when it is imported, and clouds of a developer are none of ours."""

import atexit
import os
import shutil
import tempfile

if "CROSSOVER_SYSTEM" not in os.environ:
    home = tempfile.mkdtemp(prefix="crossover-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
    for name in ("XDG_STATE_HOME", "SKYPILOT_API_SERVER_ENDPOINT", "SKYPILOT_GLOBAL_CONFIG", "SKYPILOT_PROJECT_CONFIG"):
        os.environ.pop(name, None)
