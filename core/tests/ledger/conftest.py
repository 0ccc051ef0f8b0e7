"""A ledger in the test's temporary folder, and rows for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import InstanceStorageInfo, Job, JobPriority
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.instances import UNNUMBERED

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """Return a migrated, empty ledger."""
    opened = Ledger(url, durable=False)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def an_instance() -> Callable[..., InstanceStorageInfo]:
    """Return a factory of instances without a row, each with a unique UID and storage key."""
    numbers = count(1)

    def make(**values: Any) -> InstanceStorageInfo:
        number = next(numbers)
        defaults = {
            "instance_id": UNNUMBERED,
            "ae_title": "LUNG",
            "calling_ae_title": "CT1",
            "peer_address": "127.0.0.1",
            "association_id": "a" * 32,
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "sop_instance_uid": f"2.25.{number}",
            "study_instance_uid": "2.25.1000",
            "series_instance_uid": "2.25.2000",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "patient_id": "P1",
            "issuer_of_patient_id": "",
            "received_at": NOW,
            "storage_key": f"{number:032x}",
            "size_bytes": 1000,
            "checksum": 2**32 - 1,
        }
        return InstanceStorageInfo(**{**defaults, **values})

    return make


@pytest.fixture
def a_job() -> Callable[..., Job]:
    """Return a factory of jobs without a row."""
    numbers = count(1)

    def make(**values: Any) -> Job:
        number = next(numbers)
        defaults = {
            "job_id": f"{number:032x}",
            "name": f"LUNG-one-{number}",
            "ae_title": "LUNG",
            "pipeline_id": "p1",
            "priority": JobPriority.NORMAL,
            "submitter": "platform",
            "instance_count": 1,
            "created_at": NOW,
            "changed_at": NOW,
        }
        return Job(**{**defaults, **values})

    return make
