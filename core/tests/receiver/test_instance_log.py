"""The log has one line for each association, and lines for its instances only at the level debug."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import structlog

from dicom_adapter.api.receiving import AssociationRequest
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.receiver import receiver as receiver_module
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.runtime import logs
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter, make_instance, make_study

CONFIGURATION = """
[log]
level = "{level}"
[ae-titles.LUNG]
processor = "by-study"
ignored-sop-classes = ["1.2.840.10008.5.1.4.1.1.7"]
[ae-titles.LUNG.settings]
pipeline-a = "p"
"""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ASSOCIATION = "a" * 32


class LoggingReceiver:
    """A receiver whose log the test reads."""

    def __init__(self, adapter: Adapter) -> None:
        self._read_end, self._write_end = os.pipe()
        logs.configure(
            style="json", level=adapter.config.log.level.value, process="receiver", descriptor=self._write_end
        )
        self._receiver = Receiver(adapter.config, adapter.resources, None)

    def store(self, data_set: Any) -> None:
        """Store an instance, with a commit of its own."""
        incoming = self._receiver.begin_store(make_request(data_set, "LUNG", "CT1", ASSOCIATION))
        incoming.write([encode(data_set)])
        if incoming.is_kept:
            self._receiver._commit([self._receiver._store.end(incoming)])  # type: ignore[list-item] # it is received
        else:
            self._receiver.complete_store(incoming, None)

    def close_association(self) -> None:
        request = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="127.0.0.1")
        statuses = {"SUCCESS": 3, "CANNOT_UNDERSTAND": 1}
        self._receiver.association_closed(
            ClosedAssociation(
                association_id=ASSOCIATION,
                request=request,
                how="released",
                statuses=statuses,
                instances=2,
                stored_bytes=4000,
                seconds=1.23456,
            )
        )

    def lines(self) -> list[dict[str, Any]]:
        """Close the receiver and its log. Return the logged events."""
        self._receiver.close()
        logs.close()
        logs.current_output().close()
        os.close(self._write_end)
        with os.fdopen(self._read_end) as lines:
            return [json.loads(line) for line in lines]


@pytest.fixture
def open_receiver(
    make_adapter: Callable[[str], Adapter], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], LoggingReceiver]]:
    before = structlog.get_config()
    monkeypatch.setattr(receiver_module, "log", structlog.get_logger())  # a logger keeps its first configuration
    yield lambda level: LoggingReceiver(make_adapter(CONFIGURATION.format(level=level)))
    structlog.configure(**before)


def calls_of_structlog(action: Callable[[], object]) -> int:
    """Return how many functions of structlog were called by this thread."""
    count = 0

    def profile(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_globals.get("__name__", "").startswith("structlog")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def ignored() -> Any:
    instance = make_instance()
    instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    return instance


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("info", ["study_arriving"]),
        ("debug", ["instance_stored", "study_arriving", "instance_stored", "instance_stored", "instance_ignored"]),
    ],
)
def test_stored_and_ignored_instances_have_lines_only_at_the_level_debug(
    level: str, events: list[str], open_receiver: Callable[[str], LoggingReceiver]
) -> None:
    receiver = open_receiver(level)
    for instance in [*make_study(instances=3), ignored()]:
        receiver.store(instance)
    assert events == [line["event"] for line in receiver.lines()]


def test_the_end_of_an_association_has_its_duration_and_what_was_stored(
    open_receiver: Callable[[str], LoggingReceiver],
) -> None:
    receiver = open_receiver("info")
    receiver.close_association()
    [line] = receiver.lines()
    for common in ("level", "timestamp", "process"):
        del line[common]
    assert line == {
        "event": "association_closed",
        "association_id": ASSOCIATION,
        "ae_title": "LUNG",
        "calling_ae_title": "CT1",
        "peer": "127.0.0.1",
        "how": "released",
        "seconds": 1.235,
        "instances": 2,
        "bytes": 4000,
        "statuses": {"SUCCESS": 3, "CANNOT_UNDERSTAND": 1},
    }


def test_an_instance_causes_no_work_of_the_log_at_the_level_info(
    open_receiver: Callable[[str], LoggingReceiver],
) -> None:
    """A line costs 10 µs or more, even if it is only built and not written.

    Verified to fail when `log.debug` is called for each instance.
    """
    receiver = open_receiver("info")
    first, second = make_study(instances=2)
    receiver.store(first)  # its line `study_arriving` is written
    assert 0 == calls_of_structlog(lambda: receiver.store(second))
    assert 0 == calls_of_structlog(lambda: receiver.store(ignored()))
    receiver.lines()
