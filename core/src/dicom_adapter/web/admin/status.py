"""`/api/status` and `/api/ae-titles`: the state of the service, its AE titles and their waiting groups."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.params import JSONBody
from msgspec import Meta

from dicom_adapter.ledger import lanes
from dicom_adapter.ledger.held import Held, count_held
from dicom_adapter.operations import ae_titles as operations
from dicom_adapter.operations.documents.ae_titles import lane_as_json
from dicom_adapter.operations.documents.status import status_as_json
from dicom_adapter.operations.status_report import report_of_host
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.parameters import AeTitlePath, Uid
from dicom_adapter.web.admin.routes import ApiValue, Json, not_found, route_arguments, view
from dicom_adapter.web.admin.senders import RejectionView
from dicom_adapter.web.site import Site

PATH = "/api/ae-titles"
TAGS = ["service"]
AE_TITLE_TAGS = ["AE titles"]
MOST_STUDIES = 100  # studies of one request


class ProblemView(ApiValue, frozen=True, kw_only=True):
    """One reason why the health is not green."""

    level: str  # "yellow" or "red"
    part: str
    reason: str


class PartView(ApiValue, frozen=True, kw_only=True):
    """The health of one part of the service."""

    part: str
    state: str
    reason: str
    pid: int | None
    since: datetime
    seen_at: datetime


class WaitingJobsView(ApiValue, frozen=True, kw_only=True):
    """Jobs of a submitter that wait although nothing fails."""

    submitter: str
    jobs: int
    reason: str


class ConfigurationStateView(ApiValue, frozen=True, kw_only=True):
    """A configuration, and whether it is in use."""

    number: int
    state: str
    reason: str
    since: datetime


class StorageView(ApiValue, frozen=True, kw_only=True):
    """The space of the storage in bytes; None: unlimited or unknown."""

    total_bytes: int | None
    free_bytes: int | None
    watermark_percent: int
    reserve_bytes: int


class NotEnteredView(ApiValue, frozen=True, kw_only=True):
    """The instances that are stored, not yet entered in the ledger."""

    instances: int
    oldest_at: datetime | None  # time at which the oldest of them was stored


class AeTitleStatusView(ApiValue, frozen=True, kw_only=True):
    """The state of an AE title, with its instances and jobs."""

    ae_title: str
    state: str
    reason: str
    groups: int
    next_due_at: datetime | None
    pending: int
    quarantined: int
    quarantined_results: int
    quarantined_bytes: int
    faulted_bytes: int
    duplicates: dict[str, int]  # number of duplicates of pending instances: dropped, and quarantined
    jobs: dict[str, int]  # number of jobs by state
    oldest_unfinished_job: Json | None


class StatusView(ApiValue, frozen=True, kw_only=True):
    """The status of the service, as `dicom-adapter status --json` prints it."""

    health: str  # "green", "yellow" or "red"
    problems: list[ProblemView]
    service: str
    parts: list[PartView]
    configuration: ConfigurationStateView | None
    storage: StorageView
    not_entered: NotEnteredView
    waiting_jobs: list[WaitingJobsView]
    rejections: list[RejectionView]
    ae_titles: list[AeTitleStatusView]


class LaneView(ApiValue, frozen=True, kw_only=True):
    """An AE title as the host has last reported it."""

    ae_title: str
    state: str
    since: datetime
    reason: str
    full: str
    groups: int
    pending: int
    quarantined: int
    restarts: int


class GroupView(ApiValue, frozen=True, kw_only=True):
    """Instances that a processor will submit together."""

    label: str  # without patient data
    instances: int
    until: datetime | None  # its deadline; None: it waits for a request
    problem: str  # why instances of it may be missing


class GroupsView(ApiValue, frozen=True, kw_only=True):
    """The waiting groups of an AE title: the groups that are due next, and the number of all groups."""

    total: int
    items: list[GroupView]


class StudySelection(ApiValue, frozen=True, kw_only=True):
    """Studies of an AE title."""

    study_instance_uids: Annotated[list[Uid], Meta(min_length=1, max_length=MOST_STUDIES)]


class Requested(ApiValue, frozen=True, kw_only=True):
    """A request that the service carries out within seconds."""

    requested: bool = True


def status_routes(site: Site) -> list[Any]:
    """Return the routes."""
    return [*_reading(site), *_changing(site)]


def _reading(site: Site) -> list[Any]:
    @get(
        "/api/status",
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, tags=TAGS, summary="The status of the service", operation_id="showStatus"),
    )
    def status() -> StatusView:
        with site.resources.ledger.read() as transaction:
            now = site.resources.clock.system_time()
            report = report_of_host(transaction, site.config(), site.resources, now)
        return view(status_as_json(report), StatusView)

    @get(
        PATH,
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, tags=AE_TITLE_TAGS, summary="List the AE titles", operation_id="listAeTitles"),
    )
    def list_ae_titles() -> list[LaneView]:
        with site.resources.ledger.read() as transaction:
            found, held = lanes.load(transaction), count_held(transaction)
        return [view(lane_as_json(found[name], held.get(name, Held())), LaneView) for name in sorted(found)]

    @get(
        f"{PATH}/{{ae_title:str}}/groups",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER, 404, tags=AE_TITLE_TAGS, summary="The waiting groups of an AE title", operation_id="listGroups"
        ),
    )
    def list_groups(ae_title: AeTitlePath) -> GroupsView:
        with site.resources.ledger.read() as transaction:
            lane = lanes.load(transaction).get(ae_title)
        if lane is None:
            raise not_found(f"There is no AE title '{ae_title}'.")
        groups = [
            GroupView(label=one.label, instances=one.instance_count, until=one.until, problem=one.problem)
            for one in lane.waiting
        ]
        return GroupsView(total=lane.groups, items=groups)

    return [status, list_ae_titles, list_groups]


def _changing(site: Site) -> list[Any]:
    ledger, clock = site.resources.ledger, site.resources.clock

    @post(
        f"{PATH}/{{ae_title:str}}/restart",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR,
            *(404, 409),
            status_code=202,
            tags=AE_TITLE_TAGS,
            summary="Restart an AE title: a new processor receives all pending instances",
            operation_id="restartAeTitle",
        ),
    )
    def restart(request: Request[Any, Any, Any], ae_title: AeTitlePath) -> Requested:
        operations.restart(ledger, clock, site.config(), ae_title, principal_of(request).name)
        return Requested()

    @post(
        f"{PATH}/{{ae_title:str}}/end-wait",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR,
            *(404, 409, 413, 415),
            status_code=202,
            tags=AE_TITLE_TAGS,
            summary="Stop waiting for missing instances of studies: their groups are submitted as they are",
            operation_id="endWait",
        ),
    )
    def end_wait(request: Request[Any, Any, Any], ae_title: AeTitlePath, data: JSONBody[StudySelection]) -> Requested:
        by = principal_of(request).name
        operations.end_wait(ledger, clock, ae_title, data.study_instance_uids, by)
        return Requested()

    return [restart, end_wait]
