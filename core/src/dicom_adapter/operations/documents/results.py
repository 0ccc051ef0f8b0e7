"""Results, attachments and their deliveries as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dicom_adapter.ledger.attachments import Attachment
from dicom_adapter.ledger.results import ResultRow
from dicom_adapter.operations.deliveries import JobOfResult
from dicom_adapter.operations.documents.moments import iso


def result_as_json(row: ResultRow, delivered: Sequence[JobOfResult]) -> dict[str, Any]:
    """Return a result as JSON values."""
    instance = row.instance
    return {
        "instanceId": instance.instance_id,
        "aeTitle": instance.ae_title,
        "state": row.state.value,
        "since": iso(row.changed_at),
        "jobId": row.job_id,
        "reason": row.reason,
        "outcome": row.outcome,
        "collectedAt": iso(instance.received_at),
        "keepUntil": None if row.keep_until is None else iso(row.keep_until),
        "studyInstanceUid": instance.study_instance_uid,
        "seriesInstanceUid": instance.series_instance_uid,
        "sopInstanceUid": instance.sop_instance_uid,
        "sopClassUid": instance.sop_class_uid,
        "transferSyntaxUid": instance.transfer_syntax_uid,
        "bytes": instance.size_bytes,
        "storageKey": instance.storage_key,
        "deliveries": _deliveries_as_json(delivered),
    }


def attachment_as_json(attachment: Attachment, job_id: str, delivered: Sequence[JobOfResult]) -> dict[str, Any]:
    """Return an attachment as JSON values."""
    return {
        "attachment": attachment.instance_id,
        "jobId": job_id,
        "bytes": attachment.size_bytes,
        "checksum": f"{attachment.checksum:08x}",
        "storageKey": attachment.storage_key,
        "deliveries": _deliveries_as_json(delivered),
    }


def _deliveries_as_json(delivered: Sequence[JobOfResult]) -> list[dict[str, Any]]:
    return [
        {
            "destination": one.job.submitter,
            "jobId": one.job.job_id,
            "state": one.job.state.value,
            "since": iso(one.job.changed_at),
            "uploaded": one.is_uploaded,
            "error": one.job.last_error,
        }
        for one in delivered
    ]
