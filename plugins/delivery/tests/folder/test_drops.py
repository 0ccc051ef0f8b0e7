"""Consumers of the folder see nothing of a job, or all of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from attrs import evolve, frozen

from dicom_adapter import Job, Permanent, Retriable, SubmitterContext
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, JobSteps, make_attachment, make_job, make_upload
from dicom_adapter_delivery import folder_drop, folder_files
from dicom_adapter_delivery.folder_settings import FolderName, FolderSettings
from dicom_adapter_delivery.folder_submitter import KEEP_MARKS_S, FolderSubmitter
from support.full_disk import Disk

DISK_BYTES = 4 * 2**20
INSTANCES = [make_upload(position, f"instance {position}".encode() * 1000) for position in range(5)]


@frozen(kw_only=True)
class DropBox:
    """A target folder, and a factory of submitters for it. All submitters have the same data folder."""

    path: Path
    data_folder: Path

    def connect(self, **settings: Any) -> FolderSubmitter:
        """Return a submitter that is open."""
        context = SubmitterContext(name="drop", data_folder=self.data_folder)
        submitter = FolderSubmitter(FolderSettings(**{"path": self.path, **settings}), context)
        submitter.open()
        return submitter

    def visible(self) -> list[str]:
        """Return the names of folders, as a consumer that ignores hidden names sees them."""
        return sorted(path.name for path in self.path.iterdir() if not path.name.startswith("."))

    def job_folder(self) -> Path:
        """Return the folder of the only job that is visible."""
        [name] = self.visible()
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.job_folder() / "manifest.json").read_bytes())
        return content

    def left_over(self) -> list[Path]:
        """Return what is left of incomplete jobs, in the target folder and in the data folder."""
        return [*(self.path / ".incoming").iterdir(), *self.data_folder.glob("[!d]*")]  # not "delivered"


@pytest.fixture
def drop_box(tmp_path: Path) -> DropBox:
    (tmp_path / "drop").mkdir()
    return DropBox(path=tmp_path / "drop", data_folder=tmp_path / "data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a tmpfs, or skip the test if that is not possible."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        if "tmpfs" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail("no tmpfs can be mounted, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip("no tmpfs can be mounted: it requires root")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def steps() -> JobSteps:
    return JobSteps(make_job(10, "results", name="LUNG-nodules-20261130120000"))


def uploaded(submitter: FolderSubmitter, steps: JobSteps) -> Job:
    """Run all steps before `start`."""
    steps.create(submitter)
    steps.describe(submitter)
    steps.upload(submitter, *INSTANCES)
    return steps.job


# --- complete folders -------------------------------------------------------------------------------------------------


def test_manifest_lists_every_file_with_its_checksum(drop_box: DropBox, steps: JobSteps) -> None:
    """A consumer can check that it has everything, and knows the instances without reading them."""
    steps.all(drop_box.connect(), INSTANCES)
    manifest, folder = drop_box.manifest(), drop_box.job_folder()
    assert (steps.job.job_id, 1, "LUNG", "results") == tuple(
        manifest[key] for key in ("jobId", "run", "aeTitle", "pipelineId")
    )
    assert steps.job.metadata == manifest["metadata"]
    names = [entry["name"] for entry in manifest["files"]]
    assert [*names, "manifest.json"] == sorted(path.name for path in folder.iterdir())
    for entry, upload in zip(manifest["files"], INSTANCES, strict=True):
        content = (folder / entry["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["sizeBytes"], entry["sha256"])
        assert upload.instance.sop_instance_uid == entry["sopInstanceUid"]
    assert [] == drop_box.left_over()


def test_folder_is_named_by_job_and_id(drop_box: DropBox, steps: JobSteps) -> None:
    """The name is for people; the id distinguishes jobs with the same name."""
    steps.all(drop_box.connect(), INSTANCES)
    assert [f"LUNG-nodules-20261130120000-{steps.job.job_id}"] == drop_box.visible()


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", ".hidden", "a\0b", "", "名前", "x" * 500])
def test_name_of_a_job_never_becomes_another_path(drop_box: DropBox, name: str) -> None:
    """Processors choose the names of jobs."""
    steps = JobSteps(make_job(11, "results", name=name))
    steps.all(drop_box.connect(), INSTANCES)
    assert drop_box.visible()[0].endswith(steps.job.job_id)
    assert 2 == len(list(drop_box.path.iterdir())), "only the job's folder and .incoming"


def test_platform_id_never_becomes_another_path(drop_box: DropBox) -> None:
    """A ledger that was damaged must not lead out of the folder."""
    job = make_job(12, "results", platform_job_id="../outside")
    with pytest.raises(Permanent, match="cannot be the name of a folder"):
        drop_box.connect().create_job(job)


def test_permissions_are_as_configured_whatever_the_umask(drop_box: DropBox, steps: JobSteps) -> None:
    """A consumer with another user needs the rights of its group."""
    before = os.umask(0o077)
    try:
        steps.all(drop_box.connect(mode="770"), INSTANCES)
    finally:
        os.umask(before)
    folder = drop_box.job_folder()
    assert 0o770 == folder.stat().st_mode & 0o777
    assert {0o660} == {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert 0o700 == (drop_box.path / ".incoming").stat().st_mode & 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can choose any group")
def test_folders_inherit_the_group(drop_box: DropBox, steps: JobSteps) -> None:
    """`chmod g+s` on the target folder lets the consumer's group read everything (chmod(1))."""
    os.chown(drop_box.path, -1, 4711)
    drop_box.path.chmod(0o2770)
    steps.all(drop_box.connect(mode="750"), INSTANCES)
    folder = drop_box.job_folder()
    assert {4711} == {path.stat().st_gid for path in [folder, *folder.iterdir()]}


def test_files_are_private_by_default(drop_box: DropBox, steps: JobSteps) -> None:
    """Instances are patient data."""
    before = os.umask(0)
    try:
        steps.all(drop_box.connect(), INSTANCES)
    finally:
        os.umask(before)
    folder = drop_box.job_folder()
    assert 0o700 == folder.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["0700", "600", "788", "rwx", "", "7777"])
def test_mode_must_keep_the_rights_of_the_owner(mode: str, tmp_path: Path) -> None:
    """Otherwise the submitter could not write its own files."""
    with pytest.raises(ValueError, match="octal"):
        FolderSettings(path=tmp_path, mode=mode)


# --- watchers ---------------------------------------------------------------------------------------------------------


def test_watcher_never_sees_a_part_of_a_job(drop_box: DropBox) -> None:
    """Whenever a consumer looks, each visible folder has its manifest and all of its files.

    Verified to fail when the files are written in the visible folder.
    """
    seen: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for name in drop_box.visible():
                present = {path.name for path in (drop_box.path / name).iterdir()}
                expected = {"manifest.json", *(f"{number:06}.dcm" for number in range(len(INSTANCES)))}
                if present != expected:
                    seen.append(f"{name}: {sorted(present)}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        submitter = drop_box.connect()
        for number in range(20, 40):
            JobSteps(make_job(number, "results")).all(submitter, INSTANCES)
    finally:
        done.set()
        watcher.join()
    assert [] == seen


# --- crashes ----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("renamed", [False, True], ids=["before-rename", "after-rename"])
def test_start_is_repeated_after_a_crash(
    drop_box: DropBox, steps: JobSteps, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """The crash happens just before or just after the rename: there is one folder, and the repetition succeeds."""
    job = uploaded(drop_box.connect(), steps)

    def crash(temporary: Path, path: Path) -> None:
        if renamed:
            temporary.rename(path)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folder_drop, "publish", crash)
        drop_box.connect().start(job)
    drop_box.connect().start(evolve(job, repeated=True))
    assert len(INSTANCES) == len(drop_box.manifest()["files"])
    assert [] == drop_box.left_over()


@pytest.mark.parametrize("step", ["start", "cancel"])
def test_cancel_after_a_crash_deletes_the_metadata(
    drop_box: DropBox, steps: JobSteps, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The crash happens after the folder was renamed or deleted.

    Verified to fail when `cancel` deletes the metadata only of jobs whose folder is incomplete.
    """
    job = uploaded(drop_box.connect(), steps)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(folder_drop.FolderDrop, "_forget", Mock(side_effect=Killed))
        getattr(drop_box.connect(), step)(job)
    drop_box.connect().cancel(evolve(job, repeated=True))
    assert [] == drop_box.left_over()
    assert (1 if step == "start" else 0) == len(drop_box.visible())


def test_collected_folder_is_not_missed_when_start_is_repeated(drop_box: DropBox, steps: JobSteps) -> None:
    """The consumer moved the folder away before the commit of the ledger: the job is not delivered again.

    Verified to fail without the mark in the data folder: `start` raised Permanent.
    """
    job = uploaded(drop_box.connect(), steps)
    drop_box.connect().start(job)
    drop_box.job_folder().rename(drop_box.path.parent / "collected")
    submitter = drop_box.connect()
    submitter.start(evolve(job, repeated=True))
    assert [] == drop_box.visible()
    assert ("collected", True) == ((status := submitter.status(job)).state, status.finished)


def test_interrupted_upload_is_replaced(drop_box: DropBox, steps: JobSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file of a process that was killed is not delivered."""
    submitter = drop_box.connect()
    steps.create(submitter)
    (drop_box.path / ".incoming" / steps.job.run_id / f".{32 * 'a'}.part").write_bytes(b"half")
    steps.upload(submitter, *INSTANCES)
    submitter.start(steps.job)
    assert len(INSTANCES) + 1 == len(list(drop_box.job_folder().iterdir()))


def test_line_that_a_crash_cut_off_is_ignored(drop_box: DropBox, steps: JobSteps) -> None:
    """Its upload was not recorded in the ledger, and is repeated."""
    submitter = drop_box.connect()
    steps.create(submitter)
    with (drop_box.data_folder / steps.job.run_id / "files.jsonl").open("ab") as lines:
        lines.write(b'{"name": "000000.dcm", "sizeBy')
    steps.upload(submitter, *INSTANCES, repeated=True)
    submitter.start(steps.job)
    assert len(INSTANCES) == len(drop_box.manifest()["files"])


def test_everything_is_synced_before_an_upload_or_start_returns(
    drop_box: DropBox, steps: JobSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger never records an upload that a power loss could undo: its file, its name and its line are synced."""
    synced: list[str] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        sync(descriptor)

    submitter = drop_box.connect()
    monkeypatch.setattr(folder_files.os, "fsync", note)
    steps.create(submitter)
    assert ["data", steps.job.run_id, "drop", ".incoming"] == synced
    synced.clear()
    steps.upload(submitter, INSTANCES[0])
    assert steps.job.run_id == synced[1], "the folder, after the file"
    assert (True, "files.jsonl") == (synced[0].endswith(".part"), synced[2])
    synced.clear()
    submitter.start(steps.job)
    assert [".manifest.json.part", steps.job.run_id, "delivered", "drop", ".incoming"] == synced


# --- attachments ------------------------------------------------------------------------------------------------------


def test_attachments_are_in_the_drop_and_in_its_manifest(drop_box: DropBox, steps: JobSteps) -> None:
    """They appear together with the instances, in the same rename."""
    submitter = drop_box.connect()
    steps.create(submitter)
    steps.attach(submitter, make_attachment(0, "report.json", b"{}"))
    steps.upload(submitter, INSTANCES[0])
    assert [] == drop_box.visible()
    submitter.start(steps.job)
    manifest = drop_box.manifest()
    assert ["000000.dcm"] == [entry["name"] for entry in manifest["files"]]
    assert [
        {
            "name": "report.json",
            "outputName": f"{PATIENT_ID}/report.json",
            "sizeBytes": 2,
            "sha256": hashlib.sha256(b"{}").hexdigest(),
        }
    ] == manifest["attachments"]
    assert ["000000.dcm", "manifest.json", "report.json"] == sorted(p.name for p in drop_box.job_folder().iterdir())


def test_attachment_that_has_changed_faults_the_job_and_is_not_named(drop_box: DropBox, steps: JobSteps) -> None:
    """Its name may have patient data."""
    submitter = drop_box.connect()
    steps.create(submitter)
    steps.attach(submitter, make_attachment(0, f"{PATIENT_ID}.json", b"{}"))
    next((drop_box.path / ".incoming").rglob("*.json")).write_bytes(b"[{}]")
    with pytest.raises(Permanent, match=r"files in .* were changed \(1, such as an attachment\)") as raised:
        submitter.start(steps.job)
    assert PATIENT_ID not in str(raised.value)
    assert [] == drop_box.visible()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", ".hidden", "manifest.json", "000000.dcm", "a b", ""])
def test_names_that_the_core_never_chooses_are_refused(drop_box: DropBox, steps: JobSteps, name: str) -> None:
    submitter = drop_box.connect()
    steps.create(submitter)
    with pytest.raises(Permanent, match="upload of attachment 1: its file name is not allowed here"):
        steps.attach(submitter, make_attachment(0, name, b"{}"))


def test_attachments_are_declined_if_configured(drop_box: DropBox) -> None:
    assert drop_box.connect().takes_attachments
    assert not drop_box.connect(attachments=False).takes_attachments


# --- refused and missing ----------------------------------------------------------------------------------------------


def test_file_that_disappeared_faults_the_job(drop_box: DropBox, steps: JobSteps) -> None:
    """A job is never delivered without one of its instances."""
    job = uploaded(drop_box.connect(), steps)
    next((drop_box.path / ".incoming").rglob("000003.dcm")).unlink()
    with pytest.raises(Permanent, match=r"files in .* were changed \(1, such as 000003\.dcm\)"):
        drop_box.connect().start(job)
    assert [] == drop_box.visible()


def test_stored_file_of_wrong_length_faults_the_job(drop_box: DropBox, steps: JobSteps) -> None:
    """The stored object has changed."""
    submitter = drop_box.connect()
    steps.create(submitter)
    with pytest.raises(Permanent, match="has 9 bytes where 10 were recorded"):
        steps.upload(submitter, evolve(make_upload(0, b"too short"), size_bytes=10))


def test_missing_file_system_is_retried(drop_box: DropBox, steps: JobSteps, tmp_path: Path) -> None:
    """An empty mount point looks like a new folder, but the folder of incomplete jobs is missing."""
    job = uploaded(drop_box.connect(), steps)
    drop_box.path.rename(tmp_path / "unmounted")
    with pytest.raises(Retriable, match="mounted"):
        drop_box.connect().start(job)
    drop_box.path.mkdir()
    with pytest.raises(Retriable, match="mounted"):
        drop_box.connect().start(job)
    drop_box.path.rmdir()
    (tmp_path / "unmounted").rename(drop_box.path)
    drop_box.connect().start(job)
    assert 1 == len(drop_box.visible())


def test_incoming_must_not_be_a_link(drop_box: DropBox, steps: JobSteps, tmp_path: Path) -> None:
    """Another user who may write the folder must not redirect the files."""
    (tmp_path / "elsewhere").mkdir()
    (drop_box.path / ".incoming").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Retriable, match="not a folder"):
        steps.create(drop_box.connect())
    assert [] == list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_each_error_of_the_file_system_is_retried_and_named(
    drop_box: DropBox, steps: JobSteps, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An operator can fix all of them while the job waits."""
    submitter = drop_box.connect()
    steps.create(submitter)

    def fail(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(folder_files.os, "fsync", fail)
    with pytest.raises(Retriable) as raised:
        steps.upload(submitter, INSTANCES[0])
    assert f"the folder {drop_box.path} cannot be used ({os.strerror(code)})" in str(raised.value)


def test_full_disk_is_retried_and_leaves_nothing(small_disk: Disk, tmp_path: Path, steps: JobSteps) -> None:
    """The job continues when there is free space again."""
    drop_box = DropBox(path=small_disk.path, data_folder=tmp_path / "data")
    submitter = drop_box.connect()
    steps.create(submitter)
    large = make_upload(0, 2**20 * b"x")
    small_disk.fill(leave=100_000)
    with pytest.raises(Retriable, match=r"No space left on device\); free space there"):
        steps.upload(submitter, large)
    assert [] == list((drop_box.path / ".incoming" / steps.job.run_id).iterdir())
    small_disk.clear()
    steps.upload(submitter, large)
    submitter.start(steps.job)
    assert 2**20 == drop_box.manifest()["files"][0]["sizeBytes"]


# --- operators --------------------------------------------------------------------------------------------------------


def test_check_writes_and_deletes_a_file(drop_box: DropBox) -> None:
    """The answer has the free space."""
    answer = drop_box.connect().check_connection()
    assert "can be written; " in answer
    assert "GB are free" in answer
    assert [] == list(drop_box.path.iterdir())


def test_check_of_a_missing_folder_fails(tmp_path: Path) -> None:
    """The folder is not created: it may be the mount point of a file system."""
    submitter = DropBox(path=tmp_path / "missing", data_folder=tmp_path / "data").connect()
    with pytest.raises(Permanent, match="must be a folder; create it"):
        submitter.check_connection()
    assert not (tmp_path / "missing").exists()


def test_marks_are_deleted_after_a_month(drop_box: DropBox, steps: JobSteps) -> None:
    """The data folder does not grow without end."""
    steps.all(drop_box.connect(folder_name=FolderName.ID), INSTANCES)
    mark = drop_box.data_folder / "delivered" / steps.job.run_id
    drop_box.connect()
    assert mark.exists()
    old = mark.stat().st_mtime - KEEP_MARKS_S - 60
    os.utime(mark, (old, old))
    drop_box.connect()
    assert not mark.exists()


def test_no_name_contains_patient_data(drop_box: DropBox, steps: JobSteps) -> None:
    """Names on the disk consist of the job's name, its id, and numbers."""
    steps.all(drop_box.connect(), INSTANCES)
    names = [path.name for path in drop_box.path.rglob("*")]
    assert not [name for name in names if "NOBODY" in name or "1.2.3" in name]


def test_the_data_folder_is_not_created_again_by_a_job(drop_box: DropBox) -> None:
    """When the disk of the data folder is not mounted, nothing is written in its place, and the job is retried.

    Verified to fail when a job creates the parents of its folder.
    """
    submitter = drop_box.connect()
    drop_box.data_folder.rename(drop_box.data_folder.with_name("unmounted"))
    with pytest.raises(Retriable):
        submitter.create_job(make_job(1, "pipeline-1"))
    assert not drop_box.data_folder.exists()
    drop_box.data_folder.with_name("unmounted").rename(drop_box.data_folder)
    submitter.create_job(make_job(1, "pipeline-1"))
