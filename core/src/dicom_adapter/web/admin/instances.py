"""`/api/instances`: list, show, requeue, discard and download received instances."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.exceptions import ClientException
from litestar.params import JSONBody, QueryParameter
from litestar.response import Stream
from msgspec.structs import replace

from dicom_adapter.api.errors import Permanent
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process import quarantine
from dicom_adapter.flow.verified_reader import VerifiedReader
from dicom_adapter.ledger import Transaction, events, instance_rows, lanes, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.instance_rows import InstanceRow
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.schema import instances as instances_table
from dicom_adapter.ledger.selected_instances import jobs_with
from dicom_adapter.operations.documents.instances import instance_as_json, origin_as_json
from dicom_adapter.operations.documents.jobs import event_as_json
from dicom_adapter.operations.interventions import discard_instances
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.paging import USUAL_PAGE, After, Limit, number_in, split
from dicom_adapter.web.admin.parameters import (
    AeTitleQuery,
    ChangesView,
    EventView,
    NumberPath,
    ReasonQuery,
    Selection,
    SopQuery,
    StudyQuery,
    changes_view,
    event_view,
    require_few,
)
from dicom_adapter.web.admin.routes import ApiValue, conflict, not_found, route_arguments, view
from dicom_adapter.web.site import Site

PATH = "/api/instances"
TAGS = ["instances"]
PIECE_BYTES = 256 * 1024  # size of the pieces in which a file is downloaded
StateQuery = Annotated[InstanceState | None, QueryParameter(name="state", description="Only instances in this state")]


class InstanceView(ApiValue, frozen=True, kw_only=True):
    """A received instance, without patient data."""

    instance_id: int
    ae_title: str
    state: InstanceState
    since: datetime
    study_instance_uid: str
    sop_instance_uid: str
    reason: str  # why it is, or was, quarantined
    held_because: str  # why it is pending and not delivered to its processor
    outcome: str


class InstanceDetailView(InstanceView, frozen=True, kw_only=True):
    """A received instance with its origin, its jobs and its events."""

    received_at: datetime
    calling_ae_title: str
    peer: str
    association_id: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    bytes: int
    checksum: str
    storage_key: str
    replaced_by: int | None
    jobs: list[str]
    events: list[EventView]


class InstancePage(ApiValue, frozen=True, kw_only=True):
    """One page of instances, the newest first."""

    items: list[InstanceView]
    next: str | None


def instance_routes(site: Site) -> list[Any]:
    """Return the routes."""
    return [*_reading(site), *_changing(site), _download(site)]


def _reading(site: Site) -> list[Any]:
    @get(
        PATH,
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER, tags=TAGS, summary="List received instances, the newest first", operation_id="listInstances"
        ),
    )
    def list_instances(
        wanted: StateQuery = None,
        ae_title: AeTitleQuery = None,
        study: StudyQuery = None,
        sop_instance: SopQuery = None,
        reason: ReasonQuery = None,
        limit: Limit = USUAL_PAGE,
        after: After = None,
    ) -> InstancePage:
        if ae_title is not None and wanted in (None, InstanceState.RECLAIMED) and not (study or sop_instance):
            raise ClientException(
                "aeTitle alone would read all instances: add studyInstanceUid, sopInstanceUid or another state."
            )
        require_few(reason, wanted, studyInstanceUid=study, sopInstanceUid=sop_instance)
        filters = Filters(ae_title=ae_title, study_instance_uid=study, sop_instance_uid=sop_instance)
        before = number_in("instances", after)
        with site.resources.ledger.read() as transaction:
            found = instance_rows.newest(
                transaction, limit + 1, state=wanted, filters=filters, reason=reason or "", before=before
            )
            stopped = lanes.stopped(transaction)
        rows, following = split(found, limit, "instances", lambda row: row.instance.instance_id)
        return InstancePage(items=[view(instance_as_json(row, stopped), InstanceView) for row in rows], next=following)

    @get(
        f"{PATH}/{{number:int}}",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER, 404, tags=TAGS, summary="Show an instance with its events", operation_id="showInstance"
        ),
    )
    def show(number: NumberPath) -> InstanceDetailView:
        with site.resources.ledger.read() as transaction:
            row = _find(transaction, number)
            members = jobs_with(transaction, instances_table.c.instance_id == number)
            document = {**instance_as_json(row, lanes.stopped(transaction)), **origin_as_json(row)}
            story = [event_view(event_as_json(event)) for event in recorded_events.of_instance(transaction, number)]
        document |= {"jobs": [job.job.job_id for job, _count in members], "events": []}
        return replace(view(document, InstanceDetailView), events=story)

    return [list_instances, show]


def _changing(site: Site) -> list[Any]:
    ledger, clock = site.resources.ledger, site.resources.clock

    def arguments(operation: str, summary: str) -> dict[str, Any]:
        more = {"status_code": 200, "tags": TAGS, "summary": summary, "operation_id": operation}
        return route_arguments(Role.OPERATOR, 409, 413, 415, **more)

    @post(
        f"{PATH}/requeue",
        sync_to_thread=True,
        **arguments("requeueInstances", "Deliver quarantined instances to their processors again"),
    )
    def requeue(request: Request[Any, Any, Any], data: JSONBody[Selection]) -> ChangesView:
        changes = quarantine.requeue(ledger, clock, data.ids, principal_of(request).name)
        return changes_view(changes.done, changes.refused)

    @post(
        f"{PATH}/discard",
        sync_to_thread=True,
        **arguments("discardInstances", "Discard instances permanently: their files are deleted"),
    )
    def discard(request: Request[Any, Any, Any], data: JSONBody[Selection]) -> ChangesView:
        changes = discard_instances(ledger, clock, site.config(), data.ids, principal_of(request).name)
        return changes_view(changes.done, changes.refused)

    return [requeue, discard]


def _download(site: Site) -> Any:
    @get(
        f"{PATH}/{{number:int}}/file",
        sync_to_thread=True,
        media_type="application/dicom",
        **route_arguments(
            Role.OPERATOR,
            *(404, 409),
            tags=TAGS,
            summary="Download the stored file of an instance or result, with patient data",
            operation_id="downloadInstance",
        ),
    )
    def download(request: Request[Any, Any, Any], number: NumberPath) -> Stream:
        with site.resources.ledger.read() as transaction:
            row = _find(transaction, number)
        if row.state is InstanceState.RECLAIMED:
            raise conflict("It is reclaimed: its file was deleted.")
        instance = row.instance
        event = Event(
            at=site.resources.clock.now(),
            event="instance_downloaded",
            ae_title=instance.ae_title,
            instance_id=instance.instance_id,
            detail={"by": principal_of(request).name},
        )
        pieces = _pieces(site, instance)
        try:
            first = next(pieces)  # before the response begins, so that a missing file is an error with a status
        except Permanent as failure:
            raise conflict(str(failure)) from None
        with site.resources.ledger.write() as transaction:
            events.record(transaction, [event])
        headers = {"Content-Disposition": f'attachment; filename="{instance.instance_id}.dcm"'}
        return Stream(_joined(first, pieces), media_type="application/dicom", headers=headers)

    return download


def _pieces(site: Site, instance: InstanceStorageInfo) -> Iterator[bytes]:
    """Yield the file in pieces. The last piece is not sent if the file differs from the received instance."""
    with site.resources.storage.read(instance.storage_key) as stored:
        reader = VerifiedReader(stored, instance)
        while piece := reader.read(PIECE_BYTES):
            yield piece


def _joined(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _find(transaction: Transaction, number: int) -> InstanceRow:
    rows = instance_rows.find(transaction, [number])
    if not rows:
        raise not_found(f"There is no instance {number}.")
    return rows[0]
