"""The service is killed again and again during a delivery: the destination has each instance once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import receive_products
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from dicom_adapter import JobState
from dicom_adapter.testing import Service, make_study
from support import jobs_in_ledger
from support.orthanc_archive import PASSWORD, USER, OrthancArchive, orthanc_archive

pytestmark = pytest.mark.slow
Launch = Callable[..., Service]

KILLS = 5
INSTANCES = 150
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

{submitter}
retry-first = 0.1
retry-most = 0.5

[ae-titles.ROUTER.settings]
interrupted = "submit"
group-by = "study"
timeout = 5
pipeline-results = "results"
"""


def deliver_with_kills(launch: Launch, configuration: str) -> set[str]:
    """Send a study, and kill the service at random moments of its delivery. Return the SOP Instance UIDs."""
    study = make_study(instances=INSTANCES)
    service = launch(configuration)
    assert [True] * INSTANCES == [result.ok for result in service.send(*study, ae_title="ROUTER")]
    service.wait_for("job_metadata_sent")
    for _kill in range(KILLS):
        time.sleep(random.uniform(0.0, 0.4))
        service.kill()
        if [JobState.SUBMITTED] == [job.state for job in jobs_in_ledger(service)]:
            break
        service = launch(configuration)
        service.wait_for("host_started")
    else:
        service.wait_for("job_submitted")
    service.kill()
    assert [JobState.SUBMITTED] == [job.state for job in jobs_in_ledger(service)]
    return {str(instance.SOPInstanceUID) for instance in study}


def test_job_becomes_one_complete_folder(launch_service: Launch, tmp_path: Path) -> None:
    """There is no second folder, and nothing is left in the folder of incomplete jobs."""
    drop = tmp_path / "drop"
    drop.mkdir()
    sent = deliver_with_kills(
        launch_service,
        CONFIGURATION.format(submitter=f'[submitters.drop]\ntype = "folder"\npath = "{drop}"\nparallel = 2'),
    )
    [folder] = [path for path in drop.iterdir() if not path.name.startswith(".")]
    entries = json.loads((folder / "manifest.json").read_bytes())["files"]
    assert sent == {entry["sopInstanceUid"] for entry in entries}
    assert sent == {str(dcmread(folder / entry["name"]).SOPInstanceUID) for entry in entries}
    assert INSTANCES + 1 == len(list(folder.iterdir()))
    assert [] == list((drop / ".incoming").iterdir())


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancArchive]:
    yield from orthanc_archive(tmp_path / "orthanc")


@pytest.mark.orthanc
def test_orthanc_has_each_instance_once(launch_service: Launch, orthanc: OrthancArchive, tmp_path: Path) -> None:
    """Some instances are sent twice, because the kill came between the response and the commit; Orthanc keeps one."""
    (tmp_path / "password").write_text(PASSWORD)
    submitter = f"""
[submitters.archive]
type = "dicomweb"
url = "{orthanc.url}"
user = "{USER}"
password = {{ file = "{tmp_path}/password" }}
parallel = 2
"""
    sent = deliver_with_kills(launch_service, CONFIGURATION.format(submitter=submitter))
    arrived = [str(dcmread(DicomBytesIO(content)).SOPInstanceUID) for content in orthanc.instances()]
    assert sent == set(arrived)
    assert INSTANCES == len(arrived)


@pytest.mark.dcmtk
def test_storescp_has_each_instance(launch_service: Launch, tmp_path: Path) -> None:
    """`storescp +B` writes a file for each SOP instance; an instance that is sent twice replaces its file."""
    if receive_products.find_dcmtk() is None:
        pytest.skip("dcmtk is not installed")
    (tmp_path / "scp").mkdir()
    with receive_products.storescp(tmp_path / "scp", 1, ["+B", "--fork"]) as node:
        submitter = f'[submitters.pacs]\ntype = "dicom"\nhost = "127.0.0.1"\nport = {node.port}\nae-title = "PACS"\n'
        sent = deliver_with_kills(launch_service, CONFIGURATION.format(submitter=submitter))
    arrived = [str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "scp" / "store").iterdir()]
    assert sorted(sent) == sorted(arrived)
