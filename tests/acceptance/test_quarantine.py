"""Quarantine in the real service: rejections and refusals at the quota, and a requeue by an operator."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import Result
from pynetdicom.association import Association
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.dicom import synthetic
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, write_study
from support.requestor import associate, rejection, wait_for_rejection

CONFIGURATION = (
    STORAGE.replace("reserve = 0", "reserve = 0\nquarantine-quota = {quota}")
    + """
[ae-titles.LUNG.settings]
group-by = "{group_by}"
pipeline-a = "pipeline-1"

[ae-titles.HEAD.settings]
pipeline-a = "pipeline-2"
"""
)
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)  # result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)
SUCCESS, OUT_OF_RESOURCES = 0x0000, 0xA700
SECONDS = 60  # time limit of each wait


def store_until_refused(association: Association) -> int:
    """Store until the status is not success, and return this status."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        status = association.send_c_store(synthetic.make_instance(rows=2, columns=2)).Status
        if status != SUCCESS:
            return int(status)
    raise AssertionError(f"every instance was accepted for {SECONDS} s")


def command(service: LaunchedService, *words: str) -> Result:
    result = CliRunner().invoke(app, [*words, "-c", str(service.configuration)])
    assert 0 == result.exit_code, result.output
    return result


@pytest.mark.slow
def test_a_full_quarantine_refuses_until_an_operator_requeues_it(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """New associations are rejected temporarily, and C-STOREs on open associations refused temporarily.

    After the configuration is corrected, the requeued instances become the expected job.

    Verified to fail when the receiver does not check the quota (then an open association fills the disk), or the lane
    is not restarted after a requeue (then no job is created).
    """
    paths = write_study(tmp_path / "study", instances=3)
    quota = sum(path.stat().st_size for path in paths) * 5 // 6  # exceeded by the third instance
    service = launch_service(CONFIGURATION.format(quota=quota, group_by="AdmissionID"))
    still_open = associate(service.port(), "LUNG")
    sent = send(paths, service, "LUNG")
    assert [True] * 3 == [result.ok for result in sent]
    service.wait_for("instance_quarantined", times=3)
    service.wait_for("ae_title_full", ae_title="LUNG")

    assert LOCAL_LIMIT_EXCEEDED == wait_for_rejection(service.port(), "LUNG")
    reason = service.wait_for("association_rejected", ae_title="LUNG", rejection="LOCAL_LIMIT_EXCEEDED")["reason"]
    assert reason.startswith(f"quarantine-quota = {quota} bytes is used up: ")
    assert OUT_OF_RESOURCES == store_until_refused(still_open)
    still_open.release()
    assert rejection(service.port(), "HEAD") is None
    service.kill()

    restarted = launch_service(CONFIGURATION.format(quota=quota, group_by="study"))
    restarted.port()
    held = json.loads(command(restarted, "instances", "list", "--state", "quarantined", "--json").stdout)
    assert {1, 2, 3} <= {row["instanceId"] for row in held}
    command(restarted, "instances", "requeue", "1", "2", "3")
    queued = restarted.wait_for("job_queued", ae_title="LUNG")
    assert 3 == queued["instances"]
    restarted.wait_for("job_submitted", job_id=queued["job_id"])
    assert [3] == [len(platform.files(job)) for job in platform.jobs]
    if len(held) > 3:
        command(restarted, "instances", "discard", "--all", "--yes")
    restarted.wait_for("ae_title_below_quota", ae_title="LUNG")
    assert rejection(restarted.port(), "LUNG") is None
    assert 0 == restarted.stop()
