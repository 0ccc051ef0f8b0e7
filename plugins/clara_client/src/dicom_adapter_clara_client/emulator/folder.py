"""Store of the emulated platform in a folder. Everything except the modes of uploaded files survives a restart.

    <folder>/jobs/<id>.json             one job
    <folder>/payload-records/<id>.json  one payload without its files
    <folder>/payloads/<id>/input/…      the files of one payload, under the names of the uploads
    <folder>/pipelines/<id>.json        one pipeline
    <folder>/keys/<digest>.json         one idempotency key with its response; the name is a digest of the key
    <folder>/incoming/<id>              a file that is being written

Files are renamed when they are complete. There is no fsync: the emulator must survive `kill -9`, but not a power loss.
Only one process at a time may use the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from attrs import evolve
from cattrs.preconf.json import make_converter

from dicom_adapter_clara_client.emulator.store import PlatformStore, SavedPlatform, Sink
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPayload, ClaraPipeline, KeyedAnswer, PayloadFile

FOLDER_MODE = 0o700  # payloads are patient data
FILE_MODE = 0o600

Record = TypeVar("Record", ClaraJob, ClaraPayload, ClaraPipeline, KeyedAnswer)

_CONVERTER = make_converter()


class FolderStore(PlatformStore):
    """Store in files. No file of a payload is completely in memory at any time."""

    def __init__(self, folder: Path) -> None:
        self._jobs = folder / "jobs"
        self._records = folder / "payload-records"
        self._payloads = folder / "payloads"
        self._pipelines = folder / "pipelines"
        self._keys = folder / "keys"
        self._incoming = folder / "incoming"

    def load(self) -> SavedPlatform:
        """Read the saved state, and delete incomplete files of a killed process."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        for folder in (self._jobs, self._records, self._payloads, self._pipelines, self._keys, self._incoming):
            _make(folder)
        jobs = sorted(_read_all(self._jobs, ClaraJob), key=lambda job: job.created)
        payloads = list(self._saved_payloads({job.job_id for job in jobs}))
        answers = sorted(_read_all(self._keys, KeyedAnswer), key=lambda answer: answer.since)
        return SavedPlatform(
            jobs=tuple(jobs),
            payloads=tuple(payloads),
            pipelines=tuple(self._saved_pipelines()),
            answers=tuple(answers),
        )

    def save_job(self, job: ClaraJob) -> None:
        self._write(self._jobs / f"{job.job_id}.json", job)

    def save_payload(self, payload: ClaraPayload) -> None:
        _make(self._payloads / payload.payload_id)
        self._write(self._records / f"{payload.payload_id}.json", payload)

    def delete_payload(self, payload_id: str) -> None:
        # Delete the record last: after a crash in between, an empty payload remains, not files without a record.
        shutil.rmtree(self._payloads / payload_id)
        (self._records / f"{payload_id}.json").unlink()

    def save_pipeline(self, pipeline: ClaraPipeline) -> None:
        self._write(self._pipelines / f"{pipeline.pipeline_id}.json", pipeline)

    def delete_pipeline(self, pipeline_id: str) -> None:
        (self._pipelines / f"{pipeline_id}.json").unlink(missing_ok=True)

    def save_answer(self, answer: KeyedAnswer) -> None:
        self._write(self._key_path(answer.key), answer)

    def delete_answer(self, key: str) -> None:
        self._key_path(key).unlink(missing_ok=True)

    def receive(self) -> Sink:
        return _Temporary(self._incoming / uuid4().hex, self._payloads)

    def open_file(self, payload_id: str, name: str) -> BinaryIO:
        return (self._payloads / payload_id / name).open("rb")

    def copy_file(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        path = self._payloads.joinpath(*target)
        _make(path.parent)
        path.hardlink_to(self._payloads.joinpath(*source))  # files are replaced, never changed

    def delete_file(self, payload_id: str, name: str) -> None:
        root = self._payloads / payload_id
        (root / name).unlink()
        for folder in (root / name).parents:
            if folder == root or any(folder.iterdir()):
                return
            folder.rmdir()

    def _key_path(self, key: str) -> Path:
        return self._keys / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _saved_pipelines(self) -> list[ClaraPipeline]:
        """Return the saved pipelines in order of their last change."""
        paths = sorted(self._pipelines.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return [_read(path, ClaraPipeline) for path in paths]

    def _saved_payloads(self, job_ids: set[str]) -> Iterator[ClaraPayload]:
        """Yield the payloads with their files; delete each payload whose job was not saved before a crash."""
        for record in _read_all(self._records, ClaraPayload):
            root = self._payloads / record.payload_id
            if record.job_id is not None and record.job_id not in job_ids:
                _make(root)
                self.delete_payload(record.payload_id)
                continue
            yield evolve(record, files=tuple(_files_below(root)))

    def _write(self, path: Path, record: ClaraJob | ClaraPayload | ClaraPipeline | KeyedAnswer) -> None:
        temporary = self._incoming / uuid4().hex
        with _create(temporary) as target:
            target.write(json.dumps(_CONVERTER.unstructure(record), indent=2).encode())
        temporary.replace(path)


class _Temporary(Sink):
    def __init__(self, path: Path, payloads: Path) -> None:
        self._path = path
        self._payloads = payloads
        self._file = _create(path)

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def keep(self, payload_id: str, name: str) -> None:
        self._file.close()
        target = self._payloads / payload_id / name
        _make(target.parent)
        self._path.replace(target)

    def discard(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    """Create a folder and its parents, accessible only to the owner."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")


def _read_all(folder: Path, kind: type[Record]) -> Iterator[Record]:
    return (_read(path, kind) for path in folder.glob("*.json"))


def _read(path: Path, kind: type[Record]) -> Record:
    fields: dict[str, Any] = json.loads(path.read_bytes())
    return _CONVERTER.structure(fields, kind)


def _files_below(root: Path) -> Iterator[PayloadFile]:
    for path in root.rglob("*"):
        if path.is_file():
            yield PayloadFile(name=path.relative_to(root).as_posix(), size_bytes=path.stat().st_size)
