"""A ledger with many pending instances, created without receiving them.

The stored objects are not created: grouping by study or patient never reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.schema import instances, tallies

STUDY = 100  # instances in each study
CHUNK = 10_000  # rows inserted at a time


def make_ledger(data_folder: Path, pending: int, ae_titles: Sequence[str], age: timedelta) -> None:
    """Create a data folder whose ledger has `pending` instances that arrived `age` ago, in studies of STUDY."""
    data_folder.mkdir()
    ledger = Ledger(f"sqlite:///{data_folder / 'ledger.sqlite'}", durable=False)
    ledger.migrate()
    rows = _rows(pending, ae_titles, datetime.now(timezone.utc) - age)
    with ledger.write() as transaction:
        while chunk := [row for row, _ in zip(rows, range(CHUNK), strict=False)]:
            transaction.execute(instances.insert(), chunk)
        for place, ae_title in enumerate(ae_titles):
            count = sum(1 for number in range(pending) if number // STUDY % len(ae_titles) == place)
            transaction.execute(tallies.insert().values(ae_title=ae_title, what="received", count=count))
    ledger.close()


def _rows(pending: int, ae_titles: Sequence[str], received_at: datetime) -> Iterator[dict[str, Any]]:
    for number in range(pending):
        study = number // STUDY
        yield {
            "ae_title": ae_titles[study % len(ae_titles)],
            "calling_ae_title": "CT1",
            "peer_address": "10.0.0.5",
            "association_id": f"{study:032x}",
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "sop_instance_uid": f"2.25.{10**37 + number}",
            "study_instance_uid": f"2.25.{2 * 10**37 + study}",
            "series_instance_uid": f"2.25.{3 * 10**37 + study}",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "patient_id": f"P{study // 2}",
            "issuer_of_patient_id": "",
            "received_at": received_at + timedelta(microseconds=number),
            "changed_at": received_at + timedelta(microseconds=number),
            "storage_key": f"{number % 256:02x}{number:030x}",
            "size_bytes": 526_000,
            "checksum": number % 2**32,
            "state": "pending",
        }
