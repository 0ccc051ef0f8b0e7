"""The tutorial with Orthanc as PACS: a pipeline gets studies from Orthanc, and results come back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.pages import DOCS, Block, blocks_of, read
from support.podman import NoPodman, Podman, podman_with_storage
from support.walkthrough import Walkthrough

PAGE = DOCS / "tutorial" / "first-hour.md"
PORTS = ("11112", "4242", "8042")  # the only deviation from the page: free ports are used instead
SECONDS = 90  # time limit of each wait, for a busy machine
BACKGROUND = ("orthanc", "adapter")  # blocks that start a process in a terminal of its own
# The test builds its images without a registry, so that they have no Python: containers get the Python of this machine.
SHIM = """#!/bin/sh
export CONTAINERS_CONF={configuration}
for word in "$@"; do
  shift
  set -- "$@" "$word"
  if [ "$word" = run ] || [ "$word" = create ]; then set -- "$@" {volumes}; fi
done
exec {program} {options} "$@"
"""


class Site(Walkthrough):
    """A folder with terminals, and free ports instead of those of the page."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = {port: free_port() for port in PORTS}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        if "PYTHONPATH" in os.environ:  # a checkout is tested that is not the installed one
            self._environment["PYTHONPATH"] = os.environ["PYTHONPATH"]

    def follow(self, block: Block) -> str:
        """Write a file, start a process, or wait for the instances that the block names and run its commands."""
        language, _, *words = block.info.split()
        text = self.with_ports(block.text)
        if language != "sh":
            (self.folder / words[0]).write_text(text, encoding="utf-8")
            return ""
        started = [word for word in words if word in BACKGROUND]
        if started:
            self._start(started[0], text)
            return ""
        self._wait_for(dict(word.split("=") for word in words if "=" in word))
        return self.type(text)

    def with_ports(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = text.replace(shown, str(real))
        return text.replace("dicom-adapter init", f"dicom-adapter init --port {self._ports['11112']}")

    def get(self, path: str) -> Any:
        """Return the decoded JSON of Orthanc's response."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['8042']}{path}", timeout=SECONDS) as response:
            return json.loads(response.read())

    def _start(self, name: str, text: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                ["bash", "-c", text],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ports = ("4242", "8042") if name == "orthanc" else ("11112",)
        for port in ports:
            self._wait_until_listening(name, self._ports[port])

    def _wait_until_listening(self, name: str, port: int) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                assert self._processes[name].poll() is None, self.log(name)
                assert time.monotonic() < deadline, self.log(name)
                time.sleep(0.2)
            else:
                return

    def _wait_for(self, expected: dict[str, str]) -> None:
        """Wait until Orthanc has as many instances and studies as the page says."""
        deadline = time.monotonic() + SECONDS
        wanted = {f"Count{name.title()}": int(number) for name, number in expected.items()}
        while wanted and wanted != {name: self.get("/statistics")[name] for name in wanted}:
            assert time.monotonic() < deadline, f"{self.get('/statistics')}\n{self.type('dicom-adapter jobs list')}"
            time.sleep(0.5)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the processes, the adapter before Orthanc."""
        while self._processes:
            _, process = self._processes.popitem()  # the last one first
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(SECONDS)
        super().close()

    def use_podman(self, podman: Podman) -> None:
        """Put a command `podman` into the environment that uses this storage, with the Python of this machine."""
        mounted = {
            "/usr",
            "/lib",
            "/lib64",
            str(self.folder / "environment"),
            sys.base_prefix,
            sysconfig.get_path("purelib"),
        }
        text = SHIM.format(
            configuration=podman.environment["CONTAINERS_CONF"],
            volumes=" ".join(f"--volume {path}:{path}:ro" for path in sorted(mounted)),
            program=podman.program,
            options=" ".join(podman.options),
        )
        path = self.folder / "environment" / "bin" / "podman"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


def free_port() -> int:
    """Return a free port, because Orthanc cannot choose a port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if shutil.which("Orthanc") is None:
        if "orthanc" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail("Orthanc is not installed, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip("Orthanc is not installed")
    made = Site(tmp_path)
    yield made
    made.close()


def steps(*unwanted: str) -> Sequence[Block]:
    found = [block for block in blocks_of(PAGE) if "hour" in block.info.split()]
    return [block for block in found if not set(unwanted) & set(block.info.split())]


def test_every_block_of_the_page_is_a_step() -> None:
    """The only exception is the picture."""
    assert ["text"] == [block.info for block in blocks_of(PAGE) if block not in steps()]
    assert read(PAGE).count("```sh hour") == len([step for step in steps() if step.info.startswith("sh")])


@pytest.mark.orthanc
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_results_of_a_command_appear_in_orthanc(site: Site) -> None:
    """Every step before the container is followed. Each study in Orthanc has the series of the results."""
    outputs = [site.follow(step) for step in steps("Containerfile", "build", "container")]
    assert "succeeded" in "".join(outputs)
    modalities = [
        sorted(series["MainDicomTags"]["Modality"] for series in site.get(f"/studies/{study}/series"))
        for study in site.get("/studies")
    ]
    assert [["CT", "OT", "SR"]] * 2 == modalities
    assert [] == [line for line in site.log("adapter").splitlines() if "error" in line.split()[1:2]]


@pytest.mark.orthanc
@pytest.mark.podman
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_container_replaces_the_command(site: Site) -> None:
    """The image of the test has no Python: the Python of this machine is mounted. Otherwise the page is followed."""
    with ExitStack() as stack:
        try:
            podman = stack.enter_context(podman_with_storage())
        except NoPodman as reason:
            if "podman" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
                pytest.fail(f"{reason}, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
            pytest.skip(str(reason))
        stack.callback(site.close)
        site.use_podman(podman)
        for step in steps("build"):
            site.follow(step)
            if step.info.endswith("Containerfile"):
                program = site.folder / "environment" / "bin" / "python"
                entry = json.dumps([str(program), "/pipeline.py", "/input", "/output"])
                files = {"/pipeline.py": (site.folder / "pipeline.py").read_text(encoding="utf-8")}
                podman.build("localhost/lung-pipeline", f"ENTRYPOINT {entry}", files)
