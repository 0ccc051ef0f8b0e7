"""What each side has in its files when all is over, read without the adapter's and the emulator's own code."""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from attrs import field, frozen
from pydicom import dcmread

from faults.adapter import AE_TITLES
from faults.orders import Orders
from faults.records import Sent, data_set_digest
from faults.shelf import Kept

BLOCK = 4096
HEADER = struct.Struct("<16sQIB3xI")
ALIVE = 1
MICROSECONDS = 1e6  # the ledger's unit of time
ADAPTER_JOB = "dicom-adapter-job"  # the key under which a platform's job has the adapter's id of it


@frozen(kw_only=True)
class PlatformFile:
    """One data set in the payload of a platform's job."""

    sop_instance_uid: str  # of the File Meta Information
    digest: str


@frozen(kw_only=True)
class PlatformJob:
    """One job on the platform."""

    job_id: str
    adapter_job: str  # the adapter's id of it; "" when it names none
    pipeline: str
    is_started: bool
    created: float  # seconds since 1970
    files: tuple[PlatformFile, ...] = ()


@frozen(kw_only=True)
class LedgerInstance:
    """One row of the ledger's instances."""

    number: int
    ae_title: str
    study_instance_uid: str
    sop_instance_uid: str
    state: str
    storage_key: str
    is_replaced: bool  # a newer arrival stands for it
    received: float  # seconds since 1970
    changed: float  # when it came into its state


@frozen(kw_only=True)
class LedgerJob:
    """One row of the ledger's jobs."""

    job_id: str
    name: str
    ae_title: str
    pipeline: str
    state: str
    platform_job: str
    instances: tuple[int, ...]  # numbers


@frozen(kw_only=True)
class Evidence:
    """All that is compared."""

    sent: tuple[Sent, ...]
    platform_jobs: tuple[PlatformJob, ...]
    instances: tuple[LedgerInstance, ...]
    jobs: tuple[LedgerJob, ...]
    stored: frozenset[str]  # storage keys of the objects that there are
    orders: Orders = field(factory=Orders)  # that were given to the cache
    kept: tuple[Kept, ...] = ()  # what the cache said it has
    unfinished: tuple[str, ...] = ()  # where there are parts of receptions that never ended
    log: tuple[Mapping[str, Any], ...] = ()
    audit: tuple[Mapping[str, Any], ...] = ()  # the findings of `dicom-adapter audit`


def platform_jobs(state: Path) -> Iterator[PlatformJob]:
    """The jobs in the folder of the emulator, which must not run."""
    for path in (state / "jobs").glob("*.json"):
        job = json.loads(path.read_bytes())
        yield PlatformJob(
            job_id=job["job_id"],
            adapter_job=job["metadata"].get(ADAPTER_JOB, ""),
            pipeline=job["pipeline_id"],
            is_started=job["started"] is not None,
            created=datetime.fromisoformat(job["created"]).timestamp(),
            files=tuple(map(_platform_file, sorted((state / "payloads" / job["payload_id"]).rglob("*.dcm")))),
        )


def _platform_file(path: Path) -> PlatformFile:
    header = dcmread(path, stop_before_pixels=True, specific_tags=[])
    return PlatformFile(sop_instance_uid=header.file_meta.MediaStorageSOPInstanceUID, digest=data_set_digest(path))


class LedgerFile:
    """The ledger's database, whether the adapter runs or not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def counts(self) -> dict[str, int]:
        """How many instances and jobs there are in each state, as `instances pending`, `jobs queued`.

        Pending instances of a cache are `kept`: they wait for nothing.
        """
        counted: Counter[str] = Counter()
        for table in ("instances", "jobs"):
            query = f"SELECT ae_title, state, count(*) FROM {table} GROUP BY ae_title, state"
            for ae_title, state, number in self._rows(query):
                is_kept = state == "pending" and AE_TITLES[ae_title].keeps
                counted[f"{table} {'kept' if is_kept else state}"] += number
        return counted

    def faulted(self) -> list[str]:
        """The ids of jobs that wait for an operator."""
        return [job_id for (job_id,) in self._rows("SELECT job_id FROM jobs WHERE state = 'faulted'")]

    def instances(self) -> Iterator[LedgerInstance]:
        columns = "instance_id, ae_title, study_instance_uid, sop_instance_uid, state, storage_key, replaced_by"
        for row in self._rows(f"SELECT {columns}, received_at, changed_at FROM instances"):
            number, ae_title, study, uid, state, key, replaced_by, received, changed = row
            yield LedgerInstance(
                number=number,
                ae_title=ae_title,
                study_instance_uid=study,
                sop_instance_uid=uid,
                state=state,
                storage_key=key,
                is_replaced=replaced_by is not None,
                received=received / MICROSECONDS,
                changed=changed / MICROSECONDS,
            )

    def jobs(self) -> Iterator[LedgerJob]:
        members: dict[int, list[int]] = {}
        for job, instance in self._rows("SELECT job_number, instance_id FROM job_instances ORDER BY position"):
            members.setdefault(job, []).append(instance)
        query = "SELECT job_number, job_id, name, ae_title, pipeline_id, state, platform_job_id FROM jobs"
        for number, job_id, name, ae_title, pipeline, state, platform_job in self._rows(query):
            yield LedgerJob(
                job_id=job_id,
                name=name,
                ae_title=ae_title,
                pipeline=pipeline,
                state=state,
                platform_job=platform_job,
                instances=tuple(members.get(number, ())),
            )

    def _rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query).fetchall()


def stored_keys(data: Path) -> frozenset[str]:
    """The objects of the `local` storage backend, by their keys."""
    return frozenset(key for path in _segments(data) for key, is_object in _blocks(path) if is_object)


def unfinished_receptions(data: Path) -> tuple[str, ...]:
    """What the `local` storage backend has of instances that were never finished."""
    return tuple(key for path in _segments(data) for key, is_object in _blocks(path) if not is_object)


def _segments(data: Path) -> Iterator[Path]:
    return (data / "instances").glob("*.segment")


def _blocks(path: Path) -> Iterator[tuple[str, bool]]:
    """Blocks with which something begins, as keys: an object, or data without a header. Dead ones are left out.

    A segment begins with 16 bytes of magic and a nonce of 16; an object with that nonce, the length of its content (8
    bytes), a CRC-32 of that, its life (1: alive), and at byte 32 a CRC-32 of all this. Holes read as zeros.
    """
    content = path.read_bytes()
    nonce, start = content[16:32], BLOCK
    while start < len(content):
        header = content[start : start + HEADER.size]
        if (
            len(header) == HEADER.size
            and header.startswith(nonce)
            and zlib.crc32(header[:32]) == HEADER.unpack(header)[4]
        ):
            _nonce, length, _checksum, life, _own = HEADER.unpack(header)
            if life == ALIVE:
                yield f"{path.stem}-{start // BLOCK:x}", True
            start += -(-(HEADER.size + length) // BLOCK) * BLOCK
        else:
            if any(content[start : start + BLOCK]):
                yield f"{path.stem}-{start // BLOCK:x}", False
            start += BLOCK


def log_entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """The adapter's log; lines in a row that are no entries, such as a traceback, are one entry of the event `text`."""
    entries = map(_log_entry, path.read_text(encoding="utf-8").splitlines())
    for is_text, run in groupby(entries, key=lambda entry: entry["event"] == "text"):
        if is_text:
            yield {"event": "text", "text": "\n".join(entry["text"] for entry in run)}
        else:
            yield from run


def _log_entry(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"event": "text", "text": line}


def jobs_to_clean_up_after(data: Path) -> int:
    """How many jobs the cache's index has whose end it does not know yet."""
    found = 0
    for path in (data / "processors").glob("*/index.sqlite"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            found += connection.execute("SELECT count(*) FROM cache_jobs WHERE NOT finished").fetchone()[0]
    return found
