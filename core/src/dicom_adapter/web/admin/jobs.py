"""`/api/jobs`: list, show, retry, cancel and prioritize jobs, and read their logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody, QueryParameter

from dicom_adapter.api.values import JobPriority, JobState
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Transaction, clean_ups, jobs, recorded_events
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.operations.documents.jobs import clean_up_as_json, event_as_json, job_as_json
from dicom_adapter.operations.job_log import last_lines
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.paging import USUAL_PAGE, After, Limit, number_in, split
from dicom_adapter.web.admin.parameters import (
    NAME_PATTERN,
    AeTitleQuery,
    EventView,
    JobPath,
    Since,
    SopQuery,
    StudyQuery,
    Until,
    event_view,
)
from dicom_adapter.web.admin.routes import ApiValue, not_found, route_arguments, time_of, view
from dicom_adapter.web.site import Site

PATH = "/api/jobs"
TAGS = ["jobs"]
MOST_LINES = 10_000
StateQuery = Annotated[
    list[JobState] | None, QueryParameter(name="state", description="Only jobs in these states; may be repeated")
]
SubmitterQuery = Annotated[str | None, QueryParameter(pattern=NAME_PATTERN, description="Only jobs of this submitter")]
Lines = Annotated[int, QueryParameter(ge=1, le=MOST_LINES, description="Number of last lines")]


class JobView(ApiValue, frozen=True, kw_only=True):
    """A job, without its metadata, which may contain patient data."""

    job_id: str
    name: str
    ae_title: str
    pipeline_id: str
    priority: JobPriority
    submitter: str
    state: JobState
    instances: int
    attachments: int
    created_at: datetime
    changed_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    last_error: str
    platform_job_id: str
    platform_payload_id: str
    platform_state: str
    platform_detail: str
    cancel_requested: bool
    run: int
    started_at: datetime | None
    study_instance_uid: str | None  # of the first instance; None if the job has no instances


class CleanUpView(ApiValue, frozen=True, kw_only=True):
    """Files of a run that the platform still has to delete."""

    run: int
    attempts: int
    next_attempt_at: datetime | None
    last_error: str


class JobDetailView(ApiValue, frozen=True, kw_only=True):
    """A job with its studies and its events."""

    job: JobView
    studies: dict[str, int]  # number of instances by Study Instance UID
    clean_ups: list[CleanUpView]
    events: list[EventView]


class JobPage(ApiValue, frozen=True, kw_only=True):
    """One page of jobs, the newest first."""

    items: list[JobView]
    next: str | None


class JobLog(ApiValue, frozen=True, kw_only=True):
    """The last lines of the log of a job's last run."""

    lines: list[str]


class Prioritization(ApiValue, frozen=True, kw_only=True):
    """Another priority for a job."""

    priority: JobPriority


def job_routes(site: Site) -> list[Any]:
    """Return the routes."""
    return [_list(site), _show(site), _log(site), *_changing(site)]


def _list(site: Site) -> Any:
    @get(
        PATH,
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, tags=TAGS, summary="List jobs, the newest first", operation_id="listJobs"),
    )
    def list_jobs(
        wanted: StateQuery = None,
        ae_title: AeTitleQuery = None,
        submitter: SubmitterQuery = None,
        study: StudyQuery = None,
        sop_instance: SopQuery = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = USUAL_PAGE,
        after: After = None,
    ) -> JobPage:
        filters = Filters(
            ae_title=ae_title,
            study_instance_uid=study,
            sop_instance_uid=sop_instance,
            since=time_of(since),
            until=time_of(until),
        )
        before = number_in("jobs", after)
        with site.resources.ledger.read() as transaction:
            found = jobs.newest(
                transaction, limit + 1, states=wanted or (), filters=filters, submitter=submitter, before=before
            )
            rows, following = split(found, limit, "jobs", lambda row: row.number)
            return JobPage(items=_views(transaction, rows), next=following)

    return list_jobs


def _show(site: Site) -> Any:
    @get(
        f"{PATH}/{{job_id:str}}",
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, 404, tags=TAGS, summary="Show a job with its events", operation_id="showJob"),
    )
    def show(job_id: JobPath) -> JobDetailView:
        with site.resources.ledger.read() as transaction:
            row = _find(transaction, job_id)
            [job] = _views(transaction, [row])
            return JobDetailView(
                job=job,
                studies=jobs.instances_by_study(transaction, row.number),
                clean_ups=[
                    view(clean_up_as_json(one), CleanUpView) for one in clean_ups.of_job(transaction, row.job.job_id)
                ],
                events=[
                    event_view(event_as_json(event)) for event in recorded_events.of_job(transaction, row.job.job_id)
                ],
            )

    return show


def _log(site: Site) -> Any:
    @get(
        f"{PATH}/{{job_id:str}}/log",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR, 404, 409, tags=TAGS, summary="The log of a job's last run", operation_id="showJobLog"
        ),
    )
    def log(job_id: JobPath, lines: Lines = 100) -> JobLog:
        with site.resources.ledger.read() as transaction:
            job = _find(transaction, job_id).job
        return JobLog(lines=last_lines(job, site.config(), site.plugins, lines))

    return log


def _changing(site: Site) -> list[Any]:
    ledger, clock = site.resources.ledger, site.resources.clock

    def arguments(operation: str, summary: str) -> dict[str, Any]:
        return route_arguments(
            Role.OPERATOR, 404, 409, status_code=200, tags=TAGS, summary=summary, operation_id=operation
        )

    def require(job_id: str) -> None:
        with ledger.read() as transaction:
            _find(transaction, job_id)

    def current(job_id: str) -> JobView:
        with ledger.read() as transaction:
            return _views(transaction, [_find(transaction, job_id)])[0]

    @post(f"{PATH}/{{job_id:str}}/retry", sync_to_thread=True, **arguments("retryJob", "Retry a job"))
    def retry(request: Request[Any, Any, Any], job_id: JobPath) -> JobView:
        require(job_id)
        operators.retry(ledger, clock, job_id, principal_of(request).name)
        return current(job_id)

    @post(f"{PATH}/{{job_id:str}}/cancel", sync_to_thread=True, **arguments("cancelJob", "Cancel a job"))
    def cancel(request: Request[Any, Any, Any], job_id: JobPath) -> JobView:
        require(job_id)
        operators.cancel(ledger, clock, job_id, principal_of(request).name)
        return current(job_id)

    more = route_arguments(
        Role.OPERATOR,
        *(404, 409, 413, 415),
        status_code=200,
        tags=TAGS,
        summary="Change the priority of a job whose first step has not begun",
        operation_id="prioritizeJob",
    )

    @post(f"{PATH}/{{job_id:str}}/priority", sync_to_thread=True, **more)
    def prioritize(request: Request[Any, Any, Any], job_id: JobPath, data: JSONBody[Prioritization]) -> JobView:
        require(job_id)
        operators.prioritize(ledger, clock, job_id, data.priority, principal_of(request).name)
        return current(job_id)

    return [retry, cancel, prioritize]


def _find(transaction: Transaction, job_id: str) -> JobRow:
    row = jobs.get(transaction, job_id)
    if row is None:
        raise not_found(f"There is no job {job_id}.")
    return row


def _views(transaction: Transaction, rows: Sequence[JobRow]) -> list[JobView]:
    studies: Mapping[int, str] = jobs.first_studies(transaction, [row.number for row in rows])
    return [view({**job_as_json(row.job), "studyInstanceUid": studies.get(row.number)}, JobView) for row in rows]
