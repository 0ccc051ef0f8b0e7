"""Step 4 (`process`) of the flow: the turns that deliver instances and reports to a processor."""

from __future__ import annotations

from functools import partial

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process.inbox import Inbox
from dicom_adapter.flow.process.reactions import DueTurn, TurnKind
from dicom_adapter.flow.process.running_processor import RunningProcessor
from dicom_adapter.ledger.association_reports import ReportRow


def take_delivery(inbox: Inbox, running: RunningProcessor) -> DueTurn:
    """Remove the first instance or report from the inbox, and return the turn that delivers it."""
    first = inbox.first()
    assert first is not None  # the caller has checked it
    if isinstance(first, InstanceStorageInfo):
        inbox.pop_instance()
        running.delivered = first.instance_id
        call = partial(running.processor.handle_instance, first)
        return DueTurn(kind=TurnKind.INSTANCE, when=first.received_at, call=call, instance=first)
    inbox.pop_report()
    return _report_turn(first, running)


def _report_turn(row: ReportRow, running: RunningProcessor) -> DueTurn:
    if row.report is None:
        call = partial(running.processor.end_wait, row.studies)
    else:
        call = partial(running.processor.association_changed, row.report)
    return DueTurn(kind=TurnKind.REPORT, when=row.at, call=call)
