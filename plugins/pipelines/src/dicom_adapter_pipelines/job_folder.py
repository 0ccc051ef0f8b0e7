"""`JobFolder`: the folder of one run of a job.

    <folder>/jobs/<run id>/
      job.json       the job and its metadata, for the command
      uploads/       until the start: the instances, named <position>_<Series Instance UID>_<SOP Instance UID>.dcm
      input/         from the start: the instances and manifests as the contract wants them, read-only
      output/        the command writes its outputs here
      work/          current folder of the command, and its folder for temporary files
      launch.json    the process to run, with its environment: written at the start
      attempts.json  how often the process was started
      lock           held by the runner while it lives
      cancel         exists if the job was cancelled
      log            what the command printed, see `bounded_log.py`
      outcome.json   how the run ended
      waiting        exists while the run waits for a GPU
      reported       exists if the adapter has read that the run has failed

A file or folder has its name only if it is complete, so every step may be repeated after a crash or a power loss.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter import Job, Permanent, Upload
from dicom_adapter_pipelines.bounded_log import LogReader
from dicom_adapter_pipelines.durable_files import new_file, remove_tree, sync_folder, write_file
from dicom_adapter_pipelines.launch import Launch, load_launch
from dicom_adapter_pipelines.locks import is_locked
from dicom_adapter_pipelines.outcome import Outcome, load_outcome
from dicom_adapter_pipelines.users import grant

RUN_ID = re.compile(r"[0-9a-f]{32}(-[0-9]{1,6})?")  # form of the core's run ids, safe as a name of a folder
UID = re.compile(r"[0-9.]{1,64}")
UPLOAD = re.compile(r"([0-9]+)_([0-9.]+)_([0-9.]+)\.dcm")
POLL_S = 0.02  # pause between two looks at the lock
PIECE_BYTES = 1 << 18  # memory of one upload
FOLDER_MODE = 0o700  # instances are patient data
# Readable for all users, but only the adapter's user and the command's can enter the job folder.
READ_ONLY_FILE, READ_ONLY_FOLDER = 0o444, 0o555


@frozen(kw_only=True)
class InputFile:
    """One uploaded instance of a job."""

    position: int  # 0-based position in the job
    series_instance_uid: str  # a replacement, if the received one is not a UID
    sop_instance_uid: str  # a replacement, if the received one is not a UID
    path: Path


# Fills an empty folder with the instances and manifests of a job; `contracts.arranger` returns it.
Arrange = Callable[[Path, Sequence[InputFile]], None]


class JobFolder:
    """The folder of one run. Creating the object reads and writes nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.input, self.output, self.work = path / "input", path / "output", path / "work"
        self.uploads = path / "uploads"
        self.manifest = path / "job.json"
        self.launch_file, self.outcome_file = path / "launch.json", path / "outcome.json"
        self.attempts_file = path / "attempts.json"
        self.lock_file, self.cancel_file = path / "lock", path / "cancel"
        self.log_file = path / "log"
        self.waiting_file, self.reported_file = path / "waiting", path / "reported"

    # --- the steps of a job

    def create(self, job: Job) -> None:
        """Create the folder; a repetition keeps its contents."""
        self.path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self.uploads.mkdir(mode=FOLDER_MODE, exist_ok=True)
        if not self.manifest.exists():
            self.describe(job, job.metadata)
        sync_folder(self.path.parent)

    def describe(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Write the job and all of its metadata."""
        values: dict[str, Any] = {
            "job": job.job_id,
            "run": job.run,
            "name": job.name,
            "ae-title": job.ae_title,
            "pipeline": job.pipeline_id,
            "priority": job.priority.value,
            "created-at": job.created_at.isoformat(),
            "instances": job.instance_count,
            "metadata": dict(metadata),
        }
        write_file(self.manifest, json.dumps(values, indent=1, ensure_ascii=False).encode("utf-8", "replace"))

    def add(self, upload: Upload) -> None:
        """Store one instance, unless it is stored already."""
        series, instance = (safe_uid(upload.instance.series_instance_uid), safe_uid(upload.instance.sop_instance_uid))
        target = self.uploads / f"{upload.position:05}_{series}_{instance}.dcm"
        if self.input.exists() or target.exists():
            return
        with upload.open() as source, new_file(target) as file:
            shutil.copyfileobj(source, file, PIECE_BYTES)

    def prepare(self, arrange: Arrange, user: str = "") -> None:
        """Make input/ from the uploaded instances, and the folders for the command, which `user` can use.

        May be repeated until the command was started. Raises Permanent.
        """
        if not self.input.exists():
            part = self.path / "input.part"
            remove_tree(part)
            part.mkdir(mode=FOLDER_MODE)
            arrange(part, self.uploaded())
            _make_read_only(part)
            part.replace(self.input)
            sync_folder(self.path)
        remove_tree(self.uploads)
        self.empty_writable_folders(user)

    def empty_writable_folders(self, user: str) -> None:
        """Make new folders for output and temporary files."""
        for folder in (self.output, self.work):
            remove_tree(folder)
            folder.mkdir(mode=FOLDER_MODE)
        grant(self.path, user)

    def uploaded(self) -> list[InputFile]:
        """Return the uploaded instances in the order of the job; none after `prepare`."""
        files = []
        for path in self.uploads.iterdir() if self.uploads.exists() else ():
            found = UPLOAD.fullmatch(path.name)
            if found:
                position, series, instance = found.groups()
                files.append(
                    InputFile(position=int(position), series_instance_uid=series, sop_instance_uid=instance, path=path)
                )
        return sorted(files, key=lambda file: file.position)

    def mark_cancelled(self) -> None:
        """Record that the job must not run; a runner ends the command when it sees the file."""
        if not self.cancel_file.exists():
            write_file(self.cancel_file, b"")

    def mark_reported(self) -> None:
        """Record that the adapter has read the outcome of a failed run, which it runs again only in another folder.

        If the disk is full, there is no mark, and the folder is kept until the job is retried or cancelled.
        """
        with contextlib.suppress(OSError):
            if not self.reported_file.exists():
                write_file(self.reported_file, b"")

    # --- the state of a job

    @property
    def exists(self) -> bool:
        """True after `create`, also after `clean_up`; raises OSError if that cannot be found out."""
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        return True

    @property
    def is_running(self) -> bool:
        """True while a runner lives."""
        return is_locked(self.lock_file)

    def wait_for_runner(self, seconds: float) -> bool:
        """Wait until no runner lives; return False if one still lives after this time."""
        end = time.monotonic() + seconds
        while self.is_running:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True

    @property
    def is_cancelled(self) -> bool:
        return self.cancel_file.exists()

    def outcome(self) -> Outcome | None:
        """Return how the run ended; None if it has not ended."""
        return load_outcome(self.outcome_file)

    def launch(self) -> Launch | None:
        """Return the process of the run; None before the start, and after `clean_up`."""
        return load_launch(self.launch_file)

    def open_log(self) -> LogReader | None:
        """Open the log, also while the command runs; None if there is none."""
        return LogReader.open(self.log_file)

    # --- the end

    def clean_up(self) -> None:
        """Delete everything except the outcome and the log. May be repeated. No runner may live."""
        for tree in (self.uploads, self.path / "input.part", self.input, self.output, self.work):
            remove_tree(tree)
        for file in (self.launch_file, self.manifest):
            file.unlink(missing_ok=True)

    @property
    def is_clean(self) -> bool:
        """True after `clean_up`: only the log and the outcome are left."""
        return not any(os.path.lexists(path) for path in (self.uploads, self.input, self.output, self.manifest))


class JobFolders:
    """All job folders of one submitter."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jobs"

    def create(self) -> None:
        """Create the folder that contains all job folders, if it is missing. Raises OSError."""
        if not self.path.exists():
            self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            sync_folder(self.path.parent)

    def of(self, run_id: str) -> JobFolder:
        """Return the folder of a run, which may not exist. Raises Permanent for an id that is not the adapter's."""
        if RUN_ID.fullmatch(run_id) is None:
            raise Permanent("the run id of the job must be 32 lower-case hexadecimal digits, and -<run> after a retry")
        return JobFolder(self.path / run_id)

    def all(self) -> list[JobFolder]:
        """Return the folders of all runs."""
        try:
            return [JobFolder(entry) for entry in sorted(self.path.iterdir()) if RUN_ID.fullmatch(entry.name)]
        except FileNotFoundError:
            return []

    def unfinished(self) -> list[JobFolder]:
        """Return the folders of runs that were started and have no outcome."""
        return [folder for folder in self.all() if folder.launch_file.exists() and folder.outcome() is None]

    def sweep(self, older_than: float) -> None:
        """Delete the folders that the adapter has not needed since `older_than`, in seconds since the epoch.

        These are the cleaned-up folders, and those of failed runs of which the adapter knows. All other folders are
        needed, however old they are: the adapter will collect their results, or read their outcome.
        """
        for folder in self.all():
            is_unneeded = folder.is_clean or folder.reported_file.exists()
            # The clean-up, or the creation of the marker, was the last change of the folder's entries.
            if is_unneeded and folder.path.stat().st_mtime < older_than and not folder.is_running:
                remove_tree(folder.path)


def safe_uid(uid: str) -> str:
    """Return the UID if it is valid, so safe as part of a file name; otherwise a UID that is made from its digest."""
    if UID.fullmatch(uid) and uid.strip("."):
        return uid
    digest = hashlib.sha256(uid.encode("utf-8", "surrogatepass")).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def _make_read_only(folder: Path) -> None:
    for parent, _folders, files in os.walk(folder):
        for name in files:
            (Path(parent) / name).chmod(READ_ONLY_FILE)
    for parent, _folders, _files in os.walk(folder, topdown=False):
        sync_folder(Path(parent))
        Path(parent).chmod(READ_ONLY_FOLDER)
