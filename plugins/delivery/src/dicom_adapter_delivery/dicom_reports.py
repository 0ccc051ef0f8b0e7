"""The listener for reports of storage commitment that a node sends over its own association (PS3.4 section J.3.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pynetdicom import AE, _config, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_adapter import Retriable
from dicom_adapter_delivery.dicom_commitment import (
    COMMITMENT,
    PROCESSING_FAILURE,
    Report,
    UnreadableReport,
    report_of,
)
from dicom_adapter_delivery.dicom_settings import DicomSettings

MOST_ASSOCIATIONS = 10  # at the same time
IDLE_S = 30.0  # an association without messages is aborted after this time
SUCCESS, INVALID_ARGUMENT = 0x0000, 0x0115  # statuses of a response to a report (PS3.7 annex C)


class ReportListener:
    """Listens for reports. `keep` records a report durably, and returns whether it answers a request."""

    def __init__(self, settings: DicomSettings, keep: Callable[[Report], bool]) -> None:
        self._settings = settings
        self._keep = keep
        self._server: ThreadedAssociationServer | None = None

    def open(self) -> None:
        """Listen. Raises Retriable if the port cannot be used."""
        settings = self._settings
        _config.LOG_HANDLER_LEVEL = "none"  # pynetdicom writes no log of its own
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        entity = AE(ae_title=settings.calling_ae_title)
        entity.maximum_associations = MOST_ASSOCIATIONS
        entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = IDLE_S
        # The requestor of the association has the role of the SCP, because the node is the SCP of storage commitment.
        entity.add_supported_context(COMMITMENT.sop_class_uid, scu_role=True, scp_role=True)
        entity.add_supported_context("1.2.840.10008.1.1")  # Verification
        address = (settings.commitment_bind, settings.commitment_port or 0)
        try:
            self._server = entity.start_server(
                address, block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._receive)]
            )
        except OSError as failure:
            reason = failure.strerror or type(failure).__name__
            raise Retriable(f"commitment-port {address[1]} at {address[0]} cannot be used: {reason}") from None

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _receive(self, event: evt.Event) -> tuple[int, None]:
        try:
            self._keep(report_of(lambda: event.event_information))
        except UnreadableReport:
            return INVALID_ARGUMENT, None
        except Exception:  # noqa: BLE001 - the node sends the report again; the next step of the job shows the cause
            return PROCESSING_FAILURE, None
        return SUCCESS, None  # also for a request that was repeated meanwhile: the node must not repeat its report
