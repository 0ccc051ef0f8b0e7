"""A storage folder is unmounted, deleted or replaced: nothing is acknowledged or created, and health is red."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_adapter.api.receiving import Rejection
from dicom_adapter.net.codes import REJECT_REASON, CStoreStatus
from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE
from support.full_disk import image, store
from support.requestor import associate, wait_for_rejection

CONFIGURATION = (
    STORAGE
    + """
[http]
port = 0

[ledger]
url = "sqlite:///ledger.sqlite"

[ae-titles.LUNG]
settings = { timeout = 600, pipeline-a = "1" }
"""
)
OWN_LEDGER = CONFIGURATION.replace('url = "sqlite:///ledger.sqlite"', "")
LIMIT_EXCEEDED = REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED]


def data_of(service: LaunchedService) -> Path:
    return service.configuration.parent / "data"


def run(service: LaunchedService, *arguments: str) -> tuple[int, str]:
    """Return the exit status and the output of a command."""
    command = [sys.executable, "-m", "dicom_adapter", *arguments, str(service.configuration), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def health(service: LaunchedService) -> tuple[int, str]:
    """Return the status and the reasons of `GET /health`."""
    address = service.wait_for("http_listening")["port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{address}/health") as response:
            return response.status, ""
    except urllib.error.HTTPError as failure:
        with failure:
            return failure.code, str([problem["reason"] for problem in json.load(failure)["problems"]])


@contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    """Replace a folder with an empty one until the block ends, as if its disk were unmounted."""
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    yield
    assert [] == list(folder.iterdir()), "something was created on the mount point"
    folder.rmdir()
    away.rename(folder)


@pytest.mark.parametrize("configuration", [CONFIGURATION, OWN_LEDGER], ids=["ledger elsewhere", "ledger in the folder"])
def test_a_service_that_has_run_refuses_an_empty_folder(launch_service: LaunchService, configuration: str) -> None:
    """Only the first start creates the folder. Verified to fail without the check."""
    service = launch_service(configuration)
    service.port()
    assert 0 == service.stop()
    with unmounted(data_of(service)):
        refused = launch_service(configuration)
        assert 1 == refused.wait()
        expected = "no storage" if configuration is OWN_LEDGER else "is missing or empty"
        with pytest.raises(ServiceEnded, match=expected):
            refused.port()
        again = run(service, "status")
        assert 0 != again[0], again
    launch_service(configuration).port()


def test_an_empty_folder_is_used_after_one_start_with_new(launch_service: LaunchService, tmp_path: Path) -> None:
    (tmp_path / "service" / "data").mkdir(parents=True)
    assert 1 == launch_service(OWN_LEDGER).wait()
    service = launch_service(OWN_LEDGER, "--new")
    service.port()
    assert 0 == service.stop()
    launch_service(OWN_LEDGER).port()


def test_a_storage_that_is_unmounted_is_red_and_comes_back(launch_service: LaunchService) -> None:
    """Open associations get 0xA700, new ones are rejected as transient. A receiver that restarts creates nothing.

    Verified to fail when the marker is not checked.
    """
    service = launch_service(CONFIGURATION)
    association = associate(service.port(), "LUNG")
    assert CStoreStatus.SUCCESS == store(association)
    with unmounted(data_of(service)):
        assert CStoreStatus.OUT_OF_RESOURCES == store(association)
        assert LIMIT_EXCEEDED == wait_for_rejection(service.port(), "LUNG")
        assert (503, True) == (health(service)[0], "storage-id is missing" in health(service)[1])
        service.wait_for("part_failing", part="storage", level="error")
        result = run(service, "status")
        assert (1, True) == (result[0], "is missing or empty" in result[1]), result
        os.kill(service.logged("process_started", name="receiver")[-1]["child"], signal.SIGKILL)
        service.wait_for("process_failed", name="receiver")
    service.wait_for("receiver_listening", times=2)
    service.wait_for("part_recovered", part="storage")
    assert CStoreStatus.SUCCESS == store(associate(service.port(), "LUNG"))


@pytest.mark.parametrize("what", ["segments deleted", "folder copied", "ledger copied"])
def test_nothing_is_acknowledged_that_goes_to_deleted_or_replaced_files(
    launch_service: LaunchService, what: str
) -> None:
    """The receiver is red, and `status` fails. Verified to fail without the check before a commit."""
    service = launch_service(OWN_LEDGER)
    association = associate(service.port(), "LUNG")
    assert CStoreStatus.SUCCESS == store(association)
    data = data_of(service)
    if what == "segments deleted":
        for path in (data / "instances").glob("*.segment"):
            path.unlink()
    else:
        original = data if what == "folder copied" else data / "ledger.sqlite"
        away = original.rename(original.with_name("away"))
        (shutil.copytree if away.is_dir() else shutil.copy2)(away, original)
    assert CStoreStatus.OUT_OF_RESOURCES == store(association, image())
    service.wait_for("part_failing", part="receiver")
    service.wait_for("instance_refused", status="0xA700")
    assert 0 != run(service, "status")[0]
    if what != "segments deleted":
        assert 503 == health(service)[0]
        assert (2, True) == (run(service, "audit", "--repair")[0], "uses other files" in run(service, "audit")[1])
        assert 0 == service.stop()
        assert "files-replaced" not in run(service, "audit")[1]
    else:
        assert "object-missing" in run(service, "audit")[1]
