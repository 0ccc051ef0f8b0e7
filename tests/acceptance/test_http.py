"""The HTTP server of the real service, with the routes and the server of an installed plugin."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.runtime.descriptors import MAX_DESCRIPTORS
from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study
from support.third_party import install

COUNTER = """
from litestar import get

from dicom_adapter import JobProcessorBase, Server, hookimpl


class Counter(JobProcessorBase):
    name = "counter"

    def open(self):
        self.count = 0

    def handle_instance(self, instance):
        self.count += 1


class Noisy(Server):
    name = "noisy"

    def __init__(self, lanes):
        self.lanes = lanes
        self.starts = 0

    def start(self):
        self.starts += 1
        print("noisy starts", self.starts, *self.lanes, flush=True)

    def is_alive(self):
        return self.starts > 1

    def stop(self):
        print("noisy stops", flush=True)


@hookimpl
def dicom_adapter_processors():
    return [Counter]


@hookimpl
def dicom_adapter_http(lanes):
    @get("/counts", sync_to_thread=True)
    def counts() -> dict[str, int]:
        return {name: lane.ask(lambda counter: counter.count).result(30) for name, lane in lanes.items()}

    return [counts]


@hookimpl
def dicom_adapter_servers(lanes):
    return [Noisy(lanes)]
"""
CONFIGURATION = (
    "[http]\nport = 0\n"
    + STORAGE
    + """
[ae-titles.COUNT]
processor = "counter"
[ae-titles.LUNG.settings]
pipeline-lung = "pipeline-1"
"""
)


def http(service: LaunchedService, path: str, **headers: str) -> tuple[int, Any]:
    port = service.wait_for("http_listening")["port"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def test_a_plugin_serves_data_of_its_processors(launch_service: LaunchService, tmp_path: Path) -> None:
    """The plugin's handlers call the lanes of its AE titles. The plugin's server is watched and restarted."""
    python = install(tmp_path, counter=COUNTER)
    service = launch_service(CONFIGURATION, python=python)
    send(write_study(tmp_path / "study", instances=3), service, "COUNT")
    assert (200, {"COUNT": 3}) == http(service, "/counter/counts")
    assert (200, "green") == ((answer := http(service, "/health"))[0], answer[1]["health"])
    service.wait_for("process_output", text="noisy starts 2 COUNT", name="host")
    assert 1 == len(service.logged("server_ended", server="counter noisy"))
    assert 0 == service.stop()
    assert 2 == len(service.logged("process_output", text="noisy stops"))


def test_a_restarted_host_serves_http_again(launch_service: LaunchService) -> None:
    """With `port = 0` the port may be different."""
    service = launch_service("[http]\nport = 0\n" + STORAGE + LUNG)
    service.port()
    [host] = [entry["child"] for entry in service.logged("process_started", name="host")]
    subprocess.run(["kill", "-9", str(host)], check=True)
    service.wait_for("http_listening", times=2)


@pytest.mark.skipif(sys.platform != "linux", reason="needs several loopback addresses")
def test_silent_connections_exclude_nobody_and_stop_no_work(launch_service: LaunchService, tmp_path: Path) -> None:
    """Connections that send nothing neither occupy the server nor the descriptors that jobs need.

    Verified to fail when the limits are those of uvicorn: every request gets 503.
    """
    service = launch_service("[http]\nport = 0\n" + STORAGE + LUNG)
    service.port()
    address = ("127.0.0.1", service.wait_for("http_listening")["port"])
    with ExitStack() as silent:
        for _number in range(400):
            silent.enter_context(socket.create_connection(address, timeout=30))
        service.wait_for("connection_refused")
        with socket.create_connection(address, 30, source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert other.recv(65536).startswith(b"HTTP/1.1 200 OK")
        send(write_study(tmp_path / "study", instances=1), service, "LUNG")
        service.wait_for("job_submitted")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_process_may_open_as_many_descriptors_as_the_system_allows(launch_service: LaunchService) -> None:
    """The soft limit, which is often 1024, is raised to the hard one.

    Verified to fail when the supervisor does not raise it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, in_use + 256), hard))
    try:
        service = launch_service(STORAGE + LUNG)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    service.port()
    expected = min(hard, MAX_DESCRIPTORS)
    assert {(expected, hard)} == {resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in service.pids()}


LUNG = """
[ae-titles.LUNG.settings]
pipeline-lung = "pipeline-1"
"""


def test_an_http_port_in_use_prevents_the_start(launch_service: LaunchService) -> None:
    """The error names the setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = launch_service(f"[http]\nport = {port}\n" + STORAGE + LUNG)
        with pytest.raises(ServiceEnded):
            service.port()
    assert 1 == service.wait()
    [error] = service.logged("service_not_started")
    assert f"[http]: cannot listen on 127.0.0.1:{port}: Address already in use; " in error["reason"]


@pytest.mark.parametrize("token", ["", 'token = { env = "SHORT" }\n'])
def test_binding_to_other_addresses_requires_a_long_token(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` and `run` report an error, and the service does not start."""
    monkeypatch.setenv("SHORT", "secret")
    path = tmp_path / "adapter.toml"
    path.write_text(f'[http]\nbind = "0.0.0.0"\n{token}' + STORAGE + LUNG)
    for command in ("check", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "dicom_adapter", command, path], capture_output=True, text=True, check=False
        )
        assert (1, False) == (done.returncode, "secret" in done.stderr)
        assert ("at least 16 characters" if token else "a token is required") in done.stderr
