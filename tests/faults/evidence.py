"""The state of each side after the run, read without the code of the adapter and the emulator."""

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
from faults.cached_instances import CachedInstance
from faults.clock import ClockRange
from faults.mount import Outage
from faults.orders import Orders
from faults.records import Sent, data_set_digest

BLOCK = 4096  # bytes; each object of a segment begins at a multiple of it
HEADER = struct.Struct("<16sQIB3xI")  # of an object in a segment: see `_blocks`
KEPT = 1  # flag of an object that is not deleted
MICROSECONDS = 1e6  # the ledger's unit of time
SOURCE_JOB = "SourceJob"  # the key of a delivery job's metadata that has the id of the job with the results
ADAPTER_JOB = "dicom-adapter-job"  # the key of a platform job's metadata that has the adapter's job id


@frozen(kw_only=True)
class PlatformFile:
    """One data set in the payload of a platform's job."""

    sop_instance_uid: str  # from the File Meta Information
    digest: str


@frozen(kw_only=True)
class PlatformJob:
    """One job on the platform."""

    job_id: str
    adapter_job: str  # the adapter's job id, or ""
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
    is_replaced: bool  # replaced by a newer arrival
    received: float  # seconds since 1970, on the clock of the service
    changed: float  # time of the last change of the state
    checksum: int = 0  # CRC-32 of the data set
    is_result: bool = False  # a result of a job; False: it was received


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
    submitter: str = ""
    source_job: str = ""  # id of the job whose results it delivers; "" for other jobs
    last_error: str = ""


@frozen(kw_only=True)
class Evidence:
    """All data that the count compares."""

    sent: tuple[Sent, ...]
    platform_jobs: tuple[PlatformJob, ...]
    instances: tuple[LedgerInstance, ...]
    jobs: tuple[LedgerJob, ...]
    stored: frozenset[str]  # storage keys of the existing objects
    orders: Orders = field(factory=Orders)  # orders to the cache
    kept: tuple[CachedInstance, ...] = ()  # instances that the cache lists
    unfinished: tuple[str, ...] = ()  # files or segments with parts of receptions that never ended
    log: tuple[Mapping[str, Any], ...] = ()
    audit: tuple[Mapping[str, Any], ...] = ()  # the findings of `dicom-adapter audit`
    clock: ClockRange = field(factory=ClockRange)  # the clock of the service
    outages: tuple[Outage, ...] = ()  # times without the disk
    results: Mapping[str, tuple[PlatformFile, ...]] = field(factory=dict)  # written by commands, by job id
    arrived: Mapping[str, tuple[PlatformFile, ...]] = field(factory=dict)  # instances of the products, by destination
    on_mount_point: tuple[str, ...] = ()  # what was created on the mount point without the disk


def platform_jobs(state: Path) -> Iterator[PlatformJob]:
    """Read the jobs from the folder of the emulator, which must not run."""
    for path in (state / "jobs").glob("*.json"):
        job = json.loads(path.read_bytes())
        yield PlatformJob(
            job_id=job["job_id"],
            adapter_job=job["metadata"].get(ADAPTER_JOB, ""),
            pipeline=job["pipeline_id"],
            is_started=job["started"] is not None,
            created=datetime.fromisoformat(job["created"]).timestamp(),
            files=tuple(map(platform_file, sorted((state / "payloads" / job["payload_id"]).rglob("*.dcm")))),
        )


def platform_file(path: Path) -> PlatformFile:
    """Read a Part 10 file."""
    header = dcmread(path, stop_before_pixels=True, specific_tags=[])
    return PlatformFile(sop_instance_uid=header.file_meta.MediaStorageSOPInstanceUID, digest=data_set_digest(path))


class LedgerFile:
    """The ledger's database. The adapter may be running."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def counts(self) -> dict[str, int]:
        """Return the number of instances and jobs in each state, as in `instances pending` or `jobs queued`.

        Pending instances of a cache count as `kept`, because they do not wait.
        """
        counted: Counter[str] = Counter()
        for table in ("instances", "jobs"):
            query = f"SELECT ae_title, state, count(*) FROM {table} GROUP BY ae_title, state"
            for ae_title, state, number in self._rows(query):
                is_kept = state == "pending" and AE_TITLES[ae_title].submits_on_request
                counted[f"{table} {'kept' if is_kept else state}"] += number
        return counted

    def faulted(self) -> list[str]:
        """Return the ids of faulted jobs."""
        return [job_id for (job_id,) in self._rows("SELECT job_id FROM jobs WHERE state = 'faulted'")]

    def instances(self) -> Iterator[LedgerInstance]:
        columns = (
            "instance_id, ae_title, study_instance_uid, sop_instance_uid, state, storage_key, replaced_by, source_job"
        )
        for row in self._rows(f"SELECT {columns}, received_at, changed_at, checksum FROM instances"):
            number, ae_title, study, uid, state, key, replaced_by, source, received, changed, checksum = row
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
                checksum=checksum,
                is_result=source is not None,
            )

    def jobs(self) -> Iterator[LedgerJob]:
        members: dict[int, list[int]] = {}
        for job, instance in self._rows("SELECT job_number, instance_id FROM job_instances ORDER BY position"):
            members.setdefault(job, []).append(instance)
        columns = "job_number, job_id, name, ae_title, pipeline_id, state, platform_job_id, submitter, last_error"
        for row in self._rows(f"SELECT {columns}, metadata FROM jobs"):
            number, job_id, name, ae_title, pipeline, state, platform_job, submitter, last_error, metadata = row
            yield LedgerJob(
                job_id=job_id,
                name=name,
                ae_title=ae_title,
                pipeline=pipeline,
                state=state,
                platform_job=platform_job,
                instances=tuple(members.get(number, ())),
                submitter=submitter,
                source_job=json.loads(metadata).get(SOURCE_JOB, ""),
                last_error=last_error,
            )

    def _rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query).fetchall()


def stored_keys(data: Path) -> frozenset[str]:
    """Return the keys of the objects in the `local` storage backend."""
    return frozenset(key for path in _segments(data) for key, is_object in _blocks(path) if is_object)


def unfinished_receptions(data: Path) -> tuple[str, ...]:
    """Return the keys of instances in the `local` storage backend that were never completed."""
    return tuple(key for path in _segments(data) for key, is_object in _blocks(path) if not is_object)


def _segments(data: Path) -> Iterator[Path]:
    return (data / "instances").glob("*.segment")


def _blocks(path: Path) -> Iterator[tuple[str, bool]]:
    """Return the keys of blocks at which an object, or data without a header, begins. Deleted objects are omitted.

    A segment begins with 16 bytes of magic and a nonce of 16 bytes. The header of an object has this nonce, the length
    of its content (8 bytes), a CRC-32 of the content, a flag (1: not deleted), and at byte 32 a CRC-32 of the header.
    Holes read as zeros.
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
            _nonce, length, _checksum, flag, _own_checksum = HEADER.unpack(header)
            if flag == KEPT:
                yield f"{path.stem}-{start // BLOCK:x}", True
            start += -(-(HEADER.size + length) // BLOCK) * BLOCK
        else:
            if any(content[start : start + BLOCK]):
                yield f"{path.stem}-{start // BLOCK:x}", False
            start += BLOCK


def log_entries(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read the adapter's log.

    Consecutive lines that are not entries, such as a traceback, are one entry of the event `text`.
    """
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
    """Return the number of jobs in the cache's index whose end is not recorded yet."""
    unfinished = 0
    for path in (data / "processors").glob("*/index.sqlite"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            unfinished += connection.execute("SELECT count(*) FROM cache_jobs WHERE NOT finished").fetchone()[0]
    return unfinished
