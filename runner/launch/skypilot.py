"""Everything this program asks of SkyPilot, in plain data: the one module that imports it.

How it is asked, quietly and for a limited time, is in runner.launch.asking. What can go wrong is one of three: a wrong request
(RequestError), no capacity (NoCapacity), a fault (JobError).
"""

import contextlib
import importlib.metadata
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import JobError, RequestError, one_line
from runner.launch.asking import ANSWER_S, Asker, NoCapacity, Unreachable
from runner.launch.names import GUARD
from runner.launch.offers import Offer
from runner.masking import mask

T = TypeVar("T")

OLDEST, NEXT = (0, 14, 1), (0, 15)
"""The versions that this was written for: OLDEST <= version < NEXT, as in pyproject.toml."""
INSTALL = 'pip install "skypilot[runpod]>=0.14.1,<0.15", with the clouds that you use in the brackets'
GUARD_CLASS = "runner.launch.guard.NoCredentials"
PLUGINS = "SKYPILOT_SERVER_PLUGINS_CONFIG"
WORKING = ("PENDING", "WAITING", "RUNNING")


@dataclass(frozen=True)
class Launched:
    """What a launch came to: the job's number and the instance, None where SkyPilot doesn't say."""

    job_id: int | None
    cloud: str
    region: str | None
    instance_type: str | None
    accelerator: str
    spot: bool
    usd_per_hour: float | None


def version() -> str:
    """Return the version of SkyPilot, found without importing it (the folder sky/ of a checkout imports as an empty package).

    Raises RequestError when it is not installed or not one of the versions this was written for.
    """
    try:
        found = importlib.metadata.version("skypilot")
    except importlib.metadata.PackageNotFoundError:
        raise RequestError(f"renting needs SkyPilot, which is not installed: {INSTALL}; or use gpu=local") from None
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < OLDEST or numbers[:2] >= NEXT:
        raise RequestError(f"SkyPilot {found} is installed; this needs 0.14.1 or later, before 0.15: {INSTALL}")
    return found


class Sky:
    """A connection to SkyPilot's API server, the user's own or a remote one (`sky api login`)."""

    def __init__(self, log: Path) -> None:
        """Import SkyPilot; what it prints goes to `log`. Raises RequestError when it can't be used."""
        version()
        self._asker = Asker(log)
        self._launching: set[str] = set()
        os.environ.setdefault("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")  # nothing is sent to anybody who was not named
        with self._asker.quietly():
            import sky
            from sky import exceptions
            from sky.client import sdk
        self._sky, self._exceptions = sky, exceptions
        self._sdk: Any = sdk

    def connect(self, folder: Path) -> bool:
        """Reach the API server; a local one is started when none runs, with its settings in `folder`. Return whether it was.

        Raises RequestError when a remote server can't be reached, or wants a login.
        """
        try:
            return self._ask(lambda: self._start_server(folder))
        except JobError as error:
            raise RequestError(f"{error}; look at it with: sky api info") from error

    def _start_server(self, folder: Path) -> bool:
        from sky.server import common

        if not common.is_api_server_local():
            common.check_server_healthy_or_start_fn()
            return False
        # For the life of this process: SkyPilot's client starts a local server again that has died, without a word.
        os.environ[PLUGINS] = str(_plugins_file(folder))
        if self._runs():
            return False
        self._sdk.api_start()
        return True

    def is_guarded(self) -> bool:
        """Whether the server keeps the credentials in its HOME from this program's clusters (runner.launch.guard)."""
        from sky.server import common

        answer = self._ask(lambda: common.make_authenticated_request("GET", "/api/plugins").json())
        return any(one.get("name") == GUARD for one in answer.get("plugins", []))

    def stop_server(self) -> None:
        """Stop the local API server; raises JobError when it doesn't stop."""
        self._ask(self._sdk.api_stop)

    def enabled(self) -> list[str]:
        """Return the clouds that the user has set up, in lower case."""
        found = self._get(self._sdk.enabled_clouds)
        return sorted(str(one).lower() for one in found)

    def offers(self, gpu: str, names: Mapping[str, str]) -> list[Offer]:
        """Return what the catalog has of one GPU (a choice of `gpu/`), one per instance, spot ones too.

        `names` maps clouds to SkyPilot's name of the GPU there.
        """
        found = []
        for name in dict.fromkeys(names.values()):
            clouds = [cloud for cloud, own in names.items() if own == name]
            listed = self._get(
                self._sdk.list_accelerators,
                name_filter=f"^{name}$", quantity_filter=1, clouds=clouds, all_regions=True, require_price=False,
            )  # fmt: skip
            for rows in listed.values():
                for row in rows:
                    found += _offers(row, gpu)
        return found

    def launch(self, task: Mapping[str, Any], cluster: str) -> str:
        """Ask for a cluster that runs the task; return the request's id at once, while SkyPilot goes on.

        Ctrl-C is answered when it is known what became of the request: one that arrives later would rent behind our back.
        Raises RequestError when SkyPilot refuses the task.
        """
        self._launching.add(cluster)  # until it is known what became of it, an upload that outlives our patience included

        def ask() -> str:
            try:
                return str(self._sdk.launch(self._sky.Task.from_yaml_config(dict(task)), cluster_name=cluster))
            finally:
                self._launching.discard(cluster)

        try:
            return self._ask(ask, 300.0, to_the_end=True)  # the code is uploaded to a remote server first
        except (Unreachable, NoCapacity):
            raise
        except JobError as error:
            raise RequestError(f"SkyPilot refuses the task: {error}") from error

    def is_running(self, request: str) -> bool:
        """Whether a request is still being worked on."""
        found = self._requests(request_ids=[request])
        return any(str(one.status) in WORKING for one in found)

    def launched(self, request: str) -> Launched:
        """Return what a finished launch came to.

        Raises NoCapacity when nothing could be had, JobError when it failed otherwise.
        """
        job_id, handle = self._get(lambda: request)
        if handle is None:
            raise JobError("SkyPilot says it launched, and names no cluster")
        resources = handle.launched_resources
        accelerators = resources.accelerators or {}
        with contextlib.suppress(Exception):  # a cloud that knows no price
            price = float(resources.get_cost(3600))
            return _launched(job_id, resources, accelerators, price)
        return _launched(job_id, resources, accelerators, None)

    def requests(self, cluster: str) -> list[str]:
        """Return the requests for a cluster that are still being worked on, whoever made them."""
        if cluster in self._launching:
            raise Unreachable("the launch itself has not been answered yet")
        found = self._requests(cluster_name=cluster)
        return [str(one.request_id) for one in found if str(one.status) in WORKING and one.cluster_name == cluster]

    def _requests(self, **which: Any) -> list[Any]:
        """Ask for requests. Raises Unreachable when no local server runs, which SkyPilot's client takes for "none"."""
        from sky.server import common

        def ask() -> list[Any]:
            if common.is_api_server_local() and not self._runs():
                raise ConnectionError("the local API server has ended")
            return list(self._sdk.api_status(fields=["request_id", "status", "cluster_name"], **which))

        return self._ask(ask)

    def _runs(self) -> bool:
        from sky.server import common

        return bool(common.get_api_server_status(common.get_server_url()).status == common.ApiServerStatus.HEALTHY)

    def cancel(self, request: str) -> None:
        """Abort a request that is being worked on."""
        self._get(self._sdk.api_cancel, [request], silent=True)

    def said(self, request: str) -> str:
        """Return what SkyPilot wrote while it worked on a request."""
        text = io.StringIO()
        with contextlib.suppress(JobError):  # a failed request raises its error again, after its text
            self._ask(lambda: self._sdk.stream_and_get(request, follow=False, output_stream=text), 30.0)
        return text.getvalue()

    def cluster_state(self, cluster: str, refresh: bool = False) -> str | None:
        """Return `INIT`, `UP` or `STOPPED`, None when there is no such cluster; `refresh` asks the cloud itself."""
        from sky.utils.common import StatusRefreshMode

        mode = StatusRefreshMode.FORCE if refresh else StatusRefreshMode.NONE
        found = self._get(self._sdk.status, [cluster], refresh=mode)
        return str(found[0]["status"].value) if found else None

    def clusters(self) -> list[str]:
        """Return the names of this user's clusters."""
        return [str(one["name"]) for one in self._get(self._sdk.status)]

    def job_state(self, cluster: str, job_id: int) -> str | None:
        """Return SkyPilot's status of the job (`SETTING_UP`, `RUNNING`, `FAILED_SETUP`, ...), None when it knows none."""
        found = self._get(self._sdk.job_status, cluster, [job_id])
        state = found.get(job_id, found.get(str(job_id)))
        return None if state is None else str(state.value)

    def down(self, cluster: str) -> None:
        """End a cluster; one that is not there is fine. Raises JobError when SkyPilot can't."""
        try:
            self._get(self._sdk.down, cluster, limit_s=300.0)
        except JobError as error:
            if not isinstance(error.__cause__, self._exceptions.ClusterDoesNotExist):
                raise

    def cost_usd(self, cluster: str) -> float | None:
        """Return what SkyPilot's own cost report says of a cluster, None when it says nothing."""
        rows = [row for row in self._get(self._sdk.cost_report, days=1) if row.get("name") == cluster]
        costs = [float(row["total_cost"]) for row in rows if row.get("total_cost") is not None]
        return sum(costs) if costs else None

    def ssh_options(self, cluster: str) -> list[str]:
        """Write what ssh needs to reach a cluster that is up, through the server where need be; return ssh's options for it."""
        # What `sky status CLUSTER` does before it prints. The SDK has no name for it; tests/test_skypilot.py watches it.
        from sky.client.cli import command
        from sky.utils.cluster_utils import SSHConfigHelper

        self._ask(lambda: command._get_cluster_records_and_set_ssh_config([cluster]))
        config = Path(SSHConfigHelper.ssh_cluster_path.format(cluster)).expanduser()
        key = Path(SSHConfigHelper.ssh_cluster_key_path.format(cluster)).expanduser()
        if not config.is_file():
            raise JobError(f"SkyPilot has no ssh configuration for {cluster}")
        # The file has the key too, with a ~ that ssh takes for the home in the password file, whatever HOME says.
        return ["-F", str(config), *(["-i", str(key)] if key.is_file() else [])]

    def _get(self, call: Callable[..., Any], *args: Any, limit_s: float = ANSWER_S, **keys: Any) -> Any:
        """Make a request and wait for its result."""
        return self._ask(lambda: self._sdk.get(call(*args, **keys)), limit_s)

    def _ask(self, question: Callable[[], T], limit_s: float = ANSWER_S, to_the_end: bool = False) -> T:
        """Return the answer; raises NoCapacity, Unreachable or JobError with one line, whatever SkyPilot raises."""
        return self._asker.ask(question, self._exceptions, limit_s, to_the_end)


def _plugins_file(folder: Path) -> Path:
    """Write the configuration of a local server's plugins: the user's own and the guard of credentials; return the file."""
    import yaml

    own = Path(os.environ.get(PLUGINS) or "~/.sky/plugins.yaml").expanduser()
    data: dict[str, Any] = {}
    if own.is_file():
        try:
            data = yaml.safe_load(own.read_text()) or {}
        except (OSError, yaml.YAMLError) as error:
            raise RequestError(f"can't read the plugins of SkyPilot's server, {own}: {one_line(str(error))}") from error
    others = [one for one in data.get("plugins") or [] if one.get("class") != GUARD_CLASS]
    file = folder / "sky-plugins.yaml"
    file.write_text(yaml.safe_dump(data | {"plugins": [*others, {"class": GUARD_CLASS}]}))
    return file


def _offers(row: Any, gpu: str) -> list[Offer]:
    """Return an on-demand and a spot offer of a row of SkyPilot's catalog; prices that are NaN are none."""
    cloud = row.cloud.lower()
    # Own hardware has no spot instances, and its instance types are made up: naming one would only be in the way.
    own = cloud in ("slurm", "kubernetes")
    kind = None if own or "(" in (row.instance_type or "(") else row.instance_type
    prices = [(row.price, False)] if own else [(row.price, False), (row.spot_price, True)]
    return [
        Offer(cloud, gpu, row.accelerator_name, float(price), spot, kind, row.region)
        for price, spot in prices
        if price is not None and price == price
    ]


def _launched(job_id: int | None, resources: Any, accelerators: Mapping[str, Any], price: float | None) -> Launched:
    return Launched(
        job_id=job_id,
        cloud=str(resources.cloud).lower(),
        region=resources.region,
        instance_type=resources.instance_type,
        accelerator=next(iter(accelerators), ""),
        spot=bool(resources.use_spot),
        usd_per_hour=price,
    )


def remote_endpoint() -> str | None:
    """Return the address of the remote API server in use, None for a local one. SkyPilot must have been imported."""
    from sky.server import common

    return None if common.is_api_server_local() else mask(str(common.get_server_url()))
