"""The timeline of a simulation: JSON for programs, text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import field, frozen

WIDTHS = (8, 16)  # of the kind, and of the AE title


@frozen(kw_only=True)
class Happening:
    """One entry of a timeline."""

    at: datetime  # UTC
    kind: str  # "arrived", "waits", "job", "quarantined", "failed" or "stopped"
    ae_title: str
    text: str
    fields: Mapping[str, Any] = field(factory=dict)  # the content of `text`, as values


@frozen(kw_only=True)
class Timeline:
    """Everything that happened in a simulation."""

    start: datetime
    end: datetime
    happenings: Sequence[Happening]  # in the order of time
    waiting: Sequence[Happening]  # groups that still wait at the end
    states: Mapping[str, int]  # number of instances in each state at the end

    def lines(self) -> Iterator[str]:
        """Yield the lines of text for people."""
        for happening in self.happenings:
            yield _line(self.start, happening)
        jobs = sum(happening.kind == "job" for happening in self.happenings)
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        yield ""
        yield f"{jobs} job{'' if jobs == 1 else 's'}; instances: {states or 'none'}"
        for happening in self.waiting:
            yield f"still waits at {happening.ae_title}: {happening.text}"

    def to_json(self) -> dict[str, Any]:
        """Return the timeline for programs."""
        return {
            "start": _iso(self.start),
            "end": _iso(self.end),
            "timeline": [_json(self.start, happening) for happening in self.happenings],
            "waiting": [{"aeTitle": waits.ae_title, **waits.fields} for waits in self.waiting],
            "instances": dict(sorted(self.states.items())),
        }


def _line(start: datetime, happening: Happening) -> str:
    kind, ae_title = happening.kind.ljust(WIDTHS[0]), happening.ae_title.ljust(WIDTHS[1])
    return f"{clock(happening.at - start)}  {kind}  {ae_title}  {happening.text}"


def _json(start: datetime, happening: Happening) -> dict[str, Any]:
    seconds = round((happening.at - start).total_seconds(), 6)
    own = {"at": _iso(happening.at), "seconds": seconds, "kind": happening.kind, "aeTitle": happening.ae_title}
    return {**own, **happening.fields}


def clock(since: timedelta) -> str:
    """Format a duration as hours, minutes, seconds and milliseconds."""
    milliseconds = round(since.total_seconds() * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")
