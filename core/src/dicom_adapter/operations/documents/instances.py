"""Instances as JSON values, without patient data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger.instance_rows import InstanceRow
from dicom_adapter.ledger.microseconds import to_datetime
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.documents.moments import iso

NOT_ENTERED = "not yet entered in the ledger"


def held_because(row: InstanceRow, stopped: Mapping[str, str]) -> str:
    """Return why a pending instance is not delivered to its processor; "" if it is delivered."""
    return stopped.get(row.instance.ae_title, "") if row.state is InstanceState.PENDING else ""


def instance_as_json(row: InstanceRow, stopped: Mapping[str, str]) -> dict[str, Any]:
    """Return an instance as JSON values. `stopped`: the reasons of stopped AE titles."""
    return {
        "instanceId": row.instance.instance_id,
        "aeTitle": row.instance.ae_title,
        "state": row.state.value,
        "since": iso(row.changed_at),
        "studyInstanceUid": row.instance.study_instance_uid,
        "sopInstanceUid": row.instance.sop_instance_uid,
        "reason": row.reason,
        "heldBecause": held_because(row, stopped),
        "outcome": row.outcome,
    }


def instance_without_row_as_json(instance: ReceivedInstance) -> dict[str, Any]:
    """Return an instance that is stored, not yet entered in the ledger, with the keys of the other instances."""
    return {
        "instanceId": None,
        "aeTitle": instance.ae_title,
        "state": "not-entered",
        "since": iso(to_datetime(instance.columns["received_at"])),
        "studyInstanceUid": instance.study_instance_uid,
        "sopInstanceUid": instance.sop_instance_uid,
        "reason": "",
        "heldBecause": NOT_ENTERED,
        "outcome": "",
    }


def origin_as_json(row: InstanceRow) -> dict[str, Any]:
    """Return where an instance comes from and where it is stored as JSON values."""
    instance = row.instance
    return {
        "receivedAt": iso(instance.received_at),
        "callingAeTitle": instance.calling_ae_title,
        "peer": instance.peer_address,
        "associationId": instance.association_id,
        "seriesInstanceUid": instance.series_instance_uid,
        "sopClassUid": instance.sop_class_uid,
        "transferSyntaxUid": instance.transfer_syntax_uid,
        "bytes": instance.size_bytes,
        "checksum": f"{instance.checksum:08x}",
        "storageKey": instance.storage_key,
        "replacedBy": row.replaced_by,
    }
