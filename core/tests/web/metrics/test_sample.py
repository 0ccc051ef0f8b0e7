"""The values of the gauges, for an adapter without processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from attrs import evolve

from dicom_adapter import Capacity, Certificate, Permanent, Retriable
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.acceptance import Space as MeasuredSpace
from dicom_adapter.flow.acceptance import association_refusal
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.free_space import required_free_bytes
from dicom_adapter.ledger import senders
from dicom_adapter.ledger.senders import Sender
from dicom_adapter.testing import Adapter
from dicom_adapter.web.metrics.processes import process_values
from dicom_adapter.web.metrics.sample import take_sample
from support import follow

MakeAdapter = Callable[..., Adapter]
CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""


def values(adapter: Adapter, certificates: Any = ()) -> Mapping[tuple[str, ...], float]:
    """Return the values by name, without the prefix, and labels."""
    sample = take_sample(adapter.config, adapter.resources, certificates)
    return {(gauge.name.removeprefix("dicom_adapter_"), *labels): value for gauge, labels, value in sample.values}


def test_open_groups_and_their_ages_are_shown(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(CONFIGURATION)
    adapter.receive(make_instance(seed="a"))
    adapter.advance(2)
    adapter.receive(make_instance(seed="b"))
    adapter.advance(1)
    found = values(adapter)
    assert 2 == found["pending_instances", "LUNG"]
    assert 3 == found["oldest_pending_instance_age_seconds", "LUNG"]
    assert 2 == found["open_groups", "LUNG"]
    assert 0 == found["group_overdue_seconds", "LUNG"]
    with adapter.down():
        adapter.clock.move_to(adapter.clock.now() + timedelta(seconds=60))
        # The group of the first instance was due five seconds after its arrival.
        assert 58 == values(adapter)["group_overdue_seconds", "LUNG"]


def test_jobs_are_counted_by_state_with_the_age_of_the_oldest(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(CONFIGURATION)
    assert 0 == values(adapter)["oldest_job_age_seconds", "LUNG"]
    adapter.platform.fail("create_job", Retriable("down"), times=1000)
    adapter.receive(make_instance(seed="a"))
    adapter.advance(65)
    found = values(adapter)
    assert (1, 0) == (found["jobs", "LUNG", "queued"], found["jobs", "LUNG", "faulted"])
    assert 60 == found["oldest_job_age_seconds", "LUNG"]
    assert 1 == found["failing_jobs", "memory"]


def test_faulted_jobs_and_the_space_of_their_instances_are_shown(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(CONFIGURATION)
    adapter.platform.fail("create_job", Permanent("no"))
    adapter.receive(make_instance(seed="a"))
    adapter.advance(10)
    found = values(adapter)
    assert 1 == found["jobs", "LUNG", "faulted"]
    assert 0 == found["failing_jobs", "memory"]
    assert found["held_bytes", "LUNG"] > 0
    assert 0 == found["health", "green"]
    assert found["problems", "yellow"] >= 1


def test_instances_without_rows_and_the_age_of_the_oldest_are_shown(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(follow.CONFIGURATION)
    names = ("not_entered_instances",), ("oldest_not_entered_instance_age_seconds",)
    assert [0, 0] == [values(adapter)[name] for name in names]
    follow.Sender(adapter, adapter.config.storage.path / FOLDER).send("1.1", "1.2", "1.3")
    adapter.clock.advance(4)
    assert [3, 4] == [values(adapter)[name] for name in names]


def test_the_last_association_with_instances_is_shown(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(CONFIGURATION)
    assert ("last_association_timestamp_seconds", "LUNG") not in values(adapter)
    at = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
    one = Sender(
        calling_ae_title="CT",
        ae_title="LUNG",
        peer_address="10.0.0.5",
        first_at=at,
        last_at=at,
        associations=1,
        instances=1,
        refused=0,
    )
    empty = evolve(one, calling_ae_title="ECHO", last_at=at + timedelta(hours=1), instances=0)
    with adapter.ledger.write() as transaction:
        senders.add_associations(transaction, [one, empty])
    assert at.timestamp() == values(adapter)["last_association_timestamp_seconds", "LUNG"]


@pytest.mark.parametrize(("watermark", "reserve"), [(85, 0), (100, 5_000), (85, 200), (85, 10)])
def test_associations_are_rejected_below_the_required_free_space(
    make_adapter: MakeAdapter, watermark: int, reserve: int
) -> None:
    """The metric and the decision agree to a byte."""
    storage = evolve(make_adapter(CONFIGURATION).config.storage, watermark_percent=watermark, reserve=reserve)
    limit = required_free_bytes(Capacity(total_bytes=1000, free_bytes=0), storage)
    accepted = {
        free
        for free in range(6000)
        if association_refusal("LUNG", {}, MeasuredSpace(capacity=Capacity(total_bytes=1000, free_bytes=free)), storage)
        is None
    }
    assert min(accepted) in (limit, limit + 1)  # at the watermark itself, associations are rejected


def test_the_first_certificate_that_expires_is_shown_without_its_path(make_adapter: MakeAdapter) -> None:
    at = datetime(2027, 1, 1, tzinfo=timezone.utc)
    certificates = [
        Certificate(subject="dicom.tls: certificate /etc/secret/a.pem", expires_at=at),
        Certificate(subject="submitter pacs: certificate of 10.0.0.5:104", expires_at=at + timedelta(days=2)),
        Certificate(subject="submitter pacs: client certificate b.pem", expires_at=at + timedelta(days=1)),
        Certificate(subject="dicom.tls: authority in c.pem", expires_at=at, is_authority=True),
    ]
    found = {
        labels: value
        for (name, *labels_of), value in values(make_adapter(CONFIGURATION), certificates).items()
        if name == "certificate_expiry_timestamp_seconds"
        for labels in [tuple(labels_of)]
    }
    assert {
        ("listener", "certificate"): at.timestamp(),
        ("submitter pacs", "certificate"): (at + timedelta(days=1)).timestamp(),
        ("listener", "authority"): at.timestamp(),
    } == found


def test_the_health_is_red_while_the_ledger_cannot_be_read(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(CONFIGURATION)
    broken = evolve(adapter.resources, ledger=Mock(read=Mock(side_effect=LedgerUnavailable("it is locked"))))
    sample = take_sample(adapter.config, broken, [])
    found = {(gauge.name, *labels): value for gauge, labels, value in sample.values}
    assert (1, 1) == (found["dicom_adapter_health", "red"], found["dicom_adapter_problems", "red"])
    assert not [name for name, *_labels in found if "jobs" in name]


# --- processes ------------------------------------------------------------------------------------------------------


def test_the_values_of_a_child_process_are_read() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = {gauge.name.rpartition("process_")[2]: value for gauge, value in process_values(child.pid, os.getpid())}
        child.communicate(b"\n")
    assert found["open_fds"] >= 3
    assert found["max_fds"] >= found["open_fds"]
    assert found["threads"] >= 1
    assert abs(found["start_time_seconds"] - datetime.now(timezone.utc).timestamp()) < 300


def test_a_process_of_another_parent_is_ignored() -> None:
    """The PID of a receiver that has died may belong to any other program."""
    assert [] == list(process_values(1, os.getpid()))
    assert list(process_values(os.getpid(), os.getpid()))


def test_a_process_that_has_ended_is_ignored(tmp_path: Path) -> None:
    assert [] == list(process_values(12, 12, tmp_path))
