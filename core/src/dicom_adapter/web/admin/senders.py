"""`/api/senders`: the senders with their accepted and rejected associations, and why they were rejected."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from litestar import get

from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.senders import DAY
from dicom_adapter.operations.documents.senders import sender_as_json
from dicom_adapter.operations.senders import find_senders
from dicom_adapter.web.access.principal import Role
from dicom_adapter.web.admin.paging import USUAL_PAGE, After, Limit, cursor, number_in
from dicom_adapter.web.admin.parameters import AeTitleQuery, CallingQuery, Since, Until
from dicom_adapter.web.admin.routes import ApiValue, route_arguments, time_of, view
from dicom_adapter.web.site import Site

TAGS = ["senders"]


class RejectionView(ApiValue, frozen=True, kw_only=True):
    """The rejections of one sender for one kind of reason."""

    calling_ae_title: str
    peer: str
    ae_title: str
    cause: str
    reason: str
    count: int
    first_at: datetime
    last_at: datetime


class SenderView(ApiValue, frozen=True, kw_only=True):
    """A sender with its accepted and rejected associations."""

    calling_ae_title: str  # "" if it has requested no association
    peers: list[str]
    first_seen_at: datetime
    last_seen_at: datetime
    silent_seconds: int
    associations: int
    instances: int
    refused: int
    ae_titles: list[str]
    rejections: list[RejectionView]


class SenderPage(ApiValue, frozen=True, kw_only=True):
    """One page of senders, in the order of their names."""

    items: list[SenderView]
    next: str | None


def sender_routes(site: Site) -> list[Any]:
    """Return the routes."""

    @get(
        "/api/senders",
        sync_to_thread=True,
        description="Without `since`, the senders are listed with their rejections of the last 24 hours. With `since`, "
        "only senders that were seen since then are listed, with their rejections since then.",
        **route_arguments(Role.VIEWER, tags=TAGS, summary="List the senders", operation_id="listSenders"),
    )
    def list_senders(
        calling: CallingQuery = None,
        ae_title: AeTitleQuery = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = USUAL_PAGE,
        after: After = None,
    ) -> SenderPage:
        now = site.resources.clock.now()
        filters = Filters(calling_ae_title=calling, ae_title=ae_title, since=time_of(since), until=time_of(until))
        with site.resources.ledger.read() as transaction:
            found = find_senders(transaction, filters, filters.since or now - DAY)
        first = number_in("senders", after) or 0
        page = found[first : first + limit]
        following = cursor("senders", first + limit) if len(found) > first + limit else None
        return SenderPage(items=[view(sender_as_json(one, now), SenderView) for one in page], next=following)

    return [list_senders]
