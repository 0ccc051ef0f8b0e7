"""The parameters that several routes have, and the values of requests with ids."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from litestar.exceptions import ClientException
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.web.admin.paging import END, LARGEST
from dicom_adapter.web.admin.routes import ApiValue, Json

UID_PATTERN = rf"^[0-9.]{{1,64}}{END}"  # PS3.5 section 9, without the rules that some devices violate
AE_TITLE_PATTERN = rf"^[ -\[\]-~]{{1,16}}{END}"
NAME_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}{END}"
PLAIN_PATTERN = rf"^[^\x00-\x1f\x7f]*{END}"
MOST_IDS = 1000  # objects that one request may change

Uid = Annotated[str, Meta(pattern=UID_PATTERN)]
AeTitleText = Annotated[str, Meta(pattern=AE_TITLE_PATTERN)]
PlainText = Annotated[str, Meta(max_length=1024, pattern=PLAIN_PATTERN)]
JobPath = Annotated[str, PathParameter(pattern=rf"^[0-9a-f]{{32}}{END}", description="Id of a job")]
NumberPath = Annotated[int, PathParameter(ge=1, le=LARGEST, description="Id of an instance or result")]
AeTitlePath = Annotated[str, PathParameter(pattern=AE_TITLE_PATTERN, description="A called AE title")]
AeTitleQuery = Annotated[
    str | None, QueryParameter(name="aeTitle", pattern=AE_TITLE_PATTERN, description="Only at this called AE title")
]
CallingQuery = Annotated[
    str | None,
    QueryParameter(name="callingAeTitle", pattern=AE_TITLE_PATTERN, description="Only from this calling AE title"),
]
StudyQuery = Annotated[
    str | None, QueryParameter(name="studyInstanceUid", pattern=UID_PATTERN, description="Only of this study")
]
SopQuery = Annotated[
    str | None, QueryParameter(name="sopInstanceUid", pattern=UID_PATTERN, description="Only this SOP instance")
]
ReasonQuery = Annotated[
    str | None,
    QueryParameter(
        name="reason",
        min_length=1,
        max_length=200,
        pattern=PLAIN_PATTERN,
        description="Only those whose reason for the quarantine contains this text; case is ignored",
    ),
]
Since = Annotated[datetime | None, QueryParameter(description="Only from this time on")]
Until = Annotated[datetime | None, QueryParameter(description="Only before this time")]


class Selection(ApiValue, frozen=True, kw_only=True):
    """Instances or results to change."""

    ids: Annotated[list[Annotated[int, Meta(ge=1, le=LARGEST)]], Meta(min_length=1, max_length=MOST_IDS)]


class EventView(ApiValue, frozen=True, kw_only=True):
    """One event. The members of `detail` depend on the event."""

    at: datetime
    event: str
    detail: Json


class ChangesView(ApiValue, frozen=True, kw_only=True):
    """The outcome of a change of several objects."""

    done: list[int]  # ids of the changed objects
    refused: dict[str, str]  # ids of the other objects, with the reasons


def require_few(reason: str | None, state: InstanceState | None, **few: object) -> None:
    """Raise ClientException (status 400) if a reason is wanted without a filter that selects few rows.

    Reasons have no index. `few`: other filters that select few rows, by name.
    """
    if reason is not None and state is not InstanceState.QUARANTINED and not any(few.values()):
        raise ClientException(f"reason alone would read all of them: add {' or '.join(['state=quarantined', *few])}.")


def event_view(document: Mapping[str, Any]) -> EventView:
    """Return the document of an event as a value."""
    rest = {name: value for name, value in document.items() if name not in ("at", "event")}
    return EventView(at=datetime.fromisoformat(document["at"]), event=document["event"], detail=rest)


def changes_view(done: list[int], refused: dict[int, str]) -> ChangesView:
    """Return the outcome of a change."""
    return ChangesView(done=sorted(done), refused={str(number): why for number, why in sorted(refused.items())})
