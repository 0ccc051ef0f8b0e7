"""The configuration of notifications: [notifications.<name>]."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time, timedelta
from typing import Annotated, Any, TypeAlias
from zoneinfo import ZoneInfo

from attrs import Attribute, field, frozen
from attrs.validators import optional

from dicom_adapter.api.notifier import NoticeKind
from dicom_adapter.api.settings import HELP, between, not_empty, setting
from dicom_adapter.config.listening import DAY_S
from dicom_adapter.config.names import AeTitle, Refined
from dicom_adapter.config.tables import DERIVED

TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
HOURS_PER_YEAR = 8784
MINUTES_PER_DAY = 1440


def time_of_day(text: str) -> str:
    """Accept a time of day."""
    if not TIME_OF_DAY.fullmatch(text):
        raise ValueError('must be a time of day with hours and minutes, such as "07:30"')
    return text


def time_span(text: str) -> str:
    """Accept two times of day, joined by a dash."""
    start, dash, end = text.partition("-")
    if not dash or not TIME_OF_DAY.fullmatch(start) or not TIME_OF_DAY.fullmatch(end) or start == end:
        raise ValueError('must be two different times of day, such as "22:00-06:00"')
    return text


def time_zone(text: str) -> str:
    """Accept the name of a time zone."""
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError('must be the name of a time zone that this machine knows, such as "Europe/Berlin"') from None
    return text


def parse_time(text: str) -> time:
    """Return a time of day that `time_of_day` has accepted."""
    hours, _, minutes = text.partition(":")
    return time(int(hours), int(minutes))


TimeOfDay: TypeAlias = Annotated[str, Refined(time_of_day)]
TimeSpan: TypeAlias = Annotated[str, Refined(time_span)]
TimeZone: TypeAlias = Annotated[str, Refined(time_zone)]


def _silent(_instance: Any, _attribute: Attribute[Any], value: Mapping[str, float]) -> None:
    """hours from 0.1 to 8784

    Validate the hours of each sender.
    """
    for name, hours in value.items():
        if not 0.1 <= hours <= HOURS_PER_YEAR:
            raise ValueError(f"must have hours from 0.1 to {HOURS_PER_YEAR}; '{name}' has {hours:g}")


def _not_always_quiet(_instance: Any, _attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    """not the whole day

    Validate that a message can be sent at some time of the day.
    """
    quiet: set[int] = set()  # minutes of the day
    for span in value:
        first, last = (60 * at.hour + at.minute for at in map(parse_time, span.split("-")))
        quiet |= {minute % MINUTES_PER_DAY for minute in range(first, last if first < last else last + MINUTES_PER_DAY)}
    if len(quiet) == MINUTES_PER_DAY:
        raise ValueError("must not cover the whole day: no message would ever be sent")


@frozen(kw_only=True)
class NotificationConfig:
    """[notifications.<name>]: messages to people. All keys without a field below are the notifier's settings."""

    type: str = setting(help="Name of the notifier, as `dicom-adapter plugins` lists it.")
    events: tuple[NoticeKind, ...] | None = setting(
        default=None, validator=optional(not_empty), help="Kinds of events to send; if omitted, all."
    )
    ae_titles: tuple[AeTitle, ...] | None = setting(
        default=None,
        validator=optional(not_empty),
        help=(
            "Called AE titles whose events are sent; if omitted, all. Events that concern no AE title, such as a lack "
            "of space, are sent in any case."
        ),
    )
    gather: float = setting(
        default=30.0,
        validator=between(0, 3600, "seconds"),
        help="Seconds from the first event to the message. All events until then are in the same message.",
    )
    pause: float = setting(
        default=300.0,
        validator=between(0, DAY_S, "seconds"),
        help="Minimum time between two messages, in seconds. Events in between are in the next message.",
    )
    quiet_hours: tuple[TimeSpan, ...] = setting(
        default=(),
        validator=_not_always_quiet,
        help='Times of the day without messages, such as `["22:00-06:00"]`; the events are sent afterwards.',
    )
    urgent: tuple[NoticeKind, ...] = setting(
        default=(), help="Kinds of events that are sent also in quiet hours, and at other times than those of `digest`."
    )
    digest: tuple[TimeOfDay, ...] = setting(
        default=(),
        help='Times of the day at which everything since the last message is sent, such as `["07:30"]`, and only then.',
    )
    time_zone: TimeZone | None = setting(
        default=None, help="Time zone of `quiet-hours` and `digest`; if omitted, that of the machine."
    )
    recoveries: bool = setting(
        default=True, help="If true, a message is also sent when a reported condition has ended."
    )
    silent_hours: Mapping[AeTitle, float] = setting(
        factory=dict,
        validator=_silent,
        help=(
            "Calling AE titles that are expected to send, with the hours without an association after which "
            "`sender-silent` is sent, such as `{CT1 = 24, MR2 = 72}`."
        ),
    )
    settings: Any = field(default=None, metadata={DERIVED: True, HELP: "Settings of the notifier."}, kw_only=True)
    unavailable: str = field(
        default="", metadata={DERIVED: True, HELP: "Reason why the notifier cannot be used."}, kw_only=True
    )

    def wants(self, kind: NoticeKind, ae_title: str) -> bool:
        """Return whether events of this kind and AE title ("": of none) are sent."""
        is_wanted = self.events is None or kind in self.events
        return is_wanted and (not ae_title or self.ae_titles is None or ae_title in self.ae_titles)

    def silence_of(self, calling_ae_title: str) -> timedelta:
        """Return the time without an association after which an expected sender is silent."""
        return timedelta(hours=self.silent_hours[calling_ae_title])
