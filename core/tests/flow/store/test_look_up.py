"""The attributes by which operators look for studies are kept when an instance is stored, once for each series."""

from __future__ import annotations

import struct
from datetime import datetime, timezone
from typing import Any

import orjson
import pytest
from attrs import evolve
from pydicom.uid import ExplicitVRLittleEndian

from dicom_adapter.api.receiving import StoreOutcome, StoreRequest
from dicom_adapter.flow.enter.known_series import RELIED_SECONDS, KnownSeries
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery_records import VERSION, read_recovery_record
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import instance_rows
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.schema import series
from dicom_adapter.testing import Adapter

CT = "1.2.840.10008.5.1.4.1.1.2"
CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
[ae-titles.KEEP]
processor = "by-study"
[ae-titles.KEEP.settings]
pipeline-one = "p1"
"""
NAMES = ("study_instance_uid", "patient_id", "accession_number", "study_date", "modality", "study_description")


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def encode(sop: str, *, study: bytes = b"1.2.3", accession: bytes = b"ACC-1", modality: bytes = b"CT") -> bytes:
    elements = [
        (0x00080016, b"UI", CT.encode()),
        (0x00080018, b"UI", sop.encode()),
        (0x00080020, b"DA", b"20260105"),
        (0x00080050, b"SH", accession),
        (0x00080060, b"CS", modality),
        (0x00081030, b"LO", b"Thorax"),
        (0x00100020, b"LO", b"P1"),
        (0x0020000D, b"UI", study),
        (0x0020000E, b"UI", study + b".1"),
    ]
    return b"".join(element(*one) for one in elements)


def keep(store: Store, sop: str, data_set: bytes) -> None:
    request = StoreRequest(
        ae_title="KEEP",
        calling_ae_title="CT1",
        peer_address="10.0.0.7",
        association_id="a" * 32,
        sop_class_uid=CT,
        sop_instance_uid=sop,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    result = store.keep(request, data_set)
    assert result.outcome is StoreOutcome.STORED, result


def rows(adapter: Adapter) -> list[tuple[str, ...]]:
    with adapter.ledger.read() as transaction:
        entries = transaction.execute(series.select().order_by(series.c.series_number)).all()
    return [tuple(row._mapping[name] for name in NAMES) for row in entries]


def test_a_series_has_one_row_however_many_instances_arrive(make_adapter: Any) -> None:
    """Instances without the attributes are stored like others. A contradiction within a series adds a row."""
    adapter: Adapter = make_adapter(CONFIGURATION)
    store = Store(adapter.config, adapter.resources)
    for number in range(3):
        keep(store, f"1.2.4.{number}", encode(f"1.2.4.{number}"))
    keep(store, "1.2.4.9", encode("1.2.4.9", accession=b"", modality=b""))
    assert [
        ("1.2.3", "P1", "ACC-1", "20260105", "CT", ""),
        ("1.2.3", "P1", "", "20260105", "", ""),
    ] == rows(adapter)

    with adapter.ledger.read() as transaction:
        entries = instance_rows.newest(transaction, 9, filters=Filters(accession_number="ACC-1"))
        assert 4 == len(entries)
        assert [] == instance_rows.newest(transaction, 9, filters=Filters(accession_number="ACC"))
        assert [] == instance_rows.newest(transaction, 9, filters=Filters(patient_id="P1", calling_ae_title="MR1"))


def test_descriptions_are_kept_only_if_configured(make_adapter: Any) -> None:
    """They are kept from the next instance on; the row of a known series gets them, too."""
    adapter: Adapter = make_adapter(CONFIGURATION)
    store = Store(adapter.config, adapter.resources)
    keep(store, "1.2.4.1", encode("1.2.4.1"))
    ledger = evolve(adapter.config.ledger, keep_descriptions=True)
    store.configure(evolve(adapter.config, ledger=ledger))
    keep(store, "1.2.4.2", encode("1.2.4.2"))
    assert [("1.2.3", "P1", "ACC-1", "20260105", "CT", "Thorax")] == rows(adapter)


@pytest.mark.parametrize("accession", [b"A" * 65, b"\xe9\x01", b"A\\B"], ids=("long", "bytes", "several"))
def test_an_illegal_value_is_no_reason_to_refuse(make_adapter: Any, accession: bytes) -> None:
    """A value that is too long is cut, so that rows and recovery records stay small."""
    adapter: Adapter = make_adapter(CONFIGURATION)
    keep(Store(adapter.config, adapter.resources), "1.2.4.1", encode("1.2.4.1", accession=accession))
    [(_study, _patient, kept, *_others)] = rows(adapter)
    assert 0 < len(kept) <= 64


def test_a_recovery_record_of_an_earlier_version_has_no_attributes_for_look_up() -> None:
    """It is recovered nevertheless."""
    columns = {
        "series_instance_uid": "1.2.3.1",
        "study_instance_uid": "1.2.3",
        "patient_id": "P1",
        "received_at": 1,
    }
    record = {"version": VERSION, "receiver_run": "r", "number": 1, "columns": columns}
    received = read_recovery_record(orjson.dumps(record), "key")
    assert received is not None
    assert ("1.2.3.1", "1.2.3", "P1", "", "", "", "", "") == received.series()


def test_the_row_of_a_series_is_entered_again_after_a_while() -> None:
    """The deletion of old rows may have deleted it since. Verified to fail when KnownSeries ignores the time."""
    now = datetime(2026, 1, 5, tzinfo=timezone.utc).timestamp()
    columns = {"series_instance_uid": "1.2.3.1", "study_instance_uid": "1.2.3", "patient_id": "P1"}
    known_patient = ReceivedInstance(columns=columns, look_up={"modality": "CT"})
    another_patient = ReceivedInstance(columns={**columns, "patient_id": "P2"}, look_up={"modality": "CT"})
    known = KnownSeries(lambda: now)
    known.add([known_patient])
    assert [another_patient] == known.unknown([known_patient, another_patient])
    now += RELIED_SECONDS
    assert [known_patient, another_patient] == known.unknown([known_patient, another_patient])
