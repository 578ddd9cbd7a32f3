"""The names by which this program's clusters are told from all others."""

import getpass
import re
import secrets

PREFIX = "crossover-"
GUARD = "crossover-no-credentials"
"""The name of the plugin in runner.launch.guard, as SkyPilot's server lists it."""


def user() -> str:
    """Return the name of whoever runs this, as it can stand in a cluster's name: lower-case letters and digits."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = "somebody"
    return re.sub(r"[^a-z0-9]", "", name.lower())[:12] or "somebody"


def cluster(job_hash: str) -> str:
    """Return a new cluster name with the user and the job's hash: `crossover-ada-1a2b3c4d-e5f6`."""
    return f"{PREFIX}{user()}-{job_hash[:8]}-{secrets.token_hex(2)}"


def is_ours(name: str) -> bool:
    """Whether a cluster's name is one that `cluster` gives for this user."""
    return re.fullmatch(rf"{PREFIX}{user()}-[0-9a-f]{{8}}-[0-9a-f]{{4}}", name) is not None
