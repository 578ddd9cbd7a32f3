"""The edge to SkyPilot: what we use of it is where we look for it, and what it says becomes our three kinds of errors."""

import importlib.metadata
import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from runner.errors import JobError, RequestError
from runner.launch import skypilot
from runner.launch.asking import NoCapacity, Unreachable
from runner.paths import ROOT

USED = {
    "launch": ["task", "cluster_name"],
    "get": ["request_id"],
    "stream_and_get": ["request_id", "follow", "output_stream"],
    "api_status": ["request_ids", "fields", "cluster_name"],
    "api_cancel": ["request_ids", "silent"],
    "api_start": [],
    "api_stop": [],
    "enabled_clouds": [],
    "list_accelerators": ["name_filter", "quantity_filter", "clouds", "all_regions", "require_price"],
    "status": ["cluster_names", "refresh"],
    "job_status": ["cluster_name", "job_ids"],
    "down": ["cluster_name"],
    "cost_report": ["days"],
}
"""The functions of SkyPilot's SDK that runner/launch/skypilot.py calls, with the parameters that it names."""


@pytest.fixture(scope="module")
def sdk():
    return pytest.importorskip("sky.client.sdk")


@pytest.mark.parametrize(("name", "parameters"), USED.items(), ids=USED)
def test_the_sdk_has_what_we_call(sdk, name, parameters):
    there = inspect.signature(inspect.unwrap(getattr(sdk, name))).parameters
    assert set(parameters) <= set(there), f"sky.client.sdk.{name} moved: it takes {list(there)}"


def test_skypilot_has_the_inner_parts_that_we_use(sdk):
    from sky import check, exceptions
    from sky.backends import backend_utils
    from sky.client.cli import command
    from sky.server import common, plugins
    from sky.utils.cluster_utils import SSHConfigHelper
    from sky.utils.common import StatusRefreshMode

    assert next(iter(inspect.signature(command._get_cluster_records_and_set_ssh_config).parameters)) == "clusters"
    assert "{}" in SSHConfigHelper.ssh_cluster_path
    assert "{}" in SSHConfigHelper.ssh_cluster_key_path
    assert StatusRefreshMode.FORCE != StatusRefreshMode.NONE
    assert common.ApiServerStatus.HEALTHY
    for name in ("is_api_server_local", "get_server_url", "get_api_server_status", "make_authenticated_request"):
        assert callable(getattr(common, name))
    for name in ("ResourcesUnavailableError", "ApiServerConnectionError", "ClusterDoesNotExist"):
        assert issubclass(getattr(exceptions, name), Exception)
    assert plugins._PLUGINS_CONFIG_ENV_VAR == skypilot.PLUGINS
    # What the guard of credentials wraps, by the names through which SkyPilot itself calls it.
    assert backend_utils.sky_check is check
    assert list(inspect.signature(inspect.unwrap(backend_utils.write_cluster_config)).parameters)[:4] == [
        "to_provision", "num_nodes", "cluster_config_template", "cluster_name",
    ]  # fmt: skip
    source = inspect.getsource(inspect.unwrap(backend_utils.write_cluster_config))
    assert "sky_check.get_cloud_credential_file_mounts(" in source


GUARDED = """
from types import SimpleNamespace
from sky import check
from sky.backends import backend_utils

files = {"~/.runpod/config.toml": "/home/me/.runpod/config.toml"}
check.get_cloud_credential_file_mounts = lambda excluded_clouds: files
asked = {}
def write(to_provision, num_nodes, cluster_config_template, cluster_name, wheel):
    asked[cluster_name] = backend_utils.sky_check.get_cloud_credential_file_mounts(None)
backend_utils.write_cluster_config = write

from runner.launch.guard import NoCredentials
for _ in range(2):  # SkyPilot loads its plugins more than once in a process
    NoCredentials().install(None)
backend_utils.write_cluster_config(None, 1, "t", "crossover-ada-ab12ab12-0001", "w")
backend_utils.write_cluster_config(None, 1, "t", "my-own-cluster", "w")
assert asked == {"crossover-ada-ab12ab12-0001": {}, "my-own-cluster": files}, asked
"""


def test_the_guard_keeps_credentials_from_our_clusters_and_from_no_others(sdk):
    subprocess.run([sys.executable, "-c", GUARDED], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("found", "said"), [("0.13.9", "SkyPilot 0.13.9 is installed"), ("0.15.0", "before 0.15"), ("1.0", "before 0.15")]
)
def test_another_version_is_one_line(monkeypatch, found, said):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found)
    with pytest.raises(RequestError, match=said):
        skypilot.version()


def test_without_skypilot_the_folder_sky_is_not_taken_for_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert (ROOT / "sky").is_dir()
    assert not list((ROOT / "sky").rglob("*.py"))
    with pytest.raises(RequestError, match="which is not installed"):
        skypilot.version()


@pytest.fixture
def sky(sdk, tmp_path):
    return skypilot.Sky(tmp_path / "log")


def test_a_question_without_an_answer_ends_in_time(sky):
    began = time.monotonic()
    with pytest.raises(Unreachable, match="did not answer"):
        sky._ask(lambda: time.sleep(60), 0.3)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("to_the_end", "answers"), [(False, []), (True, ["rented"])])
def test_ctrl_c_is_answered_at_once_but_not_before_it_is_known_what_was_rented(sky, to_the_end, answers):
    found = []

    def rent():
        time.sleep(1.0)
        found.append("rented")

    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        sky._ask(rent, 10, to_the_end=to_the_end)
    assert found == answers


def test_what_skypilot_prints_and_raises_stays_off_the_terminal(sky, tmp_path, capsys):
    from sky import exceptions

    def full():
        print("Provisioning...")
        raise exceptions.ResourcesUnavailableError("\x1b[31mFailed to provision\x1b[0m\nall resources")

    with pytest.raises(NoCapacity, match=r"^Failed to provision all resources$"):
        sky._ask(full)
    assert capsys.readouterr().out == ""
    assert "Provisioning..." in (tmp_path / "log").read_text()

    def exits():
        raise SystemExit(3)

    with pytest.raises(JobError):
        sky._ask(exits)


def test_what_skypilot_raises_has_no_secrets(sky):
    from sky import exceptions

    def full():
        tries = [ValueError("\x1b[31mno room at https://me:secret@cloud/api?token=abc\x1b[0m")]
        raise exceptions.ResourcesUnavailableError("all resources", failover_history=tries)

    with pytest.raises(NoCapacity, match=r"^no room at https://\*\*\*@cloud/api\?token=\*\*\*$"):
        sky._ask(full)
