"""The real service, real senders, and what reached the platform's folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

Run = Callable[..., "subprocess.CompletedProcess[str]"]

STORAGE = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "fake"
folder = "platform"
"""


@frozen
class PlatformFolder:
    """The folder of the `fake` submitter."""

    path: Path

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The manifests of started jobs, by name and id."""
        manifests = [json.loads(file.read_text(encoding="utf-8")) for file in self.path.glob("*/job.json")]
        started = [manifest for manifest in manifests if manifest["state"] != "pending"]
        return sorted(started, key=lambda manifest: (manifest["name"], manifest["jobId"]))

    def files(self, job: dict[str, Any]) -> list[Path]:
        """The Part 10 files of a job, in its order."""
        return [self.path / job["jobId"] / entry["file"] for entry in job["instances"]]

    def calls(self, call: str, outcome: str = "done") -> list[dict[str, Any]]:
        """What the log of calls has of one kind and outcome."""
        lines = (self.path / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if (entry["call"], entry["outcome"]) == (call, outcome)]


@pytest.fixture
def platform(tmp_path: Path) -> PlatformFolder:
    """What reached the platform of a service with `STORAGE`, launched under the default name."""
    return PlatformFolder(tmp_path / "service" / "platform")


@pytest.fixture
def dcmtk() -> Iterator[Run]:
    """Run one of DCMTK's clients: `dcmtk("storescu", "-aec", "LUNG", …)`; skips the test where it is not installed."""

    def run(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        found = shutil.which(program)
        if found is None:
            if "dcmtk" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
                pytest.fail(f"DCMTK's {program} is not installed, and DICOM_ADAPTER_TESTS_REQUIRE asks for it")
            pytest.skip(f"DCMTK's {program} is not installed")
        command = [found, *map(str, arguments)]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60)

    yield run
