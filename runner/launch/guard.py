"""A plugin of SkyPilot's API server: no credential file of anybody's is copied to a cluster of this program.

SkyPilot (0.14) copies the credential files of every cloud that it finds in the server's HOME to every node, and for RunPod,
Lambda, Prime Intellect and others no setting stops it. Its servers load plugins: this one is loaded by a local server that this
program starts, and by a shared one whose administrator lists it in ~/.sky/plugins.yaml (docs/clouds.md):

    plugins:
      - class: runner.launch.guard.NoCredentials

Clusters of other names get what they always got. Only SkyPilot's server imports this module.
"""

import contextvars
import functools
from typing import Any

from sky import check
from sky.backends import backend_utils
from sky.server.plugins import BasePlugin, ExtensionContext

from runner import __version__
from runner.launch.names import GUARD, PREFIX

_cluster: contextvars.ContextVar[str] = contextvars.ContextVar("cluster", default="")


class NoCredentials(BasePlugin):
    """Answers "no files" when SkyPilot asks which credential files a cluster of this program gets."""

    @property
    def name(self) -> str:
        """The name by which a client recognises it in /api/plugins."""
        return GUARD

    @property
    def version(self) -> str:
        """The version of this program."""
        return __version__

    def install(self, extension_context: ExtensionContext) -> None:
        """Wrap the two functions through which credentials reach a cluster's configuration; once per process."""
        if hasattr(check.get_cloud_credential_file_mounts, "__wrapped__"):
            return
        files, write = check.get_cloud_credential_file_mounts, backend_utils.write_cluster_config

        @functools.wraps(files)
        def no_files(*args: Any, **keys: Any) -> dict[str, str]:
            return {} if _cluster.get().startswith(PREFIX) else files(*args, **keys)

        @functools.wraps(write)
        def remembering(to_provision: Any, num_nodes: int, template: str, cluster_name: str, *args: Any, **keys: Any) -> Any:
            token = _cluster.set(cluster_name)
            try:
                return write(to_provision, num_nodes, template, cluster_name, *args, **keys)
            finally:
                _cluster.reset(token)

        check.get_cloud_credential_file_mounts = no_files
        backend_utils.write_cluster_config = remembering
