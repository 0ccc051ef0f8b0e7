"""Data sets that are not encoded as negotiated are refused with the reason, or acknowledged and quarantined."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.dicom.part10 import data_set_offset
from dicom_adapter.flow.enter.recovery_records import read_recovery_record
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import instance_rows, recorded_events
from dicom_adapter.testing import Adapter, make_instance

CONFIGURATION = """
[storage]
path = "data"
[ae-titles.REFUSE]
processor = "by-study"
[ae-titles.REFUSE.settings]
pipeline-one = "p1"
[ae-titles.QUARANTINE]
processor = "by-study"
wrong-encoding = "quarantine"
[ae-titles.QUARANTINE.settings]
pipeline-one = "p1"
"""


@pytest.fixture
def adapter(make_adapter: Any) -> Adapter:
    adapter: Adapter = make_adapter(CONFIGURATION)
    return adapter


def keep(adapter: Adapter, ae_title: str, transfer_syntax_uid: str) -> StoreResult:
    """Store an instance that is encoded in explicit VR little endian, under this transfer syntax."""
    store = Store(adapter.config, adapter.resources)
    return store.keep(request(ae_title, transfer_syntax_uid), data_set())


def data_set() -> bytes:
    buffer = BytesIO()
    make_instance(seed="odd", PatientID="P1").save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()[data_set_offset(buffer.getvalue()) :]


def request(ae_title: str, transfer_syntax_uid: str) -> StoreRequest:
    instance = make_instance(seed="odd", PatientID="P1")
    return StoreRequest(
        ae_title=ae_title,
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="0" * 32,
        sop_class_uid=instance.SOPClassUID,
        sop_instance_uid=instance.SOPInstanceUID,
        transfer_syntax_uid=transfer_syntax_uid,
    )


def test_a_wrong_encoding_is_refused_with_both_encodings_in_the_reason(adapter: Adapter) -> None:
    """The status is *cannot understand*: no platform could read the instance."""
    result = keep(adapter, "REFUSE", ImplicitVRLittleEndian)
    assert StoreOutcome.CANNOT_UNDERSTAND is result.outcome
    assert "explicit VR little endian; its transfer syntax Implicit VR Little Endian requires implicit" in result.reason
    assert {} == adapter.states


def test_a_wrong_encoding_is_quarantined_at_an_ae_title_that_keeps_such_instances(adapter: Adapter) -> None:
    """The instance is acknowledged. Its identity is read in the actual encoding, and no processor receives it.

    Verified to fail when the row is entered without the reason.
    """
    result = keep(adapter, "QUARANTINE", ImplicitVRLittleEndian)
    assert StoreOutcome.STORED is result.outcome
    assert result.instance is not None
    assert "P1" == result.instance.patient_id
    adapter.advance(10_000)
    assert ({"quarantined": 1}, []) == (adapter.states, adapter.jobs)
    with adapter.ledger.read() as transaction:
        [row] = instance_rows.find(transaction, [result.instance.instance_id])
        history = recorded_events.of_instance(transaction, result.instance.instance_id)
    assert result.reason == row.reason
    assert [("instance_quarantined", {"reason": row.reason})] == [(event.event, event.detail) for event in history]


def test_an_instance_in_a_wrong_encoding_does_not_replace_a_pending_one(make_adapter: Any) -> None:
    """Otherwise an instance that no processor can use would replace a usable instance."""
    adapter: Adapter = make_adapter(
        CONFIGURATION.replace("wrong-encoding", "overwrite-same-instance = true\nwrong-encoding")
    )
    assert StoreOutcome.STORED is keep(adapter, "QUARANTINE", ExplicitVRLittleEndian).outcome
    again = keep(adapter, "QUARANTINE", ImplicitVRLittleEndian)
    assert (StoreOutcome.STORED, True) == (again.outcome, bool(again.reason))
    assert {"pending": 1, "quarantined": 1} == adapter.states


def test_an_instance_in_a_wrong_encoding_is_quarantined_again_after_a_power_loss(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recovery record contains the reason, because a power loss may have removed the row.

    Verified to fail when the record has no reason.
    """
    records: list[bytes] = []
    writer = type(adapter.resources.storage.writer())
    monkeypatch.setattr(writer, "write_recovery_record", lambda _self, record: records.append(record))
    result = keep(adapter, "QUARANTINE", ImplicitVRLittleEndian)
    [record] = records
    recovered = read_recovery_record(record, "key")
    assert recovered is not None
    assert result.reason == recovered.quarantine_reason
