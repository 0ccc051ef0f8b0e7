"""The snapshots for live updates: the overview, and the changes since the snapshot before."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dicom_adapter.ledger import Transaction, jobs, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.last_arrivals import last_arrivals
from dicom_adapter.ledger.numbering import INSTANCES, JOBS
from dicom_adapter.operations.status_report import report_of_host
from dicom_adapter.web.pages.event_list import view_event
from dicom_adapter.web.pages.live import Messages
from dicom_adapter.web.pages.overview import OverviewContent, view_overview
from dicom_adapter.web.pages.rates import RowsPerMinute
from dicom_adapter.web.pages.rendering import fragment
from dicom_adapter.web.site import Site

OVERVIEW, CHANGES, EVENTS = "overview", "changes", "events"
TOPICS = (OVERVIEW, CHANGES, EVENTS)
MOST_EVENTS = 200  # events of one snapshot; if there are more, pages read the newest events again


class Snapshots:
    """Source of the snapshots. Only one thread at a time may call `compute`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._instances, self._jobs = RowsPerMinute(INSTANCES), RowsPerMinute(JOBS)
        self._last_event: int | None = None  # number of the last event that was reported; None: before the first

    def compute(self, topics: Collection[str]) -> Messages:
        """Return the message of each topic: the overview, the changes, or the new events."""
        with self._site.resources.ledger.read() as transaction:
            found = self._new_events(transaction)
            messages: dict[str, Any] = {}
            if OVERVIEW in topics:
                view = self.overview(transaction)
                messages[OVERVIEW] = {"html": fragment("overview_live.html", view=view)}
        number = self._last_event or 0
        if CHANGES in topics:
            messages[CHANGES] = {"number": number, **_changes(found)}
        if EVENTS in topics:
            rows = [fragment("event_row.html", event=view_event(one, event)) for one, event in reversed(found)]
            messages[EVENTS] = {"number": number, "rows": rows, "more": len(found) == MOST_EVENTS}
        return messages

    def overview(self, transaction: Transaction) -> OverviewContent:
        """Return what the overview shows now."""
        now = self._site.resources.clock.system_time()
        report = report_of_host(transaction, self._site.config(), self._site.resources, now)
        rates = {
            "Instances": self._instances.count(transaction, now),
            "Jobs": self._jobs.count(transaction, now),
        }
        return view_overview(
            report,
            rates,
            last_arrivals(transaction),
            jobs.count_unfinished(transaction),
            is_new=INSTANCES.last(transaction) == 0 and not report.facts.backlog.count,
        )

    def _new_events(self, transaction: Transaction) -> Sequence[tuple[int, Event]]:
        """Return the events since the last call; the first call returns none."""
        last = recorded_events.last_number(transaction)
        if self._last_event is None or last < self._last_event:
            self._last_event = last
            return []
        found = recorded_events.after(transaction, max(self._last_event, last - MOST_EVENTS), MOST_EVENTS)
        self._last_event = last
        return found


def _changes(found: Sequence[tuple[int, Event]]) -> dict[str, Any]:
    """Return the names of what has changed. A page that shows one of these objects reads its content again."""
    return {
        "jobs": sorted({event.job_id for _number, event in found if event.job_id}),
        "aeTitles": sorted({event.ae_title for _number, event in found if event.ae_title}),
        "events": sorted({event.event for _number, event in found}),
    }
