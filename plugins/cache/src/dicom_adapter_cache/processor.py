"""The cache processor: keeps received instances and an index of them until they are deleted or evicted.

The ledger is authoritative. After a start, and after a turn that failed, the host delivers all pending instances again;
then the processor deletes rows of the index that have no pending instance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial

import msgspec
import structlog

from dicom_adapter import InstanceStorageInfo, Job, JobProcessorBase, JobState, ProcessorContext, Timer, Waiting
from dicom_adapter_cache import selection
from dicom_adapter_cache.check import IndexCheck
from dicom_adapter_cache.database import Database
from dicom_adapter_cache.errors import InvalidRequest, KeyReused, NotInCache
from dicom_adapter_cache.header import KEYWORDS, Attributes, attributes
from dicom_adapter_cache.index import Index, KeptJob
from dicom_adapter_cache.rows import DescribedInstance
from dicom_adapter_cache.settings import CacheSettings
from dicom_adapter_cache.values import Order, selects_nothing

log = structlog.get_logger("dicom_adapter_cache")

AGE_CHECK_EVERY_S = 60.0  # seconds between searches for studies older than max-age
CHECK_EVERY_S = 1.0  # seconds between two steps of the check after a start
WRITE_AFTER_S = 0.2  # delay after which a new instance is written to the index and can be found
WRITE_BATCH = 500  # maximum number of instances that are written together
EVICTION_BATCH = 100  # number of studies in one query
RESERVED = ("Source", "Instances")  # metadata that the host adds
DONE_STATES = (JobState.SUBMITTED, JobState.SUCCEEDED)
FINAL_STATES = (*DONE_STATES, JobState.CANCELLED)


class CacheProcessor(JobProcessorBase[CacheSettings]):
    """Processor that keeps instances and submits jobs only on request."""

    name = "cache"

    def __init__(self, settings: CacheSettings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._opened = ExitStack()  # closes what `open` has opened, also if `open` has failed
        self._settle = timedelta(seconds=settings.settle)
        self._known: set[int] = set()  # ids of all instances in the index
        self._undelivered: set[int] = set()  # ids of instances in the index that were not delivered since `open`
        self._opened_at: datetime | None = None  # time of `open`, until all pending instances are delivered; then None
        self._bytes = 0  # total size of all instances
        self._arrived: list[DescribedInstance] = []  # instances not yet in the index
        self._wrong: set[int] = set()  # ids of instances whose rows in the index have to be replaced
        self._size_retry: Timer | None = None  # set while the cache is above max-size and no study can be evicted

    @classmethod
    def describe(cls, settings: CacheSettings) -> str:
        size = "" if settings.max_size is None else f", at most {int(settings.max_size)} bytes"
        age = "" if settings.max_age is None else f", for {settings.max_age:.10g} s after the last use"
        pipelines = ", ".join(settings.pipelines) or "any"
        return f"keeps studies until jobs are composed of them{size}{age}; pipelines: {pipelines}"

    @classmethod
    def listening_addresses(cls, settings: CacheSettings) -> Sequence[tuple[str, int]]:
        return () if settings.grpc is None else [(settings.grpc.bind, settings.grpc.port)]

    def open(self) -> None:
        self._database = Database(self.settings.index_location(self.data_folder), writes=True)
        self._opened.callback(self._database.close)
        self._database.open()
        self._index = Index(self._database, self.ae_title)
        self._opened_at = self.now()
        self._index.limit_times(self._opened_at)
        self._check = IndexCheck(self._index, self._read)
        self._known = self._index.known()
        self._undelivered = set(self._known)
        self._bytes = self._index.total_bytes()
        self.call_later(0, self._reconcile)  # runs after all pending instances are delivered

    def close(self) -> None:
        self._opened.close()

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        instance_id = instance.instance_id
        is_known = instance_id in self._known
        if is_known and self._check.agrees(instance):
            self._undelivered.discard(instance_id)
            return
        arrival = DescribedInstance(instance, self._read(instance))
        if is_known:
            self._undelivered.discard(instance_id)
            self._wrong.add(instance_id)
        else:
            self._known.add(instance_id)
            self._bytes += instance.size_bytes
        self._write_later(arrival)
        self._keep_to_size()

    def _read(self, instance: InstanceStorageInfo) -> Attributes:
        return attributes(instance, self.read_texts(instance, KEYWORDS.values()))

    def _write_later(self, arrival: DescribedInstance) -> None:
        if not self._arrived:
            self.call_later(WRITE_AFTER_S, self._write)
        self._arrived.append(arrival)
        if len(self._arrived) >= WRITE_BATCH:
            self._write()

    def _write(self) -> None:
        """Write all new instances to the index together, which takes little longer than to write one instance."""
        if not self._arrived:
            return
        if self._wrong:
            log.error("cache_index_repaired", ae_title=self.ae_title, instances=len(self._wrong))
        # Instances that were pending at `open` arrived before it, even if their times are later: see `limit_times`.
        replaced = self._index.add(self._arrived, self._wrong, latest=self._opened_at)
        self._known -= replaced
        if replaced or self._wrong:
            self._bytes = self._index.total_bytes()
        self._arrived, self._wrong = [], set()

    def waiting(self) -> Iterable[Waiting]:
        return [Waiting(label="kept", instance_count=len(self._known), until=None)] if self._known else []

    # --- the ledger and the index -------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Reconcile the index with the ledger after all pending instances were delivered."""
        self._write()
        self._opened_at = None
        if self._undelivered:
            self._index.remove(self._undelivered)
            self._known -= self._undelivered
            self._undelivered = set()
            self._bytes = self._index.total_bytes()
        for kept in self._index.unfinished_jobs():
            self._update_job(kept, self.find_job(kept.job_id))
        self._keep_to_size()
        self._keep_to_age()
        self._check_headers()

    def _check_headers(self) -> None:
        """Check the next headers of the index, and schedule the following step, until all headers are checked."""
        if self._check.step():
            self.call_later(CHECK_EVERY_S, self._check_headers)

    def job_changed(self, job: Job) -> None:
        self._write()
        kept = self._index.find_job(job.job_id)
        if kept is not None and not kept.finished:
            self._update_job(kept, job)

    def _update_job(self, kept: KeptJob, job: Job | None) -> None:
        """Finish a job that has ended. A faulted or failed job has not: it may be retried."""
        if job is None:  # the turn that created the job was not committed
            self._index.forget_job(kept.job_id)
        elif job.state in FINAL_STATES:
            if job.state in DONE_STATES and not kept.keep:
                self._clean_up(kept)
            # The index is committed before the turn, which may still fail: mark the job as finished in the next turn.
            self.call_later(0, partial(self._index.finish_job, kept.job_id))

    def _clean_up(self, kept: KeptJob) -> None:
        """Delete the instances of a job, except those of pinned studies. Later arrivals are not part of the job."""
        instance_ids = [each for each in self._index.of_job(kept.job_id) if each in self._known]
        pinned = self._index.pinned_among(instance_ids)
        self._remove(self._index.with_ids([each for each in instance_ids if each not in pinned]))

    def _remove(self, instances: Sequence[InstanceStorageInfo]) -> None:
        if not instances:
            return
        self.remove_instances(instances)
        instance_ids = {instance.instance_id for instance in instances}
        self._index.remove(instance_ids)
        self._known -= instance_ids
        self._bytes = self._index.total_bytes()

    # --- limits -------------------------------------------------------------------------------------------------------

    def free_space(self, wanted_bytes: int) -> None:
        self._evict(wanted_bytes, "storage is nearly full")

    def _keep_to_size(self) -> None:
        limit = self.settings.max_size
        if limit is None or self._bytes <= limit or self._size_retry is not None:
            return
        if self._opened_at is not None:
            return  # `_reconcile` calls this method again: until then, the time of a turn may be in the future
        self._evict(self._bytes - limit, f"the cache holds more than max-size = {int(limit)} bytes")
        if self._bytes > limit:  # the remaining studies are pinned, arriving or part of a job
            self._size_retry = self.call_later(max(1.0, self.settings.settle), self._retry_keep_to_size)

    def _retry_keep_to_size(self) -> None:
        self._size_retry = None
        self._keep_to_size()

    def _keep_to_age(self) -> None:
        if self.settings.max_age is None:
            return
        self._write()
        oldest = self.now() - timedelta(seconds=self.settings.max_age)
        reason = f"it was not used for max-age = {self.settings.max_age:.10g} seconds"
        while True:
            idle = self._index.idle(self.now() - self._settle, EVICTION_BATCH)
            old = [study.study_id for study in idle if study.last_use <= oldest]
            if not old:
                break
            self._evict_studies(old, reason)
        self.call_later(min(AGE_CHECK_EVERY_S, self.settings.max_age), self._keep_to_age)

    def _evict(self, wanted_bytes: int, reason: str) -> None:
        """Evict the least recently used studies until `wanted_bytes` are free or no study can be evicted."""
        self._write()
        while wanted_bytes > 0:
            chosen = []
            for study in self._index.idle(self.now() - self._settle, EVICTION_BATCH):
                if wanted_bytes > 0:
                    chosen.append(study.study_id)
                    wanted_bytes -= study.size_bytes
            if not chosen:
                return
            self._evict_studies(chosen, reason)

    def _evict_studies(self, study_ids: Sequence[int], reason: str) -> None:
        instances = self._index.of_studies(study_ids)
        self.record("evicted", instances, reason)
        self._remove(instances)

    # --- requests -----------------------------------------------------------------------------------------------------

    def compose(self, order: Order, job_id: str | None) -> Job:
        """Submit a job with all instances that the order names. `job_id`: from the Idempotency-Key, or None."""
        self._write()
        fingerprint = fingerprint_of(order)
        earlier = None if job_id is None else self._earlier_job(job_id, fingerprint)
        if earlier is not None:
            return earlier
        pipeline = self.settings.pipeline(order.pipeline)
        check_order(order)
        chosen = selection.choose(self._database, self.ae_title, order)
        if not order.mix_patients:
            selection.require_one_patient(self._database, chosen)
        if not order.insist:
            selection.require_arrived(self._database, chosen, self.now() - self._settle)
        job = self.submit_pipeline_job(
            order.name,
            pipeline.id,
            order.priority,
            chosen.instances,
            metadata=order.metadata,
            submitter=order.submitter or pipeline.submitter,
            job_id=job_id,
        )
        kept = KeptJob(job_id=job.job_id, keep=order.keep, fingerprint=fingerprint, finished=False)
        self._index.add_job(kept, [instance.instance_id for instance in chosen.instances], self.now())
        self._index.use(chosen.studies, self.now())
        return job

    def _earlier_job(self, job_id: str, fingerprint: str) -> Job | None:
        """Return the job of an earlier call with the same key, or None. Raises KeyReused if its order was different."""
        job = self.find_job(job_id)
        kept = self._index.find_job(job_id)
        if job is not None and kept is not None and kept.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key was used for another order: choose a new key for a new request")
        return job

    def delete(self, study_instance_uid: str) -> None:
        """Delete a study. Jobs that contain it are still submitted."""
        instances = self._index.of_studies([self._study(study_instance_uid)])
        self.record("deleted", instances, "a user of the cache has deleted the study")
        self._remove(instances)

    def pin(self, study_instance_uid: str, *, pinned: bool) -> None:
        """Pin or unpin a study; neither age nor size evicts a pinned study."""
        self._index.pin(self._study(study_instance_uid), pinned=pinned)

    def use(self, study_instance_uid: str) -> None:
        """Update the time of the last use of a study, if it still exists."""
        study_id = self._index.find_study(study_instance_uid)
        if study_id is not None:
            self._index.use([study_id], self.now())

    def _study(self, uid: str) -> int:
        self._write()
        study_id = self._index.find_study(uid)
        if study_id is None:
            raise NotInCache(f"there is no study {uid} at AE title '{self.ae_title}'")
        return study_id


def check_order(order: Order) -> None:
    """Raise InvalidRequest for an order that is empty or has reserved metadata."""
    if selects_nothing(order):
        raise InvalidRequest("the selection is empty: name patients, studies, series or instances", field="studies")
    reserved = sorted(set(RESERVED) & order.metadata.keys())
    if reserved:
        raise InvalidRequest(f"metadata must not have {', '.join(reserved)}, which the adapter adds", field="metadata")


def fingerprint_of(order: Order) -> str:
    """Return a digest that is equal for equal orders."""
    return hashlib.blake2b(msgspec.json.encode(order, order="deterministic"), digest_size=16).hexdigest()
