"""`/api/results`: list, show, requeue and discard results, with their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from dicom_adapter.api.values import JobState
from dicom_adapter.flow.results import operators
from dicom_adapter.ledger import Transaction, attachments, jobs, recorded_events, results
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.deliveries import attachment_deliveries_of, deliveries_of
from dicom_adapter.operations.documents.jobs import event_as_json
from dicom_adapter.operations.documents.results import attachment_as_json, result_as_json
from dicom_adapter.operations.interventions import requeue_results
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.paging import END, USUAL_PAGE, After, Limit, number_in, split
from dicom_adapter.web.admin.parameters import (
    AeTitleQuery,
    ChangesView,
    EventView,
    JobPath,
    NumberPath,
    ReasonQuery,
    Selection,
    StudyQuery,
    changes_view,
    event_view,
    require_few,
)
from dicom_adapter.web.admin.routes import ApiValue, not_found, route_arguments, view
from dicom_adapter.web.site import Site

PATH = "/api/results"
TAGS = ["results"]
StateQuery = Annotated[InstanceState | None, QueryParameter(name="state", description="Only results in this state")]
JobQuery = Annotated[
    str | None, QueryParameter(name="jobId", pattern=rf"^[0-9a-f]{{32}}{END}", description="Only results of this job")
]


class DeliveryView(ApiValue, frozen=True, kw_only=True):
    """The delivery of a result or attachment to one destination."""

    destination: str
    job_id: str
    state: JobState
    since: datetime
    uploaded: bool  # the destination has received it
    error: str


class ResultView(ApiValue, frozen=True, kw_only=True):
    """A DICOM file that a job has produced, without patient data."""

    instance_id: int
    ae_title: str
    state: InstanceState
    since: datetime
    job_id: str  # "" if that job was deleted
    reason: str  # why it is, or was, quarantined
    outcome: str
    collected_at: datetime
    keep_until: datetime | None
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    bytes: int
    storage_key: str
    deliveries: list[DeliveryView]


class ResultDetailView(ApiValue, frozen=True, kw_only=True):
    """A result with its events."""

    result: ResultView
    events: list[EventView]


class ResultPage(ApiValue, frozen=True, kw_only=True):
    """One page of results, the newest first."""

    items: list[ResultView]
    next: str | None


class AttachmentView(ApiValue, frozen=True, kw_only=True):
    """A file that a job has produced and that is not DICOM."""

    attachment: int
    job_id: str
    bytes: int
    checksum: str
    storage_key: str
    deliveries: list[DeliveryView]


class ResultSelection(Selection, frozen=True, kw_only=True):
    """Results to deliver again."""

    force: bool = False  # deliver results that fail the check, too


class ResultChangesView(ChangesView, frozen=True, kw_only=True):
    """The outcome of a delivery of results."""

    jobs: list[str]  # ids of the new delivery jobs
    unknown_senders: list[str]  # calling AE titles that get nothing, because no submitter sends to them


def result_routes(site: Site) -> list[Any]:
    """Return the routes."""
    return [*_reading(site), _attachments(site), *_changing(site)]


def _reading(site: Site) -> list[Any]:
    ledger = site.resources.ledger

    @get(
        PATH,
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, 404, tags=TAGS, summary="List results", operation_id="listResults"),
    )
    def list_results(
        wanted: StateQuery = None,
        job_id: JobQuery = None,
        ae_title: AeTitleQuery = None,
        study: StudyQuery = None,
        reason: ReasonQuery = None,
        limit: Limit = USUAL_PAGE,
        after: After = None,
    ) -> ResultPage:
        require_few(reason, wanted, studyInstanceUid=study, jobId=job_id)
        filters, before = Filters(ae_title=ae_title, study_instance_uid=study), number_in("results", after)
        with ledger.read() as transaction:
            number = None if job_id is None else _job_number(transaction, job_id)
            found = results.newest(
                transaction,
                limit + 1,
                state=wanted,
                job_number=number,
                filters=filters,
                reason=reason or "",
                before=before,
            )
            rows, following = split(found, limit, "results", lambda row: row.instance.instance_id)
            return ResultPage(items=_views(transaction, rows), next=following)

    @get(
        f"{PATH}/{{number:int}}",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER, 404, tags=TAGS, summary="Show a result with its events", operation_id="showResult"
        ),
    )
    def show(number: NumberPath) -> ResultDetailView:
        with ledger.read() as transaction:
            rows = results.find(transaction, [number])
            if not rows:
                raise not_found(f"There is no result {number}.")
            story = [event_view(event_as_json(event)) for event in recorded_events.of_instance(transaction, number)]
            return ResultDetailView(result=_views(transaction, rows)[0], events=story)

    return [list_results, show]


def _attachments(site: Site) -> Any:
    ledger = site.resources.ledger

    @get(
        "/api/jobs/{job_id:str}/attachments",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER, 404, tags=TAGS, summary="List the attachments of a job", operation_id="listAttachments"
        ),
    )
    def list_attachments(job_id: JobPath) -> list[AttachmentView]:
        with ledger.read() as transaction:
            found = attachments.of_job(transaction, _job_number(transaction, job_id))
            return [
                view(
                    attachment_as_json(one, job_id, attachment_deliveries_of(transaction, one.instance_id)),
                    AttachmentView,
                )
                for one in found
            ]

    return list_attachments


def _changing(site: Site) -> list[Any]:
    def arguments(operation: str, summary: str) -> dict[str, Any]:
        more = {"status_code": 200, "tags": TAGS, "summary": summary, "operation_id": operation}
        return route_arguments(Role.OPERATOR, 409, 413, 415, **more)

    @post(
        f"{PATH}/requeue",
        sync_to_thread=True,
        **arguments("requeueResults", "Check results again, and deliver them where they have not been delivered"),
    )
    def requeue(request: Request[Any, Any, Any], data: JSONBody[ResultSelection]) -> ResultChangesView:
        by = principal_of(request).name
        changes = requeue_results(site.resources, site.config(), site.plugins, data.ids, by, force=data.force)
        common = changes_view(changes.done, changes.refused)
        return ResultChangesView(
            done=common.done,
            refused=common.refused,
            jobs=[job.job_id for job in changes.jobs],
            unknown_senders=sorted(changes.unknown_senders),
        )

    @post(
        f"{PATH}/discard",
        sync_to_thread=True,
        **arguments("discardResults", "Discard results permanently: their files are deleted"),
    )
    def discard(request: Request[Any, Any, Any], data: JSONBody[Selection]) -> ChangesView:
        changes = operators.discard(site.resources.ledger, site.resources.clock, data.ids, principal_of(request).name)
        return changes_view(changes.done, changes.refused)

    return [requeue, discard]


def _job_number(transaction: Transaction, job_id: str) -> int:
    row = jobs.get(transaction, job_id)
    if row is None:
        raise not_found(f"There is no job {job_id}.")
    return row.number


def _views(transaction: Transaction, rows: Sequence[ResultRow]) -> list[ResultView]:
    delivered = deliveries_of(transaction, [row.instance.instance_id for row in rows])
    return [view(result_as_json(row, delivered[row.instance.instance_id]), ResultView) for row in rows]
