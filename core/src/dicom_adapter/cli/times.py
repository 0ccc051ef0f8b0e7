"""Times in the output for people: local times with the offset of their zone, or UTC with `--utc`. JSON is in UTC."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Annotated

import typer
from attrs import frozen

Utc = Annotated[bool, typer.Option("--utc", help="Show times in UTC instead of local time.")]

UTC_TIME = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\b")  # in reasons, which the service has written


@frozen
class Times:
    """Format of times in one zone. Without `zone`: the local zone, with its offset at the formatted time."""

    zone: tzinfo | None = None

    @classmethod
    def chosen(cls, utc: bool) -> Times:
        """Return the format for the option `--utc`."""
        return cls(timezone.utc if utc else None)

    def full(self, moment: datetime) -> str:
        """Return for example `2026-01-05 09:00:00 +01:00`, or `2026-01-05 08:00:00 UTC`."""
        local = moment.astimezone(self.zone)
        return f"{local:%Y-%m-%d %H:%M:%S} {_name(local)}"

    def clock(self, moment: datetime) -> str:
        """Return the time of day, without the zone."""
        return f"{moment.astimezone(self.zone):%H:%M:%S}"

    def day(self, moment: datetime) -> tuple[date, str]:
        """Return the day of a time, and its zone."""
        return moment.astimezone(self.zone).date(), self.zone_at(moment)

    def zone_at(self, moment: datetime) -> str:
        """Return for example `UTC+01:00`, or `UTC`."""
        return f"UTC{_name(moment.astimezone(self.zone)).removeprefix('UTC')}"

    def in_text(self, text: str) -> str:
        """Return a text with its UTC times in this zone."""
        return UTC_TIME.sub(lambda match: self._converted(match[0]), text)

    def _converted(self, text: str) -> str:
        try:
            return self.full(datetime.strptime(f"{text} +0000", "%Y-%m-%d %H:%M:%S UTC %z"))
        except (ValueError, OverflowError):  # a plugin's message, with digits that are not a time
            return text


def _name(local: datetime) -> str:
    offset = local.utcoffset() or timedelta()
    return "UTC" if not offset and local.tzname() == "UTC" else f"{local:%z}"[:3] + ":" + f"{local:%z}"[3:5]
