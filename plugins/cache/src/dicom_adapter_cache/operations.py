"""The operations of the cache, shared by all protocols: queries read the index, changes are turns of the lane.

Every operation raises `CacheError` for a request that cannot be carried out, `Refused` if the host refuses it, and
`Retriable` if a later attempt may succeed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from datetime import timedelta
from functools import partial
from typing import Any, BinaryIO, TypeVar

from attrs import frozen

from dicom_adapter import InstanceStorageInfo, LaneHandle, Retriable, StoredObjectMissing
from dicom_adapter_cache import values
from dicom_adapter_cache.errors import Ambiguous, InvalidRequest, NotInCache
from dicom_adapter_cache.processor import CacheProcessor, check_order
from dicom_adapter_cache.search import Reader

ANSWER_TIMEOUT_S = 30.0  # time limit for a request to a lane, which first delivers all pending instances after a start
NEWEST_JOBS = 100  # default length of the list of jobs

T = TypeVar("T")


@frozen
class CachedAeTitle:
    """The lane and the index of one AE title."""

    lane: LaneHandle
    reader: Reader


@frozen(kw_only=True)
class Download:
    """A stored Part 10 file, open for reading."""

    instance: InstanceStorageInfo
    file: BinaryIO


class Cache:
    """The cache: all AE titles with the cache processor. Thread-safe."""

    def __init__(self, lanes: Mapping[str, LaneHandle]) -> None:
        self._cached = {name: CachedAeTitle(lane, _reader(lane)) for name, lane in lanes.items()}

    # --- queries ------------------------------------------------------------------------------------------------------

    def studies(self, study_filter: values.StudyFilter, page: values.PageRequest) -> values.Studies:
        """Return a page of matching studies, the most recent arrival first."""
        check_page(page)
        items: list[values.Study] = []
        total = 0
        for cached in self._among(study_filter.ae_title):
            matching, count = cached.reader.studies(study_filter, page.offset + page.limit, cached.lane.now())
            items += matching
            total += count
        items.sort(key=lambda study: (study.last_arrival, study.study_instance_uid), reverse=True)
        return values.Studies(items=_slice(items, page), total=total, limit=page.limit, offset=page.offset)

    def patients(self, study_filter: values.StudyFilter, page: values.PageRequest) -> values.Patients:
        """Return a page of the patients with matching studies, sorted by ID."""
        check_page(page)
        items: list[values.Patient] = []
        total = 0
        for cached in self._among(study_filter.ae_title):
            matching, count = cached.reader.patients(study_filter, page.offset + page.limit)
            items += matching
            total += count
        items.sort(key=lambda patient: (patient.patient_id, patient.issuer_of_patient_id, patient.ae_title))
        return values.Patients(items=_slice(items, page), total=total, limit=page.limit, offset=page.offset)

    def study(self, uid: str, ae_title: str = "") -> values.StudyDetail:
        """Return a study with its series."""
        cached = self._with_study(uid, ae_title)
        detail = cached.reader.study(uid, cached.lane.now())
        if detail is None:
            raise _no_study(uid)
        return detail

    def instances(
        self, uid: str, series_uid: str | None, page: values.PageRequest, ae_title: str = ""
    ) -> values.Instances:
        """Return a page of the instances of a study, or of one of its series."""
        check_page(page)
        items, total = self._with_study(uid, ae_title).reader.instances(uid, series_uid, page.limit, page.offset)
        if not total:
            raise NotInCache(f"there is no series {series_uid} in study {uid}")
        return values.Instances(items=items, total=total, limit=page.limit, offset=page.offset)

    def download(self, sop_instance_uid: str, ae_title: str = "") -> Download:
        """Open the stored file of an instance, and update the time of the last use of its study."""
        for cached in self._among(ae_title):
            instance = cached.reader.find_instance(sop_instance_uid)
            if instance is not None:
                try:
                    file = cached.lane.open_stored(instance)
                except StoredObjectMissing:
                    continue  # the instance has just been deleted
                cached.lane.ask(partial(_use, instance.study_instance_uid))
                return Download(instance=instance, file=file)
        raise NotInCache(f"there is no instance {sop_instance_uid}")

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def compose(self, order: values.Order, key: str | None) -> values.JobStatus:
        """Compose a job, or return the job of an earlier call with the same key."""
        check_order(order)
        job_id = None if key is None else job_id_of(key)
        lane = self._lane_of(order, job_id)
        return values.job_status(_ask(lane, lambda cache: cache.compose(order, job_id)))

    def job(self, job_id: str) -> values.JobStatus:
        """Return the current status of a job."""
        for cached in self._cached.values():
            job = cached.lane.find_job(job_id)
            if job is not None:
                return values.job_status(job)
        raise NotInCache(f"there is no job {job_id}; finished jobs are deleted after some time")

    def jobs(self, limit: int = NEWEST_JOBS) -> values.Jobs:
        """Return the most recent composed jobs."""
        newest = [
            (at, job)
            for cached in self._cached.values()
            for at, job_id in cached.reader.jobs(limit)
            if (job := cached.lane.find_job(job_id)) is not None
        ]
        newest.sort(key=lambda entry: entry[0], reverse=True)
        return values.Jobs(items=[values.job_status(job) for _at, job in newest[:limit]])

    def _lane_of(self, order: values.Order, job_id: str | None) -> LaneHandle:
        """Return the lane of the AE title that composes the job."""
        if order.ae_title is not None or len(self._cached) == 1:
            return next(iter(self._among(order.ae_title or ""))).lane
        for cached in self._cached.values():
            if job_id is not None and cached.lane.find_job(job_id) is not None:
                return cached.lane  # the instances of an earlier job may be deleted already
        owners = [cached.lane for cached in self._cached.values() if cached.reader.has_any(order)]
        if not owners:
            raise NotInCache("nothing of the selection is in the cache")
        if len(owners) > 1:
            names = [lane.ae_title for lane in owners]
            raise Ambiguous(
                f"the selection is at more than one AE title ({', '.join(names)}): name one as aeTitle", aeTitles=names
            )
        return owners[0]

    # --- studies ------------------------------------------------------------------------------------------------------

    def delete(self, uid: str, ae_title: str = "") -> None:
        """Delete a study."""
        _ask(self._with_study(uid, ae_title).lane, lambda cache: cache.delete(uid))

    def pin(self, uid: str, *, pinned: bool, ae_title: str = "") -> values.Pinned:
        """Pin or unpin a study; neither age nor size evicts a pinned study."""
        _ask(self._with_study(uid, ae_title).lane, lambda cache: cache.pin(uid, pinned=pinned))
        return values.Pinned(study_instance_uid=uid, pinned=pinned)

    # --- AE titles ----------------------------------------------------------------------------------------------------

    def _among(self, ae_title: str) -> Iterable[CachedAeTitle]:
        """Return the AE title with this name, or all AE titles if the name is empty."""
        if not ae_title:
            return self._cached.values()
        if ae_title not in self._cached:
            served = ", ".join(self._cached) or "none"
            raise NotInCache(f"the cache does not serve AE title {ae_title!r} (it serves: {served})")
        return [self._cached[ae_title]]

    def _with_study(self, uid: str, ae_title: str) -> CachedAeTitle:
        owners = [cached for cached in self._among(ae_title) if cached.reader.has_study(uid)]
        if not owners:
            raise _no_study(uid)
        if len(owners) > 1:
            names = [cached.lane.ae_title for cached in owners]
            raise Ambiguous(f"study {uid} is at AE titles {', '.join(names)}: name one as aeTitle", aeTitles=names)
        return owners[0]


def job_id_of(key: str) -> str:
    """Derive a job id from a key, so that the ledger prevents a second job for the same key."""
    return hashlib.blake2b(key.encode(), digest_size=16, person=b"cache key").hexdigest()


def check_page(page: values.PageRequest) -> None:
    """Raise InvalidRequest if limit or offset is out of range."""
    if not 1 <= page.limit <= values.LARGEST_PAGE:
        raise InvalidRequest(f"limit must be from 1 to {values.LARGEST_PAGE}", field="limit")
    if not 0 <= page.offset <= values.LARGEST_OFFSET:
        raise InvalidRequest(f"offset must be from 0 to {values.LARGEST_OFFSET}", field="offset")


def _reader(lane: LaneHandle) -> Reader:
    url = lane.settings.index_location(lane.data_folder)
    return Reader(url, lane.ae_title, timedelta(seconds=lane.settings.settle))


def _ask(lane: LaneHandle, request: Callable[[CacheProcessor], T]) -> T:
    future = lane.ask(request)
    try:
        return future.result(ANSWER_TIMEOUT_S)
    except NotInTime:
        if not future.cancel():
            return _await_started(lane, future)
    raise Retriable(
        f"AE title '{lane.ae_title}' is busy, for example after a start; nothing was changed, repeat the request"
    )


def _await_started(lane: LaneHandle, future: Future[T]) -> T:
    """Wait for a turn that has started, and may therefore change something."""
    try:
        return future.result(ANSWER_TIMEOUT_S)
    except NotInTime:
        raise Retriable(
            f"AE title '{lane.ae_title}' has not finished the request in time: check its result later, or repeat it "
            "with the same Idempotency-Key"
        ) from None


def _use(study_instance_uid: str, processor: CacheProcessor) -> None:
    processor.use(study_instance_uid)


def _slice(items: list[Any], page: values.PageRequest) -> list[Any]:
    return items[page.offset : page.offset + page.limit]


def _no_study(uid: str) -> NotInCache:
    return NotInCache(f"there is no study {uid}")
