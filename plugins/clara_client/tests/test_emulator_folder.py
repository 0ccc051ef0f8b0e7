"""The emulated platform in a folder: its state survives a restart."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJobState, ClaraJobStatus, PipelineFile, RunPlan

LUNG = 32 * "a"
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    """Jobs, payloads with their files, and pipelines survive the process, in the same order."""
    before = EmulatedPlatform(folder=tmp_path, pipelines="any")
    pipeline = before.pipelines.create([PipelineFile(path="p.yaml", content="name: lung\n")], {"k": "v"})
    reusable = before.payloads.create({"a": "1"})
    before.payloads.upload(reusable.payload_id, "atlas", [b"x"])
    first = before.create_job(LUNG, "first", metadata={"Source": "AE"}, input_payloads=[reusable.payload_id])
    before.create_job(pipeline.pipeline_id, "second")
    before.payloads.upload(first.payload_id, "dcm/ä.dcm", [b"abc"])
    before.jobs.start(first.job_id, {"threshold": "3"})
    after = EmulatedPlatform(folder=tmp_path, pipelines="any")
    assert before.jobs.list() == after.jobs.list()
    assert before.pipelines.list() == after.pipelines.list() == (pipeline,)
    for payload_id in (reusable.payload_id, first.payload_id):
        assert before.payloads.details(payload_id) == after.payloads.details(payload_id)


def test_running_jobs_end_at_their_time_across_a_restart(tmp_path: Path) -> None:
    """The time and the result of a job's end are saved at its start."""
    run = RunPlan(seconds=60, status=ClaraJobStatus.FAULTED)
    job = EmulatedPlatform(folder=tmp_path, pipelines="any", run=run, clock=lambda: NOON).create_job(LUNG, "name")
    EmulatedPlatform(folder=tmp_path, pipelines="any", run=run, clock=lambda: NOON).jobs.start(job.job_id)
    later = EmulatedPlatform(folder=tmp_path, clock=lambda: NOON + timedelta(hours=1)).jobs.status(job.job_id)
    assert (ClaraJobState.STOPPED, ClaraJobStatus.FAULTED, NOON + timedelta(seconds=60)) == (
        later.state,
        later.status,
        later.stopped,
    )


def test_payload_files_are_stored_under_their_names(tmp_path: Path) -> None:
    """The owner can inspect uploaded files; other users have no access."""
    platform = EmulatedPlatform(folder=tmp_path / "new" / "platform", pipelines="any")
    job = platform.create_job(LUNG, "name")
    platform.payloads.upload(job.payload_id, "dcm/1.dcm", [b"abc"], mode=0o777)
    path = tmp_path / "new" / "platform" / "payloads" / job.payload_id / "input" / "dcm" / "1.dcm"
    assert b"abc" == path.read_bytes()
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, tmp_path / "new" / "platform")]
    assert [0o600, 0o700, 0o700] == modes


def test_an_unfinished_upload_is_on_disk_and_deleted_at_a_restart(tmp_path: Path) -> None:
    """Large uploads are not kept in memory; an upload interrupted by a kill leaves no file."""
    piece, pieces = bytes(1 << 16), 64
    platform = EmulatedPlatform(folder=tmp_path, pipelines="any")
    job = platform.create_job(LUNG, "name")
    incoming = platform.payloads.receive(job.payload_id, "1.dcm")
    for _ in range(pieces):
        incoming.write(piece)
    on_disk = sum(path.stat().st_size for path in (tmp_path / "incoming").iterdir())
    assert on_disk >= (pieces - 1) * len(piece)  # at most the last piece is in the write buffer
    again = EmulatedPlatform(folder=tmp_path, pipelines="any")
    assert ([], ()) == (list((tmp_path / "incoming").iterdir()), again.payloads.details(job.payload_id).files)
    incoming.sink.discard()


def test_a_payload_whose_job_was_not_saved_is_deleted(tmp_path: Path) -> None:
    """After a kill between saving the payload and saving the job, neither exists."""
    platform = EmulatedPlatform(folder=tmp_path, pipelines="any")
    job = platform.create_job(LUNG, "name")
    (tmp_path / "jobs" / f"{job.job_id}.json").unlink()
    again = EmulatedPlatform(folder=tmp_path, pipelines="any")
    assert ((), []) == (again.jobs.list(), list((tmp_path / "payloads").iterdir()))


def test_removed_objects_do_not_exist_after_a_restart(tmp_path: Path) -> None:
    """Removed files, payloads and pipelines are also removed from the folder."""
    platform = EmulatedPlatform(folder=tmp_path)
    pipeline = platform.pipelines.create([PipelineFile(path="p.yaml", content="name: lung\n")])
    kept, deleted = platform.payloads.create(), platform.payloads.create()
    platform.payloads.upload(kept.payload_id, "a/1", [b"x"])
    platform.payloads.remove(kept.payload_id, "a/1")
    platform.payloads.delete(deleted.payload_id)
    platform.pipelines.remove(pipeline.pipeline_id)
    again = EmulatedPlatform(folder=tmp_path)
    assert ((), ()) == (again.pipelines.list(), again.payloads.details(kept.payload_id).files)
    assert [kept.payload_id] == [path.name for path in (tmp_path / "payloads").iterdir()]
    assert [] == list((tmp_path / "payloads" / kept.payload_id).iterdir())
