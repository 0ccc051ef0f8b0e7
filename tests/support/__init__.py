"""Helpers of the tests with a running service: its configuration, senders, and the state that it has reached."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.values import Job
from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import Ledger, jobs
from dicom_adapter.net import scu
from dicom_adapter.net.address import parse_address
from dicom_adapter.net.results import SendResult
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.storage.local.segment import Record, Segment

Run = Callable[..., "subprocess.CompletedProcess[str]"]

INSTANCE_LINES = '[log]\nlevel = "debug"\n'  # a line for each stored instance
STORAGE = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "fake"
folder = "platform"
"""


def stored_records(data: Path) -> list[Record | int]:
    """Return all records in the segments of the `local` storage backend, and the offsets of incomplete records."""
    records: list[Record | int] = []
    for path in (data / "instances").glob("*.segment"):
        segment = Segment.open(path)
        records += segment.walk()
        segment.close()
    return records


def incomplete_records(data: Path) -> list[Record | int]:
    """Return the incomplete records in the segments."""
    return [record for record in stored_records(data) if not isinstance(record, Record)]


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
        """Return the Part 10 files of a job, in the order of its instances."""
        return [self.path / job["jobId"] / "dcm" / entry["file"] for entry in job["instances"]]

    def calls(self, call: str, outcome: str = "done") -> list[dict[str, Any]]:
        """Return the entries of the call log with this call and outcome."""
        lines = (self.path / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if (entry["call"], entry["outcome"]) == (call, outcome)]


def write_study(folder: Path, *, instances: int = 2, patient_id: str = "P-1") -> list[Path]:
    """Write a study of CT instances and return its files."""
    folder.mkdir(parents=True)
    paths = []
    for number, data_set in enumerate(synthetic.make_study(modality="CT", instances=instances, patient_id=patient_id)):
        paths.append(folder / f"{number}.dcm")
        synthetic.write(data_set, paths[-1])
    return paths


def send(paths: list[Path], service: LaunchedService, ae_title: str) -> list[SendResult]:
    """Send files in one association, and return a result for each."""
    address = parse_address(f"{ae_title}@127.0.0.1:{service.port()}")
    results: list[SendResult] = []
    scu.send(paths, address, calling_ae_title="SENDER", timeout=30, on_result=results.append)
    return results


def jobs_in_ledger(service: LaunchedService) -> list[Job]:
    """Return the jobs of a service with `STORAGE`, oldest first. The service may be running or stopped."""
    ledger = Ledger(f"sqlite:///{service.configuration.parent / 'data' / 'ledger.sqlite'}")
    with ledger.read() as transaction:
        listed = [row.job for row in reversed(jobs.newest(transaction, 10_000))]
    ledger.close()
    return listed


def wait_until_submitted(service: LaunchedService, instances: int) -> None:
    """Wait until submitted jobs contain this number of instances. A slow sender may cause several jobs."""
    while sum(int(entry["instances"]) for entry in service.logged("job_queued")) < instances:
        service.wait_for("job_queued", times=1 + len(service.logged("job_queued")))
    service.wait_for("job_submitted", times=len(service.logged("job_queued")))


def wait_until_reclaimed(service: LaunchedService, instances: int) -> None:
    """Wait until this number of instances is submitted and reclaimed, in any number of steps."""
    wait_until_submitted(service, instances)
    while sum(int(entry["count"]) for entry in service.logged("instances_reclaimed")) < instances:
        service.wait_for("instances_reclaimed", times=1 + len(service.logged("instances_reclaimed")))
