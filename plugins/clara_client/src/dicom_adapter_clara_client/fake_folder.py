"""Records of the fake platform in a folder: they survive restarts, and no instance is kept in memory.

    <folder>/calls.jsonl                    one line for each call, in the order in which they ended
    <folder>/<run id>/job.json              the job; after its start, with the list of its instances
    <folder>/<run id>/uploads.jsonl         one line for each upload; `job.json` is not rewritten for each upload
    <folder>/<run id>/dcm/<position>.dcm    the instances
    <folder>/<run id>/output/…              the outputs of a job that has succeeded

`job.json` and the instances are written under temporary names and then renamed. There is no fsync: the fake platform
must survive `kill -9`, but not a power loss.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.fake_records import (
    FakeCall,
    FakeInstance,
    FakeJob,
    FakeOutcome,
    FakeRecords,
    FakeState,
    FakeUpload,
    SubmitterCall,
    by_position,
)

PIECE_BYTES = 1 << 18  # memory of one upload
FOLDER_MODE = 0o700  # instances are patient data
FILE_MODE = 0o600


class FolderRecords(FakeRecords):
    """Records in files, for acceptance tests and demonstrations."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for pattern in ("*/*.part", "*/dcm/*.part"):  # not in output/, where files may have any name
            for incomplete in self._folder.glob(pattern):
                incomplete.unlink(missing_ok=True)

    def state(self, job_id: str) -> FakeState | None:
        try:
            return FakeState(self._manifest(job_id)["state"])
        except FileNotFoundError:
            return None

    def has(self, job_id: str, position: int) -> bool:
        return self._instance(job_id, position).exists()

    def receive_upload(self, job_id: str, source: BinaryIO) -> FakeUpload:
        path = self._folder / job_id / "dcm" / f"{uuid4().hex}.part"
        try:
            with _create(path) as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)
                return FakeUpload(size_bytes=target.tell(), path=path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def add(self, job_id: str, position: int, sop_instance_uid: str, upload: FakeUpload) -> None:
        assert upload.path is not None
        # Append the line before the rename: a line without its file is ignored, a file without its line would be lost.
        line = {"position": position, "sopInstanceUid": sop_instance_uid, "sizeBytes": upload.size_bytes}
        _append(self._folder / job_id / "uploads.jsonl", line)
        upload.path.replace(self._instance(job_id, position))

    def open_first(self, job_id: str) -> BinaryIO | None:
        path = self._instance(job_id, 0)
        return path.open("rb") if path.exists() else None

    def add_output(self, job_id: str, name: str, source: BinaryIO) -> None:
        path = self._folder / job_id / "output" / name
        _make(path.parent)
        temporary = self._folder / job_id / f"{uuid4().hex}.output.part"
        with _create(temporary) as target:
            shutil.copyfileobj(source, target, PIECE_BYTES)
        temporary.replace(path)

    def outputs(self, job_id: str) -> dict[str, Callable[[], BinaryIO]]:
        root = self._folder / job_id / "output"
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return {path.relative_to(root).as_posix(): _opener(path) for path in paths}

    def delete_outputs(self, job_id: str) -> None:
        shutil.rmtree(self._folder / job_id / "output", ignore_errors=True)

    def save(self, job: FakeJob) -> None:
        folder = self._folder / job.job_id
        _make(folder / "dcm")
        temporary = folder / f"{uuid4().hex}.json.part"
        with _create(temporary) as target:
            target.write(json.dumps(_manifest_of(job), indent=2).encode())
        temporary.replace(folder / "job.json")

    def job(self, job_id: str) -> FakeJob:
        return _job_of(self._manifest(job_id), self._instances(job_id))

    def jobs(self) -> dict[str, FakeJob]:
        return {path.parent.name: self.job(path.parent.name) for path in self._folder.glob("*/job.json")}

    def log(self, call: FakeCall) -> None:
        line = {"time": call.time.isoformat(), "call": call.call.value, "jobId": call.job_id}
        upload = {} if call.position is None else {"position": call.position}
        _append(self._folder / "calls.jsonl", {**line, "outcome": call.outcome.value, **upload})

    def calls(self) -> list[FakeCall]:
        return [_call_of(line) for line in _lines(self._folder / "calls.jsonl")]

    def _manifest(self, job_id: str) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self._folder / job_id / "job.json").read_bytes())
        return manifest

    def _instance(self, job_id: str, position: int) -> Path:
        return self._folder / job_id / "dcm" / _file_name(position)

    def _instances(self, job_id: str) -> tuple[FakeInstance, ...]:
        lines = _lines(self._folder / job_id / "uploads.jsonl")
        return by_position(_instance_of(line) for line in lines if self.has(job_id, line["position"]))


def _file_name(position: int) -> str:
    """Return the name of an instance's file. A UID comes from a peer, so it is not part of the path."""
    return f"{position:05}.dcm"


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _make(folder: Path) -> None:
    """Create a folder and its parents, accessible only to the owner."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line in one write, on a new line even if a killed process wrote the last line incompletely."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        size = os.fstat(descriptor).st_size
        unfinished = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * unfinished + json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read the complete lines of a file; an unfinished line belongs to a call that never returned."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _manifest_of(job: FakeJob) -> dict[str, Any]:
    return {
        "jobId": job.job_id,
        "name": job.name,
        "aeTitle": job.ae_title,
        "pipelineId": job.pipeline_id,
        "priority": job.priority.value,
        "submitter": job.submitter,
        "metadata": dict(job.metadata),
        "state": job.state.value,
        "createdAt": job.created_at.isoformat(),
        "startedAt": job.started_at and job.started_at.isoformat(),
        "starts": job.starts,
        "succeeded": job.succeeded,
        "instances": [
            {"file": _file_name(item.position), "sopInstanceUid": item.sop_instance_uid, "sizeBytes": item.size_bytes}
            for item in job.instances
        ],
    }


def _job_of(manifest: Mapping[str, Any], instances: tuple[FakeInstance, ...]) -> FakeJob:
    return FakeJob(
        job_id=manifest["jobId"],
        name=manifest["name"],
        ae_title=manifest["aeTitle"],
        pipeline_id=manifest["pipelineId"],
        priority=JobPriority(manifest["priority"]),
        submitter=manifest["submitter"],
        metadata=manifest["metadata"],
        state=FakeState(manifest["state"]),
        created_at=datetime.fromisoformat(manifest["createdAt"]),
        started_at=manifest["startedAt"] and datetime.fromisoformat(manifest["startedAt"]),
        starts=manifest["starts"],
        succeeded=manifest.get("succeeded"),
        instances=instances,
    )


def _instance_of(line: Mapping[str, Any]) -> FakeInstance:
    return FakeInstance(
        position=line["position"], sop_instance_uid=line["sopInstanceUid"], size_bytes=line["sizeBytes"]
    )


def _call_of(line: Mapping[str, Any]) -> FakeCall:
    return FakeCall(
        time=datetime.fromisoformat(line["time"]),
        call=SubmitterCall(line["call"]),
        job_id=line["jobId"],
        outcome=FakeOutcome(line["outcome"]),
        position=line.get("position"),
    )
