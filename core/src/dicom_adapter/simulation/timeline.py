"""The timeline of a simulation, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import field, frozen

from dicom_adapter.api.counts import counted

WIDTHS = (8, 16)  # widths of the columns with the kind and the AE title, in characters


@frozen(kw_only=True)
class TimelineEntry:
    """One entry of a timeline."""

    at: datetime  # time in UTC
    kind: str  # "arrived", "waits", "job", "quarantined", "failed" or "stopped"
    ae_title: str
    text: str
    fields: Mapping[str, Any] = field(factory=dict)  # the content of `text`, as values


@frozen(kw_only=True)
class Timeline:
    """The events of a simulation, and its state at the end."""

    start: datetime
    end: datetime
    entries: Sequence[TimelineEntry]  # in the order of time
    waiting: Sequence[TimelineEntry]  # groups that still wait at the end
    states: Mapping[str, int]  # number of instances in each state at the end

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text."""
        for entry in self.entries:
            yield _line(self.start, entry)
        jobs = sum(entry.kind == "job" for entry in self.entries)
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        yield ""
        yield f"{counted(jobs, 'job')}; instances: {states or 'none'}"
        for entry in self.waiting:
            yield f"still waiting at {entry.ae_title}: {entry.text}"

    def to_json(self) -> dict[str, Any]:
        """Return the timeline as JSON values."""
        return {
            "start": _iso(self.start),
            "end": _iso(self.end),
            "timeline": [_json(self.start, entry) for entry in self.entries],
            "waiting": [{"aeTitle": group.ae_title, **group.fields} for group in self.waiting],
            "instances": dict(sorted(self.states.items())),
        }


def _line(start: datetime, entry: TimelineEntry) -> str:
    kind, ae_title = entry.kind.ljust(WIDTHS[0]), entry.ae_title.ljust(WIDTHS[1])
    return f"{clock(entry.at - start)}  {kind}  {ae_title}  {entry.text}"


def _json(start: datetime, entry: TimelineEntry) -> dict[str, Any]:
    seconds = round((entry.at - start).total_seconds(), 6)
    own = {"at": _iso(entry.at), "seconds": seconds, "kind": entry.kind, "aeTitle": entry.ae_title}
    return {**own, **entry.fields}


def clock(since: timedelta) -> str:
    """Format a duration as hours, minutes, seconds and milliseconds."""
    milliseconds = round(since.total_seconds() * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
