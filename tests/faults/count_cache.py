"""The count for the AE title with the processor `cache`. Pure functions, like `count`.

stored         for every acknowledged instance there was a row with its bytes: a new row, or that of which it was a
               duplicate
gone           a row is kept (or quarantined), or was deleted with its study, or by a job that cleans up
cleaned up     no row is kept that was deleted, or that a job should have deleted
composed       an order that was answered with a job has this job and no other, however often it was sent; every
               job belongs to an order
complete       a job has instances of exactly the ordered studies, and all of those that were acknowledged before,
               unless they may have been deleted meanwhile
refused        a refused order has no job, and there was a reason to refuse it
shown          the cache lists exactly the instances that are pending in the ledger, with bytes that were sent
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import inf

from attrs import frozen

from faults.adapter import CACHE, SETTLE_SECONDS
from faults.clock import ClockRange
from faults.evidence import Evidence, LedgerInstance, LedgerJob
from faults.lookup import WAITING, Lookup
from faults.orders import COMPOSED, CONFLICT, DELETED, NOT_FOUND, REFUSALS, UNAVAILABLE, Call, Deletion, Order
from faults.records import Sent

STILL_ARRIVING = "urn:dicom-adapter:cache:still-arriving"  # `type` of a refusal
ANSWERS = (None, COMPOSED, NOT_FOUND, CONFLICT, UNAVAILABLE)  # expected statuses; None: no response
LONGEST_SENDING = 25.0  # seconds from a request without a response to a possible row of the request


@frozen(kw_only=True)
class OrderHistory:
    """An order, with all requests for it and its jobs in the ledger."""

    order: Order
    calls: tuple[Call, ...]  # in the order of their beginning
    jobs: tuple[LedgerJob, ...]

    @property
    def composed(self) -> Call | None:
        """The first request that was answered with a job."""
        return next((call for call in self.calls if call.status == COMPOSED), None)

    @property
    def began(self) -> float:
        """The earliest time at which the job may have been composed: after the last refusal before the job."""
        began = self.calls[0].began
        for before, call in pairwise(self.calls):
            if before.status == COMPOSED:
                break
            if before.status in REFUSALS:
                began = call.began
        return began

    @property
    def ended(self) -> float:
        """The latest time at which the job may have been composed."""
        return inf if self.composed is None else _end(self.composed)


@frozen(kw_only=True)
class CacheIndex:
    """Indexes of the evidence about the cache."""

    histories: Mapping[str, OrderHistory]  # by key
    sent: Mapping[str, list[Sent]]  # requests to the cache, by study
    deletions: Mapping[str, list[Deletion]]  # by study, without deletions that had no effect
    cleaning_orders: Mapping[int, list[OrderHistory]]  # by row number: orders whose jobs delete the row afterwards
    rows: tuple[LedgerInstance, ...]
    digests: Mapping[int, str]  # of rows whose content is known


def findings(evidence: Evidence, lookup: Lookup) -> Iterator[tuple[str, str]]:
    """Return each broken rule with its description."""
    index = _index(evidence, lookup)
    for name, rule in RULES.items():
        for what in rule(evidence, index):
            yield name, what


def _index(evidence: Evidence, lookup: Lookup) -> CacheIndex:
    sent, deletions, cleaning_orders, calls, jobs = (defaultdict(list) for _ in range(5))
    for request in evidence.sent:
        if request.ae_title == CACHE:
            sent[request.study_instance_uid].append(request)
    for deletion in evidence.orders.deletions:
        if deletion.status != NOT_FOUND:
            deletions[deletion.study].append(deletion)
    for call in evidence.orders.calls:
        calls[call.order.key].append(call)
    for job in evidence.jobs:
        if job.ae_title == CACHE:
            jobs[job.name].append(job)
    histories = {
        key: OrderHistory(order=calls_of_order[0].order, calls=tuple(calls_of_order), jobs=tuple(jobs.get(key, ())))
        for key, calls_of_order in calls.items()
    }
    for history in histories.values():
        for number in {number for job in history.jobs for number in job.instances if not history.order.keep}:
            cleaning_orders[number].append(history)
    rows = tuple(row for row in evidence.instances if row.ae_title == CACHE)
    return CacheIndex(
        histories=histories,
        sent=sent,
        deletions=deletions,
        cleaning_orders=cleaning_orders,
        rows=rows,
        digests=_digests(evidence, lookup, rows),
    )


def _digests(evidence: Evidence, lookup: Lookup, rows: tuple[LedgerInstance, ...]) -> dict[int, str]:
    shown = {kept.sop_instance_uid: kept.digest for kept in evidence.kept}
    digests = {
        row.number: shown[row.sop_instance_uid] for row in rows if _is_kept(row) and row.sop_instance_uid in shown
    }
    for job in lookup.started:
        files = {file.sop_instance_uid: file.digest for file in job.files}
        ledger_job = lookup.jobs.get(job.adapter_job)
        for number in ledger_job.instances if ledger_job is not None and ledger_job.ae_title == CACHE else ():
            uid = lookup.by_number[number].sop_instance_uid
            if uid in files:
                digests[number] = files[uid]
    return digests


def _is_kept(row: LedgerInstance) -> bool:
    return row.state == "pending"


def _end(request: Call | Deletion | Sent) -> float:
    """Return the latest time at which the effect of a request occurred."""
    return inf if request.answered is None else request.answered


# --- the rules ------------------------------------------------------------------------------------------------------


def _without_row(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    rows = defaultdict(list)
    for row in index.rows:
        rows[row.sop_instance_uid].append(row)
    for request in (request for own in index.sent.values() for request in own if request.is_acknowledged):
        if not any(
            row.received - evidence.clock.ahead <= _end(request)
            and (row.state in WAITING or row.changed + evidence.clock.behind >= request.began)
            and index.digests.get(row.number, request.digest) == request.digest
            for row in rows[request.sop_instance_uid]
        ):
            yield f"instance {request.sop_instance_uid}, acknowledged at {request.answered}, had no row at that time"


def _unexpectedly_gone(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    for row in index.rows:
        was_deleted = any(
            deletion.began <= row.changed + evidence.clock.behind
            and row.received - evidence.clock.ahead <= _end(deletion)
            for deletion in index.deletions.get(row.study_instance_uid, ())
        )
        if row.state not in WAITING and row.number not in index.cleaning_orders and not was_deleted:
            yield f"row {row.number} of instance {row.sop_instance_uid} is {row.state}, without a request"


def _not_cleaned_up(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    for row in filter(_is_kept, index.rows):
        for history in index.cleaning_orders.get(row.number, ()):
            yield f"row {row.number} should have been deleted with the job {history.order.key}, but is kept"
        for deletion in index.deletions.get(row.study_instance_uid, ()):
            if deletion.status == DELETED and any(
                request.is_acknowledged and row.received + evidence.clock.behind <= _end(request) < deletion.began
                for request in index.sent[row.study_instance_uid]
                if request.sop_instance_uid == row.sop_instance_uid
            ):
                yield f"row {row.number} was deleted with its study at {deletion.answered}, but is kept"


def _composed(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    for key, history in index.histories.items():
        for call in history.calls:
            if call.status not in ANSWERS:
                yield f"order {key} was answered with {call.status} ({call.problem})"
        answered = {call.job_id for call in history.calls if call.status == COMPOSED}
        if len(answered) > 1:
            yield f"order {key} was answered with {len(answered)} jobs"
        if history.composed is not None and {job.job_id for job in history.jobs} != answered:
            yield f"order {key} was answered with {sorted(answered)}, and has {[job.job_id for job in history.jobs]}"
        if len(history.jobs) > 1:
            yield f"order {key} has {len(history.jobs)} jobs"
        if any(job.pipeline != history.order.pipeline for job in history.jobs):
            yield f"order {key} has a job of another pipeline"
    for job in evidence.jobs:
        if job.ae_title == CACHE and job.name not in index.histories:
            yield f"job {job.job_id} ('{job.name}') was never ordered"


def _complete(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    rows = {row.number: row for row in index.rows}
    for key, history in index.histories.items():
        for job in history.jobs:
            members = [rows[number] for number in job.instances]
            has = {row.study_instance_uid for row in members}
            for study in sorted(has ^ set(history.order.studies)):
                yield f"job {key} has {'instances' if study in has else 'nothing'} of study {study}"
            wanted = {
                uid
                for study in history.order.studies
                for uid in _certain(index, study, history.began, history.ended, history)
            }
            for uid in sorted(wanted - {row.sop_instance_uid for row in members}):
                yield f"job {key} lacks instance {uid}"


def _certain(
    index: CacheIndex, study: str, began: float, ended: float, excluded: OrderHistory | None = None
) -> set[str]:
    """Return the instances of a study that were acknowledged before `began` and cannot be deleted before `ended`."""
    cleaning: dict[str, list[OrderHistory]] = defaultdict(list)
    for row in index.rows:
        if row.study_instance_uid == study:
            cleaning[row.sop_instance_uid] += [
                history for history in index.cleaning_orders.get(row.number, ()) if history is not excluded
            ]
    return {
        request.sop_instance_uid
        for request in index.sent.get(study, ())
        if request.is_acknowledged
        and _end(request) < began
        and not any(
            deletion.began < ended and _end(deletion) > request.began for deletion in index.deletions.get(study, ())
        )
        and not any(history.began < ended for history in cleaning[request.sop_instance_uid])
    }


def _refused(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    for key, history in index.histories.items():
        refusals = [call for call in history.calls if call.status in REFUSALS]
        if history.composed is None and history.jobs and history.calls[-1] in refusals:
            yield f"order {key} was refused, and has a job"
        for call in refusals:
            if history.composed is not None and call.began > history.composed.began:
                yield f"order {key} was answered with a job, and then with {call.status}"
            elif call.status == NOT_FOUND and all(
                _certain(index, study, call.began, _end(call)) for study in history.order.studies
            ):
                yield f"order {key} was answered with {call.status} at {call.answered}, although its studies were there"
            elif call.status == CONFLICT and not _may_be_arriving(index, call, evidence.clock):
                yield f"order {key} was answered with {call.status} ({call.problem}) at {call.answered} without reason"


def _may_be_arriving(index: CacheIndex, call: Call, clock: ClockRange) -> bool:
    longest = SETTLE_SECONDS + clock.behind + clock.ahead
    arrivals = (request for study in call.order.studies for request in index.sent.get(study, ()))
    latest = max(
        (min(_end(request), request.began + LONGEST_SENDING) for request in arrivals if request.may_be_kept),
        default=-inf,
    )
    return call.problem == STILL_ARRIVING and not call.order.insist and latest > call.began - longest


def _shown(evidence: Evidence, index: CacheIndex) -> Iterator[str]:
    shown = Counter((kept.study_instance_uid, kept.sop_instance_uid) for kept in evidence.kept)
    kept = Counter((row.study_instance_uid, row.sop_instance_uid) for row in index.rows if _is_kept(row))
    for _study, uid in sorted((shown - kept).keys() | (kept - shown).keys()):
        yield f"instance {uid} is kept {kept[_study, uid]} times, and shown {shown[_study, uid]} times"
    for instance in evidence.kept:
        sent = index.sent.get(instance.study_instance_uid, ())
        if not any(
            (request.sop_instance_uid, request.digest) == (instance.sop_instance_uid, instance.digest)
            and request.may_be_kept
            for request in sent
        ):
            yield f"instance {instance.sop_instance_uid} is shown with bytes that were not sent"


RULES: Mapping[str, Callable[[Evidence, CacheIndex], Iterator[str]]] = {
    "stored": _without_row,
    "gone": _unexpectedly_gone,
    "cleaned up": _not_cleaned_up,
    "composed": _composed,
    "complete": _complete,
    "refused": _refused,
    "shown": _shown,
}
