"""Faults on demand, and the log of calls."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallOutcome, CallRecord

LUNG = 32 * "a"
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
RECORD = CallRecord(
    time=NOON, protocol="grpc", call="Jobs.Create", ids={"jobId": "1"}, outcome=CallOutcome.DONE, sent_bytes=7
)


def test_a_fault_fails_the_configured_number_of_calls() -> None:
    """`after` calls succeed, `times` calls fail, all later calls succeed."""
    fault = CallFault(call="Jobs.Create", kind=CallFaultKind.DROP, times=2, after=1)
    faults = Faults([fault])
    assert [None, fault, fault, None] == [faults.take("grpc", "Jobs.Create") for _ in range(4)]
    assert () == faults.left()


def test_a_fault_without_times_lasts_until_it_is_removed() -> None:
    """Faults can be removed while the emulator is running."""
    fault = CallFault(kind=CallFaultKind.RESET, times=None)
    faults = Faults([fault])
    assert [fault] * 5 == [faults.take("rest", "Jobs.Status") for _ in range(5)]
    faults.clear()
    assert faults.take("rest", "Jobs.Status") is None


def test_a_fault_applies_only_to_matching_calls() -> None:
    """Calls of another name, protocol or pipeline neither fail nor count."""
    fault = CallFault(call="Payloads.*", kind=CallFaultKind.DROP, protocol="grpc", pipeline_id=LUNG.upper())
    faults = Faults([fault])
    assert faults.take("grpc", "Jobs.Create", LUNG) is None
    assert faults.take("rest", "Payloads.Upload", LUNG) is None
    assert faults.take("grpc", "Payloads.Upload", 32 * "b") is None
    assert faults.take("grpc", "Payloads.Upload") is None
    assert fault is faults.take("grpc", "Payloads.Upload", LUNG)


def test_faults_are_applied_in_order() -> None:
    """The second fault is applied after the first is used up."""
    first, second = CallFault(kind=CallFaultKind.DROP), CallFault(kind=CallFaultKind.RESET)
    faults = Faults([first])
    faults.add(second)
    assert [first, second, None] == [faults.take("grpc", "Jobs.Start") for _ in range(3)]


def test_faults_count_across_threads() -> None:
    """Of many concurrent calls, exactly `times` fail."""
    faults = Faults([CallFault(kind=CallFaultKind.DROP, times=100)])
    with ThreadPoolExecutor(16) as pool:
        applied = list(pool.map(lambda _: faults.take("grpc", "Jobs.Create"), range(1000)))
    assert 100 == sum(fault is not None for fault in applied)


def test_a_kind_can_be_given_by_its_value() -> None:
    """Values come from the command line; an unknown value is an error."""
    assert CallFaultKind.TRUNCATE is CallFault(kind="truncate").kind
    with pytest.raises(ValueError, match="melt"):
        CallFault(kind="melt")


def test_calls_are_appended_to_a_file(tmp_path: Path) -> None:
    """Each call is a JSON line in the file, and is also kept in memory."""
    log = CallLog(tmp_path / "calls.jsonl")
    log.add(RECORD)
    log.add(RECORD)
    line: dict[str, Any] = {
        "time": "2026-09-01T12:00:00+00:00",
        "protocol": "grpc",
        "call": "Jobs.Create",
        "ids": {"jobId": "1"},
    }
    line |= {"receivedBytes": 0, "sentBytes": 7, "outcome": "done", "code": 0, "worked": True}
    assert [line, line] == [json.loads(text) for text in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert ((RECORD, RECORD), ()) == (log.calls("Jobs.Create"), log.calls("Jobs.Start"))


def test_calls_can_be_waited_for() -> None:
    """A test waits for a call instead of sleeping."""
    log = CallLog()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(log.wait_for, "Jobs.Create")
        log.add(RECORD)
        assert (RECORD,) == waiting.result()
    with pytest.raises(TimeoutError, match=r"0 calls of Jobs\.Start"):
        log.wait_for("Jobs.Start", timeout_seconds=0.01)
