"""The `fake` submitter: stores jobs, ignores repeated calls, and fails on demand."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    Permanent,
    PlatformJob,
    Retriable,
    StoredObjectMissing,
    SubmitterContext,
    Upload,
)
from dicom_adapter_clara_client import (
    FakeFault,
    FakeFaultKind,
    FakeOutcome,
    FakeSettings,
    FakeState,
    FakeSubmitter,
    SubmitterCall,
    dicom_adapter_submitters,
)

NOW = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
Make = Callable[..., FakeSubmitter]


@pytest.fixture(params=["memory", "folder"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "platform" if request.param == "folder" else None


@pytest.fixture
def make(folder: Path | None, tmp_path: Path) -> Make:
    return lambda *faults: submitter_in(folder, tmp_path, *faults)


def submitter_in(folder: Path | None, data: Path, *faults: FakeFault) -> FakeSubmitter:
    context = SubmitterContext(name="platform", data_folder=data / "never-used")
    submitter = FakeSubmitter(FakeSettings(folder=folder, fail=faults), context)
    submitter.open()
    return submitter


def a_job(number: int = 1, pipeline: str = "lung") -> Job:
    return Job(
        job_id=f"{number:032x}",
        name=f"LUNG-{pipeline}-{number}",
        ae_title="LUNG",
        pipeline_id=pipeline,
        priority=JobPriority.HIGHER,
        submitter="platform",
        instance_count=2,
        created_at=NOW,
        changed_at=NOW,
    )


def an_upload(position: int, data: bytes, uid: str = "1.2.3") -> Upload:
    instance = InstanceStorageInfo(
        instance_id=position,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="a",
        sop_class_uid="1.2",
        sop_instance_uid=uid,
        study_instance_uid="1.2.1",
        series_instance_uid="1.2.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id="",
        issuer_of_patient_id="",
        received_at=NOW,
        storage_key="",
        size_bytes=len(data),
        checksum=0,
    )
    return Upload(instance=instance, position=position, size_bytes=len(data), open=lambda: BytesIO(data))


def submit(submitter: FakeSubmitter, job: Job, *data: bytes) -> None:
    submitter.create_job(job)
    submitter.add_metadata(job, {"Source": "LUNG"})
    for position, item in enumerate(data):
        submitter.upload(job, an_upload(position, item, f"1.2.{position}"))
    submitter.start(job)


def manifest(folder: Path, job: Job) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((folder / job.job_id / "job.json").read_text()))


def outcomes(submitter: FakeSubmitter) -> list[tuple[str, str]]:
    return [(call.call.value, call.outcome.value) for call in submitter.calls]


# --- jobs -----------------------------------------------------------------------------------------------


def test_a_job_is_stored_with_all_its_values(make: Make, folder: Path | None) -> None:
    """Name, pipeline, priority, metadata and instances in their order can be read back."""
    submitter, job = make(), a_job()
    submit(submitter, job, b"first", b"second")
    fake_job = submitter.jobs[job.job_id]
    assert (job.job_id, job.name, "LUNG", "lung") == (
        fake_job.job_id,
        fake_job.name,
        fake_job.ae_title,
        fake_job.pipeline_id,
    )
    assert (fake_job.priority, fake_job.submitter, fake_job.metadata) == (
        JobPriority.HIGHER,
        "platform",
        {"Source": "LUNG"},
    )
    assert fake_job.started
    assert [(item.sop_instance_uid, item.size_bytes) for item in fake_job.instances] == [("1.2.0", 5), ("1.2.1", 6)]
    expected = [b"first", b"second"] if folder is None else [None, None]
    assert expected == [item.data for item in fake_job.instances]


def test_a_job_is_pending_then_running_then_stopped(make: Make) -> None:
    """Create, start and cancel set the state; a stopped job cannot be started again."""
    submitter, job = make(), a_job()
    submitter.create_job(job)
    assert (submitter.status(job).state, submitter.status(job).finished) == ("pending", False)
    submitter.start(job)
    assert (submitter.status(job).state, submitter.status(job).finished) == ("running", False)
    submitter.cancel(job)
    assert (submitter.status(job).state, submitter.status(job).finished) == ("stopped", True)
    with pytest.raises(Permanent, match="stopped"):
        submitter.start(job)


def test_repeated_calls_change_nothing(make: Make) -> None:
    """A repeated call has the same result and is recorded as unchanged."""
    submitter, job = make(), a_job()
    first = submitter.create_job(job)
    assert isinstance(first, PlatformJob)
    assert first == submitter.create_job(job)
    for _ in range(2):
        submitter.add_metadata(job, {"Source": "LUNG"})
    for _ in range(2):
        submitter.upload(job, an_upload(0, b"x"))
    for _ in range(2):
        submitter.start(job)
    submitter.upload(job, an_upload(0, b"x"))
    for _ in range(2):
        submitter.cancel(job)
    calls = ["create", "add-metadata", "upload", "start"]
    repeated = [(call, outcome) for call in calls for outcome in ("done", "unchanged")]
    end = [("upload", "unchanged"), ("cancel", "done"), ("cancel", "unchanged")]
    assert [*repeated, *end] == outcomes(submitter)
    fake_job = submitter.jobs[job.job_id]
    assert (fake_job.starts, len(fake_job.instances), fake_job.state) == (1, 1, FakeState.STOPPED)


def test_an_unknown_job_is_refused(make: Make) -> None:
    """Steps of a job that was never created are permanent errors, except cancelling it."""
    submitter, job = make(), a_job()
    steps: list[Callable[[], object]] = [
        lambda: submitter.add_metadata(job, {}),
        lambda: submitter.upload(job, an_upload(0, b"x")),
        lambda: submitter.start(job),
        lambda: submitter.status(job),
    ]
    for step in steps:
        with pytest.raises(Permanent, match="does not exist on the fake platform"):
            step()
    submitter.cancel(job)
    assert submitter.jobs == {}


def test_a_running_job_accepts_no_instances(make: Make) -> None:
    """An instance that arrives after the start would be missing from the result."""
    submitter, job = make(), a_job()
    submit(submitter, job, b"x")
    with pytest.raises(Permanent, match="accepts no more"):
        submitter.upload(job, an_upload(1, b"late"))


def test_an_interrupted_upload_stores_no_instance(make: Make, folder: Path | None) -> None:
    """The repeated upload stores the complete instance."""

    class Breaking(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise StoredObjectMissing("gone")

    submitter, job, whole = make(), a_job(), an_upload(0, b"whole")
    submitter.create_job(job)
    broken = Upload(instance=whole.instance, position=0, size_bytes=5, open=lambda: Breaking(b"half"))
    with pytest.raises(StoredObjectMissing):
        submitter.upload(job, broken)
    assert submitter.jobs[job.job_id].instances == ()
    assert folder is None or list((folder / job.job_id / "dcm").iterdir()) == []
    submitter.upload(job, whole)
    assert [item.size_bytes for item in submitter.jobs[job.job_id].instances] == [5]


def test_many_threads_start_a_job_once(make: Make) -> None:
    """Of many concurrent starts, only one has an effect."""
    submitter, job = make(), a_job()
    submitter.create_job(job)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            threads.submit(submitter.start, job)
    assert submitter.jobs[job.job_id].starts == 1
    assert outcomes(submitter).count(("start", "done")) == 1


# --- faults -----------------------------------------------------------------------------------------------------------


def attempts(submitter: FakeSubmitter, job: Job, count: int) -> list[str]:
    """Return the outcomes of `count` attempts to create `job`."""
    for _ in range(count):
        try:
            submitter.create_job(job)
        except (Retriable, Permanent, RuntimeError):
            continue
    return [call.outcome.value for call in submitter.calls][-count:]


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FakeFaultKind.RETRIABLE, Retriable), (FakeFaultKind.PERMANENT, Permanent), (FakeFaultKind.BUG, RuntimeError)],
)
def test_a_fault_raises_the_error_of_its_kind(make: Make, kind: FakeFaultKind, error: type[Exception]) -> None:
    """The call raises the configured error and has no effect."""
    submitter = make(FakeFault(call=SubmitterCall.CREATE, kind=kind))
    with pytest.raises(error, match="configured to fail create"):
        submitter.create_job(a_job())
    assert submitter.jobs == {}
    assert [FakeOutcome(kind.value)] == [call.outcome for call in submitter.calls]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ([FakeFault(call=SubmitterCall.CREATE, times=2)], ["retriable", "retriable", "done", "unchanged"]),
        ([FakeFault(call=SubmitterCall.CREATE, times=0)], ["retriable"] * 5),
        ([FakeFault(call=SubmitterCall.CREATE, after=2)], ["done", "unchanged", "retriable", "unchanged"]),
        (
            [FakeFault(call=SubmitterCall.CREATE), FakeFault(call=SubmitterCall.CREATE, kind=FakeFaultKind.BUG)],
            ["retriable", "bug", "done"],
        ),
    ],
    ids=["twice", "always", "later", "one-after-the-other"],
)
def test_a_fault_fails_the_configured_number_of_calls(make: Make, faults: list[FakeFault], expected: list[str]) -> None:
    """`after` calls succeed, then `times` fail. A call that fails because of a fault is not counted for the next."""
    assert expected == attempts(make(*faults), a_job(), len(expected))


def test_a_fault_applies_only_to_its_call_and_pipeline(make: Make) -> None:
    """Other calls and jobs of other pipelines succeed."""
    submitter = make(FakeFault(call=SubmitterCall.START, times=0, pipeline="lung"))
    submit(submitter, a_job(1, "liver"), b"x")
    with pytest.raises(Retriable):
        submit(submitter, a_job(2, "lung"), b"x")
    assert [submitter.jobs[a_job(number).job_id].started for number in (1, 2)] == [True, False]


# --- in a folder ------------------------------------------------------------------------------------------------------


def test_the_manifest_is_complete(tmp_path: Path) -> None:
    """`job.json` and the files next to it contain everything that a platform would have received."""
    submitter, job = submitter_in(tmp_path / "p", tmp_path), a_job()
    submit(submitter, job, b"first", b"second")
    content = manifest(tmp_path / "p", job)
    times = {name: datetime.fromisoformat(content.pop(name)) for name in ("createdAt", "startedAt")}
    assert times["createdAt"] <= times["startedAt"]
    expected = {
        "jobId": job.job_id,
        "name": job.name,
        "aeTitle": "LUNG",
        "pipelineId": "lung",
        "priority": "higher",
        "submitter": "platform",
        "metadata": {"Source": "LUNG"},
        "state": "running",
        "starts": 1,
        "succeeded": None,
        "instances": [
            {"file": "00000.dcm", "sopInstanceUid": "1.2.0", "sizeBytes": 5},
            {"file": "00001.dcm", "sopInstanceUid": "1.2.1", "sizeBytes": 6},
        ],
    }
    assert expected == content
    files = sorted((tmp_path / "p" / job.job_id / "dcm").iterdir())
    assert {file.name: file.read_bytes() for file in files} == {"00000.dcm": b"first", "00001.dcm": b"second"}


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    """A new process finds the jobs, instances and calls of the old process; repeated calls change nothing."""
    job = a_job()
    before = submitter_in(tmp_path / "p", tmp_path)
    answer = before.create_job(job)
    before.upload(job, an_upload(0, b"first", "1.2.0"))
    (tmp_path / "p" / job.job_id / "dcm" / "cut-off.part").write_bytes(b"hal")
    with (tmp_path / "p" / "calls.jsonl").open("a") as calls:
        calls.write('{"time": "20')  # as after a kill of the process during the write
    after = submitter_in(tmp_path / "p", tmp_path)
    submit(after, job, b"first", b"second")
    assert answer == after.create_job(job)
    assert before.jobs == after.jobs
    assert len(manifest(tmp_path / "p", job)["instances"]) == 2
    assert len(list((tmp_path / "p" / job.job_id / "dcm").iterdir())) == 2
    assert outcomes(after).count(("create", "done")) == 1
    uploads = [(call.position, call.outcome.value) for call in after.calls if call.call is SubmitterCall.UPLOAD]
    assert uploads == [(0, "done"), (0, "unchanged"), (1, "done")]


def test_a_line_without_its_file_is_ignored(tmp_path: Path) -> None:
    """After a kill between writing the line and renaming the file, the upload is repeated and counts once."""
    submitter, job = submitter_in(tmp_path, tmp_path), a_job()
    submitter.create_job(job)
    line = {"position": 0, "sopInstanceUid": "1.2", "sizeBytes": 3}
    (tmp_path / job.job_id / "uploads.jsonl").write_text(json.dumps(line) + "\n")
    assert submitter.jobs[job.job_id].instances == ()
    submitter.upload(job, an_upload(0, b"whole"))
    assert [item.size_bytes for item in submitter.jobs[job.job_id].instances] == [5]


def test_calls_are_recorded_as_json_lines(tmp_path: Path) -> None:
    """`calls.jsonl` has time, call, job and outcome of each call, and the position of an upload."""
    submitter, job = submitter_in(tmp_path, tmp_path, FakeFault(call=SubmitterCall.UPLOAD)), a_job()
    submitter.create_job(job)
    with pytest.raises(Retriable):
        submitter.upload(job, an_upload(7, b"x"))
    lines = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert all(datetime.fromisoformat(line.pop("time")).tzinfo for line in lines)
    create = {"call": "create", "jobId": job.job_id, "outcome": "done"}
    upload = {"call": "upload", "jobId": job.job_id, "outcome": "retriable", "position": 7}
    assert [create, upload] == lines


def test_values_of_peers_are_not_used_as_paths(tmp_path: Path) -> None:
    """A hostile UID is only a value in the manifest; an invalid job id is refused."""
    submitter, job = submitter_in(tmp_path / "p", tmp_path), a_job()
    submitter.create_job(job)
    submitter.upload(job, an_upload(0, b"x", "../../../evil"))
    submitter.start(job)
    assert manifest(tmp_path / "p", job)["instances"][0]["sopInstanceUid"] == "../../../evil"
    hostile = evolve(job, job_id="../evil")
    with pytest.raises(Permanent, match="32 lower-case hexadecimal"):
        submitter.create_job(hostile)
    with pytest.raises(Permanent, match="does not exist on the fake platform"):
        submitter.upload(hostile, an_upload(0, b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_files_are_accessible_only_to_the_owner(tmp_path: Path) -> None:
    """Instances and metadata are patient data."""
    submitter = submitter_in(tmp_path / "p", tmp_path)
    submit(submitter, a_job(), b"x")
    paths = [tmp_path / "p", *(tmp_path / "p").rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert {0o600} == {mode for path, mode in modes.items() if path.is_file()}
    assert {0o700} == {mode for path, mode in modes.items() if path.is_dir()}


def test_the_submitter_is_registered() -> None:
    """The plugin's hook returns the submitter under the name that the configuration uses."""
    assert FakeSubmitter is {submitter.name: submitter for submitter in dicom_adapter_submitters()}["fake"]
