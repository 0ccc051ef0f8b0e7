"""The image of the service: built with a real podman, and run without root, network and a writable root."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import DOCS, ROOT, block
from support.podman import NoPodman, Podman, podman_with_storage
from support.python_image import build_python_image

pytestmark = [pytest.mark.slow, pytest.mark.podman, pytest.mark.timeout(600)]
CONFIGURATION = """
[http]

[storage]
path = "/var/lib/dicom-adapter/data"
reserve = 0

[submitters.fake]
type = "fake"

[ae-titles.LUNG.settings]
pipeline-lung = "lung"
"""
PAGE = DOCS / "how-to" / "container.md"
IMAGE, NAME = "localhost/dicom-adapter", "dicom-adapter"
START_SECONDS = 240  # on a busy machine
# A place for Python's bytecode: compiling it while the image is built would take most of the time of this test.
BYTECODE = ["--env", "PYTHONPYCACHEPREFIX=/tmp/bytecode"]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    try:
        with podman_with_storage() as podman:
            yield podman
    except NoPodman as reason:
        if "podman" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail(f"{reason}, and DICOM_ADAPTER_TESTS_REQUIRE requires podman")
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def image(podman: Podman, packages: Path, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the image of the packages, with the wheels of the libraries instead of a package index."""
    folder = tmp_path_factory.mktemp("image")
    base = build_python_image(podman, wheelhouse, folder / "base")
    context = folder / "context"
    for source in (packages, wheelhouse):
        shutil.copytree(source, context / "dist", dirs_exist_ok=True)
    shutil.copytree(ROOT / "deploy/container", context / "deploy/container")
    (context / "constraints.txt").touch()
    arguments = [
        word for text in (f"BASE={base}", "PIP_NO_INDEX=1", "PIP_NO_COMPILE=1") for word in ("--build-arg", text)
    ]
    containerfile = context / "deploy/container/Containerfile"
    options = ["--quiet", "--layers=false", "--format", "docker", "--network", "none", *arguments]
    podman.run("build", *options, "--tag", IMAGE, "--file", containerfile, context, seconds=400)
    return IMAGE


def test_the_command_of_the_page_runs_the_service_without_privileges(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    """The health check of the image passes, the root is read-only, an instance is stored, and a stop is orderly."""
    (tmp_path / "dicom-adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    tmp_path.chmod(0o755)
    podman.run(*start(tmp_path), image, "run", "--new")  # these volumes are on the disk of the image
    try:
        wait_for_start(podman)
        assert "health" in adapter(podman, "dicom-adapter", "status")
        health = podman.run("healthcheck", "run", NAME, check=False)
        assert 0 == health.returncode, health.stdout + health.stderr
        assert "10001" == adapter(podman, "python", "-c", "import os; print(os.getuid())").strip()
        adapter(podman, "dicom-adapter", "synthesize", "/tmp/study")
        adapter(podman, "dicom-adapter", "send", "/tmp/study", "--to", "LUNG@localhost:11112")
        assert json.loads(adapter(podman, "dicom-adapter", "instances", "list", "--json"))
        refused = podman.run("exec", NAME, "python", "-c", "open('/opt/file', 'w')", check=False)
        assert "Read-only file system" in refused.stderr
        podman.run("stop", NAME, seconds=120)
        assert "0" == podman.run("inspect", "--format", "{{.State.ExitCode}}", NAME).stdout.strip()
    except AssertionError as failure:
        raise AssertionError(f"{failure}; the log: {podman.run('logs', NAME, check=False).stderr}") from failure


def wait_for_start(podman: Podman) -> None:
    """Wait until senders can connect. The start compiles all modules, so it takes longer than with a real image."""
    end = time.monotonic() + START_SECONDS
    while "service_listening" not in podman.run("logs", NAME).stderr:
        assert time.monotonic() < end, "the service does not listen"
        time.sleep(0.2)  # the pause of a loop that has a condition


def start(configuration: Path) -> list[str]:
    """Return the arguments that start the container, as on the page, but without network and `--init`."""
    program, *arguments = shlex.split(block("sh container run", PAGE).text.replace("\\\n", " "))
    assert ("podman", "localhost/dicom-adapter:0.1.0") == (program, arguments.pop())
    left_out = ("--init", "--publish=11112:11112")  # they need a program and permissions that tests do not have
    kept = [each.replace("/srv/dicom-adapter", str(configuration)) for each in arguments if each not in left_out]
    assert len(kept) == len(arguments) - len(left_out)
    return [*kept, *BYTECODE, "--network=none"]


def adapter(podman: Podman, *command: str) -> str:
    """Run a command in the container of the service; return its output."""
    done = podman.run("exec", NAME, *command, check=False, seconds=120)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_image_has_a_bill_of_materials(podman: Podman, image: str) -> None:
    """It lists every installed distribution."""
    read = ["run", "--rm", "--network", "none", "--entrypoint", "/bin/cat", image, "/opt/dicom-adapter/sbom.cdx.json"]
    sbom = json.loads(podman.run(*read).stdout)
    assert ("CycloneDX", "1.6", 1) == (sbom["bomFormat"], sbom["specVersion"], sbom["version"])
    assert "pkg:pypi/dicom-adapter@0.1.0" == sbom["metadata"]["component"]["purl"]
    listed = {each["name"] for each in sbom["components"]}
    assert {"dicom-adapter-core", "pydicom", "SQLAlchemy", "python"} <= listed
    assert len(listed) == len(sbom["components"])
