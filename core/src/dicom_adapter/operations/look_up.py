"""Find studies and jobs by a UID, Accession Number, Patient ID or job id; find rejections if none matches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from attrs import frozen

from dicom_adapter.dicom.identity import UID_GRAMMAR
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Transaction, recorded_events, senders, studies
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.ledger.senders import Rejected
from dicom_adapter.ledger.studies import StudySummary
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.operations.senders import merged
from dicom_adapter.operations.story import Unknown

MOST_STUDIES = 50  # number of studies that are listed
MOST_ASSOCIATIONS = 10_000  # number of associations whose refusals are counted: the newest
USUAL_TIME = timedelta(days=1)  # period before `until` that is searched if no start is given
JOB_ID = re.compile(r"[0-9a-fA-F]{1,32}")


@frozen(kw_only=True)
class Matches:
    """The studies and the job that a value or filters select."""

    subject: str = ""  # the UID or job id, if there is exactly one match
    studies: Sequence[StudySummary] = ()  # the studies, if several match
    job: str = ""  # id of a job that matches as well
    are_more: bool = False  # there are more studies


def match_value(transaction: Transaction, value: str, not_entered: Sequence[ReceivedInstance] = ()) -> Matches:
    """Look for a UID, a job id or its prefix, an Accession Number or a Patient ID.

    `not_entered`: instances that are stored, not yet entered in the ledger. Raises Unknown if nothing matches.
    """
    is_uid = "." in value and UID_GRAMMAR.fullmatch(value) is not None
    by_uid = Filters(study_instance_uid=value), Filters(series_instance_uid=value), Filters(sop_instance_uid=value)
    if is_uid and any(studies.find(transaction, one, 1) or studies_without_rows(not_entered, one) for one in by_uid):
        return Matches(subject=value)
    found = {
        study.study_instance_uid: study
        for one in (Filters(accession_number=value), Filters(patient_id=value))
        for study in [*studies_without_rows(not_entered, one), *studies.find(transaction, one, MOST_STUDIES + 1)]
    }
    jobs = ledger_jobs.with_prefix(transaction, value.lower(), 2) if JOB_ID.fullmatch(value) else []
    if jobs and not found:
        return Matches(subject=value)
    if is_uid and not found:
        raise Unknown(f"the ledger has no study, series or SOP instance with the UID {value}")
    return _matches(list(found.values()), jobs[0].job.job_id if jobs else "")


def match_filters(transaction: Transaction, wanted: Filters, not_entered: Sequence[ReceivedInstance] = ()) -> Matches:
    """Look for the studies with selected instances. `not_entered` and errors: as `match_value`."""
    found = find_studies(transaction, wanted, not_entered)
    if found and wanted == Filters(sop_instance_uid=wanted.sop_instance_uid):
        return Matches(subject=wanted.sop_instance_uid or "")
    return _matches(found, "")


def find_studies(
    transaction: Transaction, wanted: Filters, not_entered: Sequence[ReceivedInstance] = ()
) -> list[StudySummary]:
    """Return the studies with selected instances, the newest first. At most MOST_STUDIES + 1 come from the ledger."""
    found = studies.find(transaction, wanted, MOST_STUDIES + 1)
    known = {study.study_instance_uid for study in found}
    new = [study for study in studies_without_rows(not_entered, wanted) if study.study_instance_uid not in known]
    return sorted([*found, *new], key=lambda study: study.last_at, reverse=True)


def _matches(found: list[StudySummary], job: str) -> Matches:
    """Return the studies and the job (its id, or ""). Raises Unknown if there are no studies."""
    if not found:
        raise Unknown("the ledger has no study, instance or job that matches")
    if len(found) == 1 and not job:
        return Matches(subject=found[0].study_instance_uid)
    found.sort(key=lambda study: study.last_at, reverse=True)
    return Matches(studies=found[:MOST_STUDIES], job=job, are_more=len(found) > MOST_STUDIES)


# --- instances that are stored, not yet entered -----------------------------------------------------------------------


def selected(not_entered: Iterable[ReceivedInstance], wanted: Filters) -> list[ReceivedInstance]:
    """Return the instances that match the filters."""
    return [instance for instance in not_entered if all(_conditions(instance, wanted))]


def _conditions(instance: ReceivedInstance, wanted: Filters) -> Iterator[bool]:
    columns, received_at = instance.columns, to_datetime(instance.columns["received_at"])
    uids = "study_instance_uid", "series_instance_uid", "sop_instance_uid"
    for name in (*uids, "patient_id", "calling_ae_title", "ae_title"):
        yield getattr(wanted, name) in (None, columns[name])
    yield wanted.accession_number in (None, instance.look_up.get("accession_number", ""))
    yield wanted.since is None or wanted.since <= received_at
    yield wanted.until is None or received_at < wanted.until


def studies_without_rows(not_entered: Sequence[ReceivedInstance], wanted: Filters) -> list[StudySummary]:
    """Return the studies of the selected instances without rows. Each study counts these instances only."""
    found: dict[str, list[ReceivedInstance]] = {}
    for instance in selected(not_entered, wanted):
        found.setdefault(instance.study_instance_uid, []).append(instance)
    return [
        StudySummary(
            study_instance_uid=study,
            instances=len(own),
            first_at=to_datetime(min(one.columns["received_at"] for one in own)),
            last_at=to_datetime(max(one.columns["received_at"] for one in own)),
            ae_titles=sorted({one.ae_title for one in own}),
            calling_ae_titles=sorted({one.calling_ae_title for one in own}),
            jobs={},
            series=list(dict.fromkeys(one.series() for one in own)),
        )
        for study, own in found.items()
    ]


# --- what did not become an instance ----------------------------------------------------------------------------------


@frozen(kw_only=True)
class RefusedInstances:
    """Refused instances of one sender at one AE title, with one status. Their UIDs are only in the log."""

    calling_ae_title: str
    peer_address: str
    ae_title: str
    status: str  # name of a CStoreStatus
    count: int
    last_at: datetime  # UTC; end of the last association with such instances


@frozen(kw_only=True)
class NotReceived:
    """Rejections and refusals of a period: they may concern an instance that is missing."""

    since: datetime  # UTC
    until: datetime  # UTC
    rejected: Sequence[Rejected]
    refused: Sequence[RefusedInstances]


def find_not_received(transaction: Transaction, wanted: Filters, now: datetime) -> NotReceived:
    """Return the rejections and refusals that match the sender, the AE title and the period of the filters."""
    until = wanted.until or now
    since = wanted.since or min(until, now) - USUAL_TIME
    rejected = [
        one
        for one in senders.rejected(transaction, since, until)
        if wanted.calling_ae_title in (None, one.calling_ae_title) and wanted.ae_title in (None, one.ae_title)
    ]
    refused = _refused(recorded_events.association_ends(transaction, since, until, MOST_ASSOCIATIONS), wanted)
    return NotReceived(since=since, until=until, rejected=merged(rejected), refused=refused)


def _refused(ends: Iterable[Event], wanted: Filters) -> list[RefusedInstances]:
    found: dict[tuple[str, ...], RefusedInstances] = {}
    for end in ends:
        calling, peer = end.text("calling_ae_title"), end.text("peer")
        if wanted.calling_ae_title not in (None, calling) or wanted.ae_title not in (None, end.ae_title):
            continue
        for status, count in end.counts("statuses").items():
            if status == CStoreStatus.SUCCESS.name:
                continue
            key = calling, peer, end.ae_title, status
            before = found.get(key)
            found[key] = RefusedInstances(
                calling_ae_title=calling,
                peer_address=peer,
                ae_title=end.ae_title,
                status=status,
                count=count + (before.count if before else 0),
                last_at=max(end.at, before.last_at) if before else end.at,
            )
    return sorted(found.values(), key=lambda one: one.last_at, reverse=True)
