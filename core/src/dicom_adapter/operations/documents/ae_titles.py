"""AE titles as JSON values."""

from __future__ import annotations

from typing import Any

from dicom_adapter.ledger.held import Held
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.operations.documents.moments import iso


def lane_as_json(lane: LaneReport, held: Held) -> dict[str, Any]:
    """Return the report about an AE title as JSON values."""
    return {
        "aeTitle": lane.ae_title,
        "state": lane.state.value,
        "since": iso(lane.since),
        "reason": lane.reason,
        "full": lane.full_reason,
        "groups": lane.groups,
        "pending": held.pending,
        "quarantined": held.quarantined,
        "restarts": lane.restarts,
    }
