"""The cache processor: keeps received instances in its index until a job is composed or they are evicted.

The ledger is authoritative: after a start, and after a turn that was not committed, all pending instances are delivered
again, and rows of the index without a pending instance are deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial

import msgspec

from dicom_adapter import InstanceStorageInfo, Job, JobProcessorBase, JobState, ProcessorContext, Timer, Waiting
from dicom_adapter_cache import selection
from dicom_adapter_cache.database import Database
from dicom_adapter_cache.errors import InvalidRequest, KeyReused, NotInCache
from dicom_adapter_cache.header import Attributes, attributes
from dicom_adapter_cache.index import Index, KeptJob
from dicom_adapter_cache.rows import SeriesKey, series_key_of
from dicom_adapter_cache.settings import CacheSettings
from dicom_adapter_cache.values import Order, selects_nothing

LOOK_EVERY_S = 60.0  # for studies older than max-age
WRITE_AFTER_S = 0.2  # until an instance can be found
WRITTEN_AT_ONCE = 500  # instances
EVICTED_AT_ONCE = 100  # studies per query
RESERVED = ("Source", "Instances")  # metadata that the host adds
ENDS = (JobState.SUBMITTED, JobState.CANCELLED)


class CacheProcessor(JobProcessorBase[CacheSettings]):
    """Keep instances and submit jobs only on request, through its lane."""

    name = "cache"

    def __init__(self, settings: CacheSettings, context: ProcessorContext) -> None:
        super().__init__(settings, context)
        self._settle = timedelta(seconds=settings.settle)
        self._known: set[int] = set()  # ids of all instances in the index
        self._undelivered: set[int] = set()  # ids that the ledger has not delivered since `open`
        self._bytes = 0  # total size of all instances
        self._arrived: list[InstanceStorageInfo] = []  # not yet in the index
        self._found: dict[SeriesKey, Attributes] = {}  # attributes of new series
        self._bounding: Timer | None = None  # set while the cache is too large and nothing can be evicted

    @classmethod
    def describe(cls, settings: CacheSettings) -> str:
        size = "" if settings.max_size is None else f", at most {int(settings.max_size)} bytes"
        age = "" if settings.max_age is None else f", for {settings.max_age:.10g} s after the last use"
        pipelines = ", ".join(settings.pipelines) or "any"
        return f"keeps studies until jobs are composed of them{size}{age}; pipelines: {pipelines}"

    def open(self) -> None:
        self._database = Database(self.settings.index_location(self.data_folder), writes=True)
        self._database.open()
        self._index = Index(self._database, self.ae_title)
        self._known = self._index.known()
        self._undelivered = set(self._known)
        self._bytes = self._index.total_bytes()
        self.call_later(0, self._begin)  # after all pending instances

    def close(self) -> None:
        self._database.close()

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        self._undelivered.discard(instance.instance_id)
        if instance.instance_id in self._known:
            return
        key = series_key_of(instance)
        if key not in self._found and not self._index.knows(key):
            self._found[key] = attributes(self.read_header(instance))
        if not self._arrived:
            self.call_later(WRITE_AFTER_S, self._write)
        self._arrived.append(instance)
        self._known.add(instance.instance_id)
        self._bytes += instance.size_bytes
        if len(self._arrived) >= WRITTEN_AT_ONCE:
            self._write()
        self._keep_to_size()

    def _write(self) -> None:
        """Write new instances to the index in one batch: many cost little more than one."""
        if not self._arrived:
            return
        replaced = self._index.add(self._arrived, self._found)
        self._arrived, self._found = [], {}
        if replaced:
            self._known -= replaced
            self._bytes = self._index.total_bytes()

    def waiting(self) -> Iterable[Waiting]:
        return [Waiting(label="kept", instance_count=len(self._known), until=None)] if self._known else []

    # --- the ledger and the index -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Reconcile the index once all pending instances are delivered."""
        self._write()
        if self._undelivered:
            self._index.remove(self._undelivered)
            self._known -= self._undelivered
            self._undelivered = set()
            self._bytes = self._index.total_bytes()
        for kept in self._index.unfinished_jobs():
            self._look_after(kept, self.find_job(kept.job_id))
        self._keep_to_size()
        self._keep_to_age()

    def job_changed(self, job: Job) -> None:
        self._write()
        kept = self._index.find_job(job.job_id)
        if kept is not None and not kept.finished:
            self._look_after(kept, job)

    def _look_after(self, kept: KeptJob, job: Job | None) -> None:
        """Clean up after a finished job; a faulted job may still be retried."""
        if job is None:  # its turn was not committed
            self._index.forget_job(kept.job_id)
        elif job.state in ENDS:
            if job.state is JobState.SUBMITTED and not kept.keep:
                self._clean_up(kept)
            # The index is committed before this turn. Only the next turn can rely on this one being committed.
            self.call_later(0, partial(self._index.finish_job, kept.job_id))

    def _clean_up(self, kept: KeptJob) -> None:
        """Delete the instances of a job, without later arrivals and pinned studies."""
        numbers = [number for number in self._index.of_job(kept.job_id) if number in self._known]
        pinned = self._index.pinned_among(numbers)
        self._let_go(self._index.of_numbers([number for number in numbers if number not in pinned]))

    def _let_go(self, instances: Sequence[InstanceStorageInfo]) -> None:
        if not instances:
            return
        self.remove_instances(instances)
        numbers = {instance.instance_id for instance in instances}
        self._index.remove(numbers)
        self._known -= numbers
        self._bytes = self._index.total_bytes()

    # --- bounds -------------------------------------------------------------------------------------------------------

    def free_space(self, wanted_bytes: int) -> None:
        self._evict(wanted_bytes, "storage is nearly full")

    def _keep_to_size(self) -> None:
        limit = self.settings.max_size
        if limit is None or self._bytes <= limit or self._bounding is not None:
            return
        self._evict(self._bytes - limit, f"the cache holds more than max-size = {int(limit)} bytes")
        if self._bytes > limit:  # the rest is pinned, arriving or part of a job
            self._bounding = self.call_later(max(1.0, self.settings.settle), self._keep_to_size_again)

    def _keep_to_size_again(self) -> None:
        self._bounding = None
        self._keep_to_size()

    def _keep_to_age(self) -> None:
        if self.settings.max_age is None:
            return
        self._write()
        oldest = self.now() - timedelta(seconds=self.settings.max_age)
        reason = f"it was not used for max-age = {self.settings.max_age:.10g} seconds"
        while True:
            idle = self._index.idle(self.now() - self._settle, EVICTED_AT_ONCE)
            old = [study.study_id for study in idle if study.last_use <= oldest]
            if not old:
                break
            self._evict_studies(old, reason)
        self.call_later(min(LOOK_EVERY_S, self.settings.max_age), self._keep_to_age)

    def _evict(self, wanted_bytes: int, reason: str) -> None:
        """Evict the least recently used studies until `wanted_bytes` are free or no study can be evicted."""
        self._write()
        while wanted_bytes > 0:
            chosen = []
            for study in self._index.idle(self.now() - self._settle, EVICTED_AT_ONCE):
                if wanted_bytes > 0:
                    chosen.append(study.study_id)
                    wanted_bytes -= study.size_bytes
            if not chosen:
                return
            self._evict_studies(chosen, reason)

    def _evict_studies(self, study_ids: Sequence[int], reason: str) -> None:
        instances = self._index.of_studies(study_ids)
        self.record("evicted", instances, reason)
        self._let_go(instances)

    # --- requests -----------------------------------------------------------------------------------------------------

    def compose(self, order: Order, job_id: str | None) -> Job:
        """Submit a job of all instances that the order names. `job_id`: derived from the Idempotency-Key, or None."""
        self._write()
        fingerprint = fingerprint_of(order)
        first = None if job_id is None else self._first(job_id, fingerprint)
        if first is not None:
            return first
        pipeline_id = self.settings.pipeline_id(order.pipeline)
        check(order)
        chosen = selection.choose(self._database, self.ae_title, order)
        if not order.insist:
            selection.require_arrived(self._database, chosen, self.now() - self._settle)
        job = self.submit_pipeline_job(
            order.name,
            pipeline_id,
            order.priority,
            chosen.instances,
            metadata=order.metadata,
            submitter=order.submitter,
            job_id=job_id,
        )
        kept = KeptJob(job_id=job.job_id, keep=order.keep, fingerprint=fingerprint, finished=False)
        self._index.add_job(kept, [instance.instance_id for instance in chosen.instances], self.now())
        self._index.use(chosen.studies, self.now())
        return job

    def _first(self, job_id: str, fingerprint: str) -> Job | None:
        """Return the job of an earlier call with the same key."""
        job = self.find_job(job_id)
        kept = self._index.find_job(job_id)
        if job is not None and kept is not None and kept.fingerprint != fingerprint:
            raise KeyReused("this Idempotency-Key has composed another job: choose a new key for a new request")
        return job

    def delete(self, study_instance_uid: str) -> None:
        """Delete a study. Jobs that contain it are still submitted."""
        instances = self._index.of_studies([self._study(study_instance_uid)])
        self.record("deleted", instances, "a user of the cache has deleted the study")
        self._let_go(instances)

    def pin(self, study_instance_uid: str, *, pinned: bool) -> None:
        """Pin a study, so that neither age nor size evicts it, or unpin it."""
        self._index.pin(self._study(study_instance_uid), pinned=pinned)

    def use(self, study_instance_uid: str) -> None:
        """Update the time of the last use of a study, if it still exists."""
        found = self._index.find_study(study_instance_uid)
        if found is not None:
            self._index.use([found], self.now())

    def _study(self, uid: str) -> int:
        self._write()
        found = self._index.find_study(uid)
        if found is None:
            raise NotInCache(f"there is no study {uid} at AE title '{self.ae_title}'")
        return found


def check(order: Order) -> None:
    """Raise InvalidRequest for an order that can never become a job."""
    if selects_nothing(order):
        raise InvalidRequest("the selection is empty: name patients, studies, series or instances", field="studies")
    taken = sorted(set(RESERVED) & order.metadata.keys())
    if taken:
        raise InvalidRequest(f"metadata must not have {', '.join(taken)}, which the adapter adds", field="metadata")


def fingerprint_of(order: Order) -> str:
    """Return a digest that is equal for equal orders."""
    return hashlib.blake2b(msgspec.json.encode(order, order="deterministic"), digest_size=16).hexdigest()
