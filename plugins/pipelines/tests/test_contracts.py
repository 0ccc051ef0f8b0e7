"""Contracts: names of files, variables and manifests that pipelines expect."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_adapter import Permanent
from dicom_adapter.testing.submitter_jobs import JobSteps, make_job, make_upload
from dicom_adapter_pipelines.contracts import Contract, JobPlaces, environment
from dicom_adapter_pipelines.job_folder import safe_uid
from support.command_jobs import Pipelines, shell

PLACES = JobPlaces(input="/in", output="/out", job="/job.json", work="/work")
COMMON = {"DICOM_ADAPTER_INPUT": "/in", "DICOM_ADAPTER_OUTPUT": "/out", "DICOM_ADAPTER_JOB": "/job.json"}
MONAI = {
    "HOLOSCAN_INPUT_PATH": "/in",
    "HOLOSCAN_OUTPUT_PATH": "/out",
    "MONAI_INPUTPATH": "/in",
    "MONAI_OUTPUTPATH": "/out",
}


def part10(**attributes: object) -> bytes:
    """Return a Part 10 file."""
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    data_set.save_as(file, enforce_file_format=True)
    return file.getvalue()


def start(pipelines: Pipelines, *uids: str, data: bytes = b"x") -> None:
    """Run a job with instances of these SOP Instance UIDs to its end."""
    submitter = pipelines.submitter()
    steps = JobSteps(make_job(1, "lung"))
    steps.all(submitter, [make_upload(place, data, sop_instance_uid=uid) for place, uid in enumerate(uids)])
    pipelines.jobs.append(steps.job)
    pipelines.end(steps.job)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (Contract.PLAIN, {}),
        (Contract.MAP, {**MONAI, "HOLOSCAN_WORKDIR": "/work", "HOLOSCAN_TIMEOUT": "60"}),
        (Contract.MERCURE, {**MONAI, "MERCURE_IN_DIR": "/in", "MERCURE_OUT_DIR": "/out"}),
    ],
)
def test_contract_sets_variables(contract: Contract, expected: dict[str, str]) -> None:
    assert {**COMMON, **expected} == environment(contract, PLACES, 60.0)


def test_mercure_module_gets_its_manifests(pipelines: Pipelines) -> None:
    """One folder; `<series>#<instance>.dcm`; a `.tags` file beside each; `task.json` with the settings."""
    pipelines.configure(("true",), contract=Contract.MERCURE, settings={"threshold": 0.5}, expect_results=False)
    start(
        pipelines, "1.2.3.1", "1.2.3.2", data=part10(PatientID="4711", Modality="CT", ImageType=["ORIGINAL", "AXIAL"])
    )
    folder = pipelines.of(pipelines.jobs[0]).input
    names = [f"1.2.5#1.2.3.{number}.{kind}" for number in (1, 2) for kind in ("dcm", "tags")]
    assert [*names, "task.json"] == sorted(path.name for path in folder.iterdir())
    tags = json.loads((folder / names[1]).read_text())
    found = {key: value for key, value in tags.items() if value}
    assert {"PatientID": "4711", "Modality": "CT", "ImageType": "ORIGINAL\\AXIAL"}.items() <= found.items()
    task = json.loads((folder / "task.json").read_text())
    expected = {"module_name": "lung", "module_config": {}, "settings": {"threshold": 0.5}}
    assert (expected, "1.2.5") == (task["process"], task["info"]["uid"])


def test_mercure_tags_of_a_file_that_is_not_dicom_are_empty(pipelines: Pipelines) -> None:
    pipelines.configure(("true",), contract=Contract.MERCURE, expect_results=False)
    start(pipelines, "1.2.3.1")
    tags = json.loads((pipelines.of(pipelines.jobs[0]).input / "1.2.5#1.2.3.1.tags").read_text())
    assert {""} == set(tags.values())


def test_mercure_task_is_not_a_result(pipelines: Pipelines) -> None:
    """Modules copy `task.json`, also if they have no result."""
    pipelines.configure(shell('cp "$1/task.json" "$2"'), contract=Contract.MERCURE)
    start(pipelines, "1.2.3.1")
    assert "without output" in pipelines.end(pipelines.jobs[0]).detail


def test_two_versions_of_an_instance_are_two_files(pipelines: Pipelines) -> None:
    pipelines.configure(("true",), contract=Contract.MERCURE, expect_results=False)
    start(pipelines, "1.2.3.1", "1.2.3.1")
    names = sorted(path.name for path in pipelines.of(pipelines.jobs[0]).input.glob("*.dcm"))
    assert ["1.2.5#1.2.3.1.1.dcm", "1.2.5#1.2.3.1.dcm"] == names


@pytest.mark.parametrize("uid", ["", ".", "..", "../x", "a/b", "1.2_3", "x" * 300, "名前", "1" * 65])
def test_text_that_is_not_a_uid_is_never_part_of_a_path(uid: str) -> None:
    replaced = safe_uid(uid)
    assert replaced.startswith("2.25.")
    assert len(replaced) <= 64
    assert replaced == safe_uid(uid)


# --- commands of another user


@pytest.fixture
def reachable(tmp_path: Path) -> Iterator[Path]:
    """A folder that other users can reach, unlike those of pytest."""
    if os.geteuid() != 0:
        pytest.skip("only root can start processes of another user")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_command_of_another_user_reads_input_and_writes_output(reachable: Path) -> None:
    """The command cannot read launch.json, which contains secrets."""
    pipelines = Pipelines(reachable)
    code = 'id -un > "$2/user"; cat "$1"/*/*.dcm > "$2/copy"; cat "$3" > "$2/job"'
    command = shell(f'{code}; cat "$0"/*/launch.json && touch "$2/read"; true')
    pipelines.configure((*command[:3], str(pipelines.submitter().folders.path), *command[4:]), user="nobody")
    start(pipelines, "1.2.3.1")
    output = pipelines.of(pipelines.jobs[0]).output
    assert pipelines.end(pipelines.jobs[0]).succeeded, pipelines.log()
    assert ("nobody\n", "x") == ((output / "user").read_text(), (output / "copy").read_text())
    assert ["copy", "job", "user"] == sorted(path.name for path in output.iterdir())


def test_check_reports_a_user_that_cannot_work(pipelines: Pipelines, reachable: Path) -> None:
    """The data folder of the service is private, so another folder is needed."""
    pipelines.configure(("true",), user="nobody")
    pipelines.folder.chmod(0o700)
    with pytest.raises(Permanent, match=r"user 'nobody' cannot enter /.*: set `folder` to a folder that this user can"):
        pipelines.submitter().check_connection()
    pipelines.configure(("true",), user="nobody-of-this-name")
    with pytest.raises(Permanent, match="'nobody-of-this-name' is not a user of this machine: create the user"):
        pipelines.submitter().check_connection()
