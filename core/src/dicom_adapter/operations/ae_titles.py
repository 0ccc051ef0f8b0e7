"""The operations of operators on AE titles: restart them, and end their waits for missing instances."""

from __future__ import annotations

from collections.abc import Sequence

from dicom_adapter.api.errors import Refused
from dicom_adapter.config.model import Config
from dicom_adapter.ledger import Ledger, association_reports, events, instance_rows, lanes
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.runtime.clock import Clock


def restart(ledger: Ledger, clock: Clock, config: Config, ae_title: str, by: str) -> None:
    """Request the restart of an AE title. `by`: name of the operator. Raises Refused if the AE title is not served."""
    with ledger.write() as transaction:
        refusal = _reason_refused(ae_title, config, ae_title in lanes.load(transaction))
        if refusal:
            raise Refused(f"AE title '{ae_title}' {refusal}")
        lanes.request_restart(transaction, ae_title)
        change = Event(at=clock.now(), event="restart_requested", ae_title=ae_title, detail={"by": by})
        events.record(transaction, [change])


def _reason_refused(ae_title: str, config: Config, is_known: bool) -> str:
    if ae_title not in config.ae_titles:
        return "is not configured"
    unavailable = config.unavailable(ae_title)
    if unavailable:
        return f"is not served: {unavailable}; fix that, then restart the service"
    return "" if is_known else "is not served yet: apply this configuration with `dicom-adapter reload --apply`"


def end_wait(ledger: Ledger, clock: Clock, ae_title: str, studies: Sequence[str], by: str) -> None:
    """Stop waiting for missing instances of studies: their groups are submitted as they are.

    `by`: name of the operator. Raises Refused if one of the studies has no pending instance.
    """
    now = clock.now()
    with ledger.write() as transaction:
        for study in studies:
            wanted = Filters(ae_title=ae_title, study_instance_uid=study)
            if not instance_rows.newest(transaction, 1, state=InstanceState.PENDING, filters=wanted):
                raise Refused(f"no instance of study {study} is pending at AE title '{ae_title}'")
        association_reports.end_wait(transaction, ae_title, studies, now)
        detail = {"reason": f"study {', '.join(studies)}", "by": by}
        events.record(transaction, [Event(at=now, event="wait_ended", ae_title=ae_title, detail=detail)])
