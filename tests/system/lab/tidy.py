"""What `Lab.reset` asks of SkyPilot, in a process that runs in the lab's environment: stop working, end every cluster."""

import contextlib
import sys

import sky
from sky import exceptions
from sky.client import sdk


def main() -> None:
    """Cancel the requests, or end the clusters whose names follow."""
    if sys.argv[1:] == ["requests"]:
        sky.get(sdk.api_cancel(all_users=True, silent=True))
        return
    for request in [sky.down(name, purge=True) for name in sys.argv[2:]]:
        with contextlib.suppress(exceptions.ClusterDoesNotExist):
            sky.get(request)


if __name__ == "__main__":
    main()
