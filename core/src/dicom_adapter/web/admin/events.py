"""`/api/events`: the newest events of the ledger, among them associations and the changes of operators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import get
from litestar.params import QueryParameter

from dicom_adapter.ledger import recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.web.access.principal import Role
from dicom_adapter.web.admin.paging import END, USUAL_PAGE, After, Limit, cursor, number_in
from dicom_adapter.web.admin.parameters import AeTitleQuery
from dicom_adapter.web.admin.routes import ApiValue, Json, route_arguments
from dicom_adapter.web.site import Site

TAGS = ["events"]
SEARCHED = 20_000  # number of events among which a page is searched
NameQuery = Annotated[
    str,
    QueryParameter(
        name="event",
        pattern=rf"^[a-z_]{{0,32}}{END}",
        description="Only events whose names begin with this text, such as `association_closed` or `job_`",
    ),
]


class LedgerEventView(ApiValue, frozen=True, kw_only=True):
    """One event. The members of `detail` depend on the event; docs/operation.md lists the events."""

    number: int
    at: datetime
    event: str
    ae_title: str  # "" if it concerns no AE title
    association_id: str | None
    instance_id: int | None
    job_id: str | None
    detail: Json


class EventPage(ApiValue, frozen=True, kw_only=True):
    """One page of events, the newest first. `next` may be given although `items` is empty: search on."""

    items: list[LedgerEventView]
    next: str | None


def event_routes(site: Site) -> list[Any]:
    """Return the routes."""

    @get(
        "/api/events",
        sync_to_thread=True,
        **route_arguments(Role.VIEWER, tags=TAGS, summary="List events, the newest first", operation_id="listEvents"),
    )
    def list_events(
        event: NameQuery = "", ae_title: AeTitleQuery = None, limit: Limit = USUAL_PAGE, after: After = None
    ) -> EventPage:
        before = number_in("events", after)
        with site.resources.ledger.read() as transaction:
            end = recorded_events.last_number(transaction) + 1 if before is None else before
            found = recorded_events.newest(
                transaction, limit, searched=SEARCHED, before=end, ae_title=ae_title, prefix=event
            )
        is_full = len(found) == limit
        following = found[-1][0] if is_full else end - SEARCHED
        return EventPage(
            items=[_view(number, one) for number, one in found],
            next=cursor("events", following) if following > 1 else None,
        )

    return [list_events]


def _view(number: int, event: Event) -> LedgerEventView:
    return LedgerEventView(
        number=number,
        at=event.at,
        event=event.event,
        ae_title=event.ae_title,
        association_id=event.association_id,
        instance_id=event.instance_id,
        job_id=event.job_id,
        detail=dict(event.detail),
    )
