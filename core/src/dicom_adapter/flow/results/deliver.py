"""Step 6 (`results`) of the flow: enter the rows of a job's outputs, and create a delivery job for each destination.

A delivery job is an ordinary job: the submitter that its destination names uploads each result, with the same retries,
priorities and commands for operators as for every job. The results are kept until all their delivery jobs are finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

import structlog
from attrs import frozen

from dicom_adapter.api.values import SOURCE_JOB, InstanceStorageInfo, Job
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.flow.results.check import Expected, KnownInstance, OutputKind, Verdict, judge
from dicom_adapter.flow.results.collect import StoredOutput
from dicom_adapter.flow.results.destinations import DestinationFacts, Destinations, KnownDestinations, choose
from dicom_adapter.flow.results.file_names import file_names
from dicom_adapter.ledger import Transaction, attachments, events, job_attachments, jobs, results, series
from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.results import NewResult, SameUid
from dicom_adapter.ledger.series import ArrivedSeries

log = structlog.get_logger("dicom_adapter.results")

DELIVERY = "results"  # the pipeline id of delivery jobs
ADD_SENDER = "add a [submitters.<name>] table that sends to each of them, then requeue the results"


@frozen(kw_only=True)
class CommittedResults:
    """The rows that were committed for the outputs of a job."""

    delivered: int  # number of results that get delivery jobs, if there are destinations
    quarantined: int
    attachments: int
    attachments_to: Sequence[str]  # the destinations that get the attachments
    attachments_wait: bool  # no DICOM output passes the check, so the attachments are not delivered now
    size_bytes: int
    jobs: Sequence[Job]  # the delivery jobs
    studies: Sequence[str]  # Study Instance UIDs of the results that are delivered
    unknown_senders: Sequence[str]  # calling AE titles that do not get the results, although they should

    def describe(self) -> dict[str, object]:
        """Return the detail of an event."""
        return {
            "results": self.delivered,
            "quarantined": self.quarantined,
            "attachments": self.attachments,
            "attachments_to": list(self.attachments_to),
            "attachments_wait": self.attachments_wait,
            "bytes": self.size_bytes,
            "destinations": [job.submitter for job in self.jobs],
        }


def is_delivery(job: Job) -> bool:
    """Return whether a job delivers results of another job."""
    return SOURCE_JOB in job.metadata


def enter(
    transaction: Transaction,
    source: JobRow,
    outputs: Sequence[StoredOutput],
    settings: ResultsConfig,
    known: KnownDestinations,
    now: datetime,
    history: timedelta,
) -> CommittedResults:
    """Enter the rows of all outputs of a job, and its delivery jobs. The caller changes the job's state, too.

    `history`: the time for which results that wait for a destination are kept.
    """
    destinations = destinations_of(transaction, source.number, settings, known)
    verdicts = _judge_all(transaction, source, outputs)
    of_kind = {
        kind: [pair for pair in zip(outputs, verdicts, strict=True) if pair[1].kind is kind] for kind in OutputKind
    }
    kept = [_attachment(output, source.number) for output, _verdict in of_kind[OutputKind.ATTACHMENT]]
    stored = attachments.insert(transaction, kept)
    new = [
        _new_result(output, verdict, source.job, now)
        for kind in (OutputKind.GOOD, OutputKind.BAD)
        for output, verdict in of_kind[kind]
    ]
    entered = results.insert(transaction, source.number, new, keep_until(settings, destinations, now, history))
    count = len(of_kind[OutputKind.GOOD])
    good, bad = entered[:count], list(zip(entered[count:], of_kind[OutputKind.BAD], strict=True))
    series.enter(transaction, {_series(output) for output, _verdict in of_kind[OutputKind.GOOD]}, now)
    events.record(transaction, [_quarantined(instance, verdict.reason, now) for instance, (_output, verdict) in bad])
    # If no DICOM output passes the check, the attachments may be wrong, too: they wait until an operator has decided.
    files = [] if bad and not good else stored
    delivery = create_deliveries(transaction, source.job, good, files, destinations.submitters, known, now)
    committed = CommittedResults(
        delivered=len(good),
        quarantined=len(bad),
        attachments=len(kept),
        attachments_to=[job.submitter for job in delivery if job.attachment_count],
        attachments_wait=bool(stored) and not files,
        size_bytes=sum(output.file.size_bytes for output in outputs),
        jobs=delivery,
        studies=list(dict.fromkeys(instance.study_instance_uid for instance in good)),
        unknown_senders=destinations.unknown_senders if good else (),
    )
    events.record(transaction, [_of_job("results_collected", source.job, committed.describe(), now)])
    if committed.unknown_senders:
        detail: dict[str, object] = {"senders": list(committed.unknown_senders)}
        events.record(transaction, [_of_job("results_sender_unknown", source.job, detail, now)])
    return committed


def destinations_of(
    transaction: Transaction, source_number: int, settings: ResultsConfig, known: KnownDestinations
) -> Destinations:
    """Return the destinations of the results of a job."""
    senders = results.senders_of_job(transaction, source_number) if settings.to_sender else ()
    return choose(settings, senders, known)


def create_deliveries(
    transaction: Transaction,
    source: Job,
    chosen: Sequence[InstanceStorageInfo],
    files: Sequence[Attachment],
    destinations: Iterable[str],
    known: KnownDestinations,
    now: datetime,
) -> list[Job]:
    """Create a delivery job with these results and attachments for each destination that has something to receive.

    A destination that takes no attachments gets the results only, and an attachment goes to each destination once.
    """
    created = []
    for destination in destinations:
        facts = known.get(destination, DestinationFacts())
        own = _not_delivered(transaction, files, destination) if facts.takes_attachments else []
        if not chosen and not own:
            continue
        job = _delivery_job(source, destination, len(chosen), len(own), now)
        number = jobs.insert(transaction, job, [instance.instance_id for instance in chosen])
        names = file_names(attachment.name for attachment in own)
        job_attachments.insert(transaction, number, [attachment.instance_id for attachment in own], names)
        detail = {"name": job.name, "pipeline": job.pipeline_id, "instances": job.instance_count}
        if own:
            detail["attachments"] = job.attachment_count
        events.record(transaction, [_of_job("job_queued", job, detail, now)])
        created.append(job)
    return created


def _not_delivered(transaction: Transaction, files: Sequence[Attachment], destination: str) -> list[Attachment]:
    numbers = job_attachments.without_job_of(transaction, [file.instance_id for file in files], destination)
    return [file for file in files if file.instance_id in numbers]


def judge_again(transaction: Transaction, source_number: int, output: StoredOutput, instance_id: int) -> Verdict:
    """Decide again about a result that is in the ledger."""
    expected = Expected(patients=results.patients_of_job(transaction, source_number))
    uid = output.file.identity.sop_instance_uid
    known = results.with_uids(transaction, source_number, [uid] if uid else [], excluding=instance_id)
    return judge(output.file, expected, _known(known.get(uid)), is_repeated=False)


def log_collected(job: Job, committed: CommittedResults) -> None:
    """Write the log lines about results, after their transaction was committed."""
    detail = committed.describe()
    if committed.quarantined:
        log.warning("results_collected", job_id=job.job_id, ae_title=job.ae_title, **detail)
    else:
        log.info("results_collected", job_id=job.job_id, ae_title=job.ae_title, **detail)
    if committed.unknown_senders:
        senders = list(committed.unknown_senders)
        log.warning(
            "results_sender_unknown", job_id=job.job_id, ae_title=job.ae_title, senders=senders, hint=ADD_SENDER
        )


def _judge_all(transaction: Transaction, source: JobRow, outputs: Sequence[StoredOutput]) -> list[Verdict]:
    expected = Expected(patients=results.patients_of_job(transaction, source.number))
    uids = [output.file.identity.sop_instance_uid for output in outputs]
    known = results.with_uids(transaction, source.number, {uid for uid in uids if uid})
    seen: set[str] = set()
    verdicts = []
    for output, uid in zip(outputs, uids, strict=True):
        verdicts.append(judge(output.file, expected, _known(known.get(uid)), is_repeated=uid in seen))
        if output.file.is_part10 and not output.file.problem:
            seen.add(uid)
    return verdicts


def _known(found: SameUid | None) -> KnownInstance | None:
    if found is None:
        return None
    return KnownInstance(instance_id=found.instance_id, source_job=found.source_job, is_input=found.is_input)


def keep_until(
    settings: ResultsConfig, destinations: Destinations, now: datetime, history: timedelta
) -> datetime | None:
    """Return until when results are kept although no job needs them; None if they need not be kept."""
    needed = now + history if destinations.unknown_senders or not destinations.submitters else None
    if settings.keep_days is None:
        return needed
    chosen = now + timedelta(days=settings.keep_days)
    return max(chosen, needed) if destinations.unknown_senders and needed else chosen


def _delivery_job(source: Job, destination: str, count: int, attachment_count: int, now: datetime) -> Job:
    return Job(
        job_id=uuid4().hex,
        name=f"{source.name}-to-{destination}",
        ae_title=source.ae_title,
        pipeline_id=DELIVERY,
        priority=source.priority,
        submitter=destination,
        instance_count=count,
        attachment_count=attachment_count,
        metadata={**_source(source.metadata), SOURCE_JOB: source.job_id, "Instances": str(count)},
        created_at=now,
        changed_at=now,
    )


def _source(metadata: Mapping[str, str]) -> dict[str, str]:
    return {"Source": metadata["Source"]} if "Source" in metadata else {}


def _new_result(output: StoredOutput, verdict: Verdict, source: Job, now: datetime) -> NewResult:
    file, identity = output.file, output.file.identity
    instance = InstanceStorageInfo(
        instance_id=UNNUMBERED,
        ae_title=source.ae_title,
        calling_ae_title="",
        peer_address="",
        association_id="",
        sop_class_uid=identity.sop_class_uid,
        sop_instance_uid=identity.sop_instance_uid,
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=identity.series_instance_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        patient_id=identity.patient_id,
        issuer_of_patient_id=identity.issuer_of_patient_id,
        received_at=now,
        storage_key=output.storage_key,
        size_bytes=file.size_bytes,
        checksum=file.checksum,
    )
    return NewResult(instance=instance, name=output.name, reason=verdict.reason)


def _attachment(output: StoredOutput, job_number: int) -> Attachment:
    return Attachment(
        instance_id=UNNUMBERED,
        job_number=job_number,
        name=output.name,
        storage_key=output.storage_key,
        size_bytes=output.file.size_bytes,
        checksum=output.file.checksum,
    )


def _series(output: StoredOutput) -> ArrivedSeries:
    identity = output.file.identity
    return ArrivedSeries(
        identity.series_instance_uid, identity.study_instance_uid, identity.patient_id, **identity.look_up
    )


def _quarantined(instance: InstanceStorageInfo, reason: str, now: datetime) -> Event:
    detail = {"reason": reason}
    number = instance.instance_id
    return Event(at=now, event="result_quarantined", ae_title=instance.ae_title, instance_id=number, detail=detail)


def _of_job(event: str, job: Job, detail: Mapping[str, object], now: datetime) -> Event:
    return Event(at=now, event=event, ae_title=job.ae_title, job_id=job.job_id, detail=detail)
