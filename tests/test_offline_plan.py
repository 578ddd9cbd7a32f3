"""What three clouds would cost, by SkyPilot's real catalog, server and optimizer: no account, no network, nothing is rented.

The rows of the catalog are written here. That its clouds are enabled is written where `sky check` writes it.
"""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import ROOT, end_group, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
pytest.importorskip("sky.server", reason="SkyPilot is not installed")

START_S = 180.0
CARD = "\"{'Gpus': [{'Name': 'RTX4090', 'Count': 1, 'MemoryInfo': {'SizeInMiB': 24576}}]}\""
COLUMNS = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,GpuInfo"
CATALOG = {
    "runpod/vms.csv": f"{COLUMNS},AvailabilityZone\n1x_RTX4090_SECURE,RTX4090,1,6,41,CA,,0.59,{CARD},CA-MTL-1\n",
    "vast/vms.csv": f"{COLUMNS}\n1x-RTX4090-32-65536,RTX4090,1,32,64,US,0.2,0.65,{CARD}\n",
    "primeintellect/vms.csv": f"{COLUMNS},AvailabilityZone\nhyperstack__RTX4090,RTX4090,1,16,64,US,,0.37,{CARD},us-1\n",
    "common/accelerators.csv": 'AcceleratorName,Clouds\nRTX4090,"RunPod,Vast,PrimeIntellect"\n',
}
CONFIG = "allowed_clouds: [runpod, vast, primeintellect]\n"

ENABLE = """
from sky import check, global_user_state
from sky.clouds.cloud import CloudCapability

global_user_state.set_allowed_clouds(check._get_workspace_allowed_clouds("default"), "default")
global_user_state.set_enabled_clouds(["RunPod", "Vast", "PrimeIntellect"], CloudCapability.COMPUTE, "default")
"""

DRYRUN = """
import sys
from pathlib import Path
from runner import plan
from runner.compose import compose
from runner.errors import JobError
from runner.launch import names, offering, server, task

composed = compose(sys.argv[1:])
made = plan.make(composed.config, composed.folders, composed.overrides, [])
with server.connected() as sky:
    offered = offering.make([made], composed.folders, sky)
    settings, choice = offered.settings(), offered.choices()[0]
    task.stage([(choice.jobs[0], Path("run"))], [], Path("staged"))
    rendered = task.render(
        choice.offers[::-1] if REVERSED else choice.offers, settings.images, Path("staged").resolve(), disk_gb=64,
        idle_minutes=5 if choice.autodown else None, setup_limit_s=1800, limit_s=settings.limit_s, python=None, setup=None,
    )
    asked = sky._sky.Task.from_yaml_config(rendered)
    request = sky._ask(lambda: sky._sdk.launch(asked, cluster_name=names.cluster(choice.jobs[0].hash), dryrun=True))
    try:
        sky._get(lambda: request)
    except JobError as error:
        print("REFUSED:", error)
    print(sky.said(request))
"""
"""Has SkyPilot choose from what would be rented for the request in `sys.argv`; prints what it says."""

SIX_MINUTES = [
    "workload=matmul", "workload.n=[512,1024,2048,4096,8192]", "workload.variants=[fp32,tf32,fp16,bf16,int8,fp8]",
    "measure.max_time_s=9", "measure.warmup.max_s=1.5", "gpu=4090",
]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A HOME in which SkyPilot knows three clouds, and the port of its server."""

    folder: Path
    port: int

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: build SkyPilot's wheel with what is here, fetch nothing
            "CUDA_VISIBLE_DEVICES": "",
        }

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=300
        )

    def plan(self, *overrides: str) -> "subprocess.CompletedProcess[str]":
        return self.python("-m", "runner", *SIX_MINUTES, *overrides)

    def optimized(self, *overrides: str, backwards: bool = False) -> str:
        """Return what SkyPilot says to the task that would be launched first, or to one with its offers backwards."""
        done = self.python("-c", DRYRUN.replace("REVERSED", str(backwards)), *SIX_MINUTES, *overrides)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def serving(place: Place) -> Iterator[None]:
    """Run SkyPilot's server; it and all that it started are ended whatever happens."""
    log = place.folder / "server.log"
    for left in reversed(range(3)):
        with open(log, "wb") as output:
            server = subprocess.Popen(
                [sys.executable, "-m", "sky.client.cli.command", "api", "start", "--foreground", "--host", "127.0.0.1"],
                cwd=place.folder, env=place.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            if ready(server, log):
                yield
                return
            assert left, f"one of SkyPilot's ports was taken three times:\n{log.read_text()[-2000:]}"
        finally:
            end_group(server)


def ready(server: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait for the server; False when a port that it always takes was another test's just then, since it would wait for ever."""
    until = time.monotonic() + START_S
    while "on-boot-check finished" not in (said := log.read_text()):  # it finds no accounts, and would say so after `ENABLE`
        if "Address already in use" in said:
            return False
        assert server.poll() is None, f"SkyPilot's server ended:\n{said[-2000:]}"
        assert time.monotonic() < until, f"SkyPilot's server did not start in {START_S:g} s:\n{said[-2000:]}"
        time.sleep(0.2)
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("home"), free_port())
    for name, rows in CATALOG.items():
        path = made.folder / ".sky" / "catalogs" / "v8" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)
    (made.folder / ".sky" / "config.yaml").write_text(CONFIG)
    (made.folder / ".sky" / "user_hash").write_text(uuid.uuid4().hex[:8])  # else it is one per machine, and shared
    with serving(made):
        done = made.python("-c", ENABLE)
        assert done.returncode == 0, done.stderr
        yield made


def rows(text: str) -> dict[str, list[str]]:
    """Return the lines of the table of offers by cloud."""
    return {line.split()[0]: line.split() for line in text.splitlines() if " RTX4090 " in line and line[:1] in "rvp"}


def line(text: str, key: str) -> str:
    """Return the one line of a plan that begins with a word."""
    (found,) = [one for one in text.splitlines() if one.startswith(f"{key} ")]
    return found


def test_the_smallest_bill_is_chosen_and_not_the_lowest_price_per_hour(place: Place) -> None:
    done = place.plan("launch.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == {
        "runpod": ["runpod", "RTX4090", "1x_RTX4090_SECURE", "CA", "0.59", "per", "second", "$0.059", "chosen"],
        "vast": ["vast", "RTX4090", "1x-RTX4090-32-65536", "US", "0.65", "0.20", "per", "second", "$0.065"],
        "primeintellect": ["primeintellect", "RTX4090", "hyperstack__RTX4090", "US", "0.37", "per", "hour", "$0.37"],
    }
    assert "6 min: 2 min to set up, 4 min to measure" in line(done.stdout, "estimate")
    assert line(done.stdout, "chosen") == (
        "chosen     runpod RTX4090 at $0.59/h: the smallest bill: $0.059 for 6 min, billed per second; primeintellect is cheaper "
        "by the hour ($0.37), but its bill is $0.37 (per hour)"
    )
    assert "snapshot" not in done.stdout


def test_the_lowest_price_per_hour_is_chosen_where_that_is_asked_for(place: Place) -> None:
    done = place.plan("launch.dry_run=true", "launch.optimize=hourly")
    assert line(done.stdout, "chosen") == (
        "chosen     primeintellect RTX4090 at $0.37/h: the lowest price per hour: $0.37; launch.optimize=bill takes runpod, "
        "whose bill is $0.059 and not $0.37"
    )


def test_what_costs_more_than_it_may_is_refused_in_one_line(place: Place) -> None:
    done = place.plan("launch.max_usd=0.05")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(
        "error: launch.max_usd=0.05: the cheapest offer, runpod RTX4090 at $0.59/h, comes to some $0.059"
    )
    assert not (place.folder / "outputs").exists()


def chosen(said: str) -> str:
    """Return the line of SkyPilot's table of resources that it chose."""
    (found,) = [one for one in said.splitlines() if "✔" in one]
    return " ".join(found.split())


@pytest.mark.long
@pytest.mark.parametrize(("backwards", "first"), [(False, "RunPod (CA)"), (True, "Vast (US)")])
def test_skypilots_optimizer_takes_the_first_of_our_offers_whatever_it_costs(place: Place, backwards: bool, first: str) -> None:
    said = place.optimized(backwards=backwards)
    assert chosen(said).startswith(f"{first} "), said
    assert all(f" {other} " in said for other in ("RunPod (CA)", "Vast (US)"))
    assert "Dryrun finished." in said


def test_skypilots_optimizer_takes_the_spot_instance_that_we_chose(place: Place) -> None:
    said = place.optimized("cloud=vast", "launch.spot=true")
    assert chosen(said).startswith("Vast (US) 1x-RTX4090-32-65536[Spot] "), said
    assert "Dryrun finished." in said


def test_skypilot_refuses_nothing_that_a_task_on_prime_intellect_asks_for(place: Place) -> None:
    said = place.optimized("cloud=primeintellect")
    assert chosen(said).startswith("PrimeIntellect (US)"), said
    assert "REFUSED" not in said
    assert "Dryrun finished." in said
