"""A real full file system: a small tmpfs for each test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support.full_disk import Disk

DISK_SIZE = 32 * 2**20  # bytes; only written pages use memory
Launch = Callable[..., LaunchedService]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a tmpfs, or skip the test if that is not possible."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        if "tmpfs" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail("no tmpfs can be mounted, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip("no tmpfs can be mounted: it requires root")
    yield Disk(folder)
    # A lazy unmount: open files are closed a moment later.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def launch(disk: Disk, launch_service: LaunchService) -> Launch:
    """Return a function that starts the service with its instances or its ledger, or both, on the small disk.

    `launch(storage=…, ledger=…)`: "disk" or "elsewhere". `limits`: lines for [storage]. `quiet`: seconds after which a
    study is due.
    """

    def start(
        *, storage: str = "disk", ledger: str = "disk", limits: str = NO_LIMITS, quiet: int = 5
    ) -> LaunchedService:
        folder = {"disk": f"{disk.path}/", "elsewhere": ""}
        paths = {"data": f"{folder[storage]}data", "ledger": f"{folder[ledger]}ledger.sqlite"}
        return launch_service(CONFIGURATION.format(limits=limits, quiet=quiet, **paths))

    return start


NO_LIMITS = "watermark-percent = 100\nreserve = 0"
CONFIGURATION = """
[storage]
path = "{data}"
{limits}

[ledger]
url = "sqlite:///{ledger}"

[submitters.platform]
type = "fake"
folder = "platform"

[ae-titles.LUNG.settings]
interrupted = "submit"
group-by = "study"
timeout = {quiet}
pipeline-a = "pipeline-1"
"""
