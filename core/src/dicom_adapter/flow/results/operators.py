"""Step 6 (`results`) of the flow: the operations of operators on results that failed the check.

state        operation   next state   allowed when
quarantined  requeue     released     the result passes the check now, or the operator forces the delivery
released     requeue     released     a destination has no delivery job of it, and it is kept for some time
quarantined  discard     released     always
released     discard     released     no unfinished, faulted or failed job needs the result

A requeued result gets a delivery job for each destination that its job would have now, and that has none of it yet. A
discarded result is reclaimed, even if it was to be kept longer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import Factory, define, frozen

from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo, Job, JobPriority
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.dicom.part10_reader import Part10Reader
from dicom_adapter.flow.results.collect import PIECE_BYTES, StoredOutput
from dicom_adapter.flow.results.deliver import (
    ADD_SENDER,
    create_deliveries,
    destinations_of,
    judge_again,
    keep_until,
)
from dicom_adapter.flow.results.destinations import Destinations, KnownDestinations
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import Ledger, Transaction, attachments, events, instances, jobs, results
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.resources import Resources

UNKNOWN = "there is no such result"
SOON = timedelta(minutes=1)  # a result that is not kept for longer may be deleted by `reclaim` at any moment
NO_IDENTITY = (
    "it has no SOP Class UID, SOP Instance UID or transfer syntax, so no destination could accept it: export it"
)


@define
class ResultChanges:
    """The outcome of an operation on several results."""

    done: list[int] = Factory(list)  # ids of the changed results
    refused: dict[int, str] = Factory(dict)  # ids of the other results, with the reasons
    jobs: list[Job] = Factory(list)  # the new delivery jobs
    # Calling AE titles that do not get the results, because no submitter sends to them
    unknown_senders: set[str] = Factory(set)


@frozen(kw_only=True)
class Requeue:
    """Checks results again, and delivers them."""

    resources: Resources
    settings: Mapping[str, ResultsConfig]  # by AE title
    known: KnownDestinations
    history: timedelta  # the time for which results that wait for a destination are kept
    by: str  # name of the operator
    force: bool = False  # deliver results that fail the check, too

    def run(self, numbers: Collection[int]) -> ResultChanges:
        """Requeue these results. All changes are one transaction; files are read before it."""
        changes = ResultChanges(refused=dict.fromkeys(numbers, UNKNOWN))
        with self.resources.ledger.read() as transaction:
            rows = sorted(results.find(transaction, numbers), key=lambda row: row.instance.instance_id)
        files = {row.instance.instance_id: self._read(row, changes) for row in rows}
        now = self.resources.clock.now()
        with self.resources.ledger.write() as transaction:
            # Read the rows again: another command or the service may have changed them.
            rows = sorted(results.find(transaction, changes.refused), key=lambda row: row.instance.instance_id)
            forced: dict[int, str] = {}  # why results that are delivered by force fail the check
            accepted = [row for row in rows if self._accept(transaction, row, files, changes, forced)]
            results.release(transaction, [row.instance.instance_id for row in accepted], now, forced)
            self._record(transaction, accepted, forced, now)
            for job_number in dict.fromkeys(row.job_number for row in accepted):
                own = [row for row in accepted if row.job_number == job_number]
                self._deliver(transaction, own, changes, now)
        return changes

    def _read(self, row: ResultRow, changes: ResultChanges) -> StoredOutput | None:
        number = row.instance.instance_id
        try:
            return read_again(self.resources.storage, row)
        except (OSError, DicomAdapterError) as failure:
            text = (
                str(failure)
                if isinstance(failure, DicomAdapterError)
                else f"its file cannot be read: {failure.strerror}"
            )
            changes.refused[number] = text
            return None

    def _accept(
        self,
        transaction: Transaction,
        row: ResultRow,
        files: Mapping[int, StoredOutput | None],
        changes: ResultChanges,
        forced: dict[int, str],
    ) -> bool:
        """Decide whether a result is requeued; record the reason if it is not, or if it is delivered in spite of it."""
        number, output = row.instance.instance_id, files.get(row.instance.instance_id)
        refusal = self._refusal(transaction, row)
        if refusal:
            changes.refused[number] = refusal
            return False
        if output is None:  # `_read` has recorded the reason
            return False
        reason = judge_again(transaction, row.job_number, output, number).reason
        if reason and not self.force:
            changes.refused[number] = f"{reason}; `--force` delivers it nevertheless"
            return False
        instance = row.instance
        if not (instance.sop_class_uid and instance.sop_instance_uid and instance.transfer_syntax_uid):
            changes.refused[number] = NO_IDENTITY
            return False
        if reason:
            forced[number] = reason
        del changes.refused[number]
        changes.done.append(number)
        return True

    def _refusal(self, transaction: Transaction, row: ResultRow) -> str:
        """Return why the state of a result does not allow the operation; "" if it does."""
        if row.state is InstanceState.QUARANTINED:
            return ""
        if row.state is InstanceState.RECLAIMED:
            return "its file was deleted already"
        if row.keep_until is None or row.keep_until <= self.resources.clock.now() + SOON:
            return "it is released and may be deleted at any moment: only quarantined and kept results can be requeued"
        settings = self._settings_for(row)
        destinations = destinations_of(transaction, row.job_number, settings, self.known)
        if _missing(transaction, row, destinations):
            return ""
        if destinations.unknown_senders:
            return f"no submitter sends to {listed_senders(destinations.unknown_senders)}; {ADD_SENDER}"
        if not destinations.submitters:
            return "no destination is configured: `to` in [ae-titles.<AE title>.results]"
        return "each destination has a delivery job of it"

    def _deliver(
        self, transaction: Transaction, rows: Sequence[ResultRow], changes: ResultChanges, now: datetime
    ) -> None:
        instance = rows[0].instance
        source = jobs.get(transaction, rows[0].job_id) if rows[0].job_id else None
        job = _deleted_job(instance, rows[0].job_number) if source is None else source.job
        settings = self._settings_for(rows[0])
        destinations = destinations_of(transaction, rows[0].job_number, settings, self.known)
        missing = {row.instance.instance_id: _missing(transaction, row, destinations) for row in rows}
        results.keep(transaction, missing, keep_until(settings, destinations, now, self.history))
        files = attachments.of_job(transaction, rows[0].job_number)
        for name in destinations.submitters:
            chosen = [row.instance for row in rows if name in missing[row.instance.instance_id]]
            if chosen:
                changes.jobs += create_deliveries(transaction, job, chosen, files, [name], self.known, now)
        changes.unknown_senders.update(destinations.unknown_senders)

    def _settings_for(self, row: ResultRow) -> ResultsConfig:
        return self.settings.get(row.instance.ae_title) or ResultsConfig()

    def _record(
        self, transaction: Transaction, rows: Iterable[ResultRow], forced: Mapping[int, str], now: datetime
    ) -> None:
        changes = [
            _event("result_requeued", row.instance, self.by, forced.get(row.instance.instance_id, ""), now)
            for row in rows
        ]
        events.record(transaction, changes)


def discard(ledger: Ledger, clock: Clock, numbers: Collection[int], by: str) -> ResultChanges:
    """Discard results. `by` is the name of the operator."""
    now = clock.now()
    changes = ResultChanges(refused=dict.fromkeys(numbers, UNKNOWN))
    with ledger.write() as transaction:
        rows = results.find(transaction, numbers)
        needed = results.needed(transaction, [row.instance.instance_id for row in rows])
        for row in rows:
            number = row.instance.instance_id
            if row.state is InstanceState.RECLAIMED:
                changes.refused[number] = "its file was deleted already"
            elif number in needed:
                changes.refused[number] = f"job {needed[number]} needs it: cancel the job first"
            else:
                del changes.refused[number]
                changes.done.append(number)
        instances.discard(transaction, changes.done, now)
        results.keep(transaction, changes.done, None)
        done = set(changes.done)
        discarded = [row.instance for row in rows if row.instance.instance_id in done]
        events.record(transaction, [_event("result_discarded", instance, by, "", now) for instance in discarded])
    return changes


def read_again(storage: StorageBackend[Any], row: ResultRow) -> StoredOutput:
    """Read the stored object of a result. Raises OSError, StoredObjectMissing or StoredObjectChanged."""
    reader = Part10Reader(UNSUPPORTED_TRANSFER_SYNTAXES)
    with VerifiedReader(storage.read(row.instance.storage_key), row.instance) as file:
        while piece := file.read(PIECE_BYTES):
            reader.feed(piece)
    reader.end()
    return StoredOutput(name=row.name, storage_key=row.instance.storage_key, file=reader.result())


def listed_senders(senders: Iterable[str]) -> str:
    """Return these AE titles as one text."""
    return ", ".join(f"'{sender}'" for sender in senders)


def _missing(transaction: Transaction, row: ResultRow, destinations: Destinations) -> set[str]:
    """Return the destinations that have no delivery job of a result."""
    existing = {
        submitter for _job_id, submitter, _uploaded in results.deliveries(transaction, row.instance.instance_id)
    }
    return set(destinations.submitters) - existing


def _deleted_job(instance: InstanceStorageInfo, number: int) -> Job:
    """Return what is known of a job that was deleted from the ledger."""
    return Job(
        job_id="",
        name=f"job-{number}",
        ae_title=instance.ae_title,
        pipeline_id="",
        priority=JobPriority.NORMAL,
        submitter="",
        instance_count=0,
        created_at=instance.received_at,
        changed_at=instance.received_at,
    )


def _event(name: str, instance: InstanceStorageInfo, by: str, reason: str, now: datetime) -> Event:
    detail = {"by": by, "reason": reason} if reason else {"by": by}
    return Event(at=now, event=name, ae_title=instance.ae_title, instance_id=instance.instance_id, detail=detail)
