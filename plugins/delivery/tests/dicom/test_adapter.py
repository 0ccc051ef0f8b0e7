"""The whole adapter with `dicom` as its submitter, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_adapter import JobState
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.parts import Part, PartKind
from dicom_adapter.testing import Adapter, make_study

from .conftest import ScriptedNode

HOUR_S = 3600


@pytest.fixture
def adapter_configuration(unused_port: int) -> str:
    return f"""
        [submitters.pacs]
        type = "dicom"
        host = "127.0.0.1"
        port = {unused_port}
        ae-title = "PACS"
        retry-for = 604800

        [ae-titles.ROUTER.settings]
        group-by = "study"
        timeout = 5
        pipeline-pacs = "pacs"
    """


def uids(study: list[Dataset]) -> set[str]:
    return {str(instance.SOPInstanceUID) for instance in study}


def test_study_is_routed_to_the_node(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    node = start_node(port=unused_port)
    study = make_study(instances=40)
    adapter.receive(*study)
    adapter.advance(30)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]
    assert uids(study) == set(node.received)
    assert 40 == len(node.received)


def test_node_that_is_down_for_hours_receives_everything_once(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    studies = [make_study(instances=3) for _number in range(4)]
    for hours, study in enumerate(studies):
        adapter.receive(*study, at=hours * HOUR_S)
    adapter.advance(HOUR_S)
    assert {JobState.METADATA_SENT} == {job.state for job in adapter.jobs}
    errors = [job.last_error for job in adapter.jobs if job.last_error]
    assert errors
    assert all("connection refused" in error for error in errors)
    node = start_node(port=unused_port)
    adapter.advance(10 * 60)
    assert {JobState.SUBMITTED} == {job.state for job in adapter.jobs}
    assert sorted(uid for study in studies for uid in uids(study)) == sorted(node.received)


def test_only_missing_instances_are_sent_again_after_an_abort(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    """The node takes 70 of 100 instances, then aborts each association until it is repaired."""
    node = start_node(port=unused_port)
    acknowledged: list[str] = []

    def answer(event: Any) -> int:
        if is_failing and len(acknowledged) >= 70:
            event.assoc.abort()
        else:
            acknowledged.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    is_failing, node.answer = True, answer
    study = make_study(instances=100)
    adapter.receive(*study)
    adapter.advance(60)
    [job] = adapter.jobs
    assert (JobState.METADATA_SENT, 70) == (job.state, len(acknowledged))
    is_failing = False
    adapter.advance(10 * 60)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]
    assert sorted(uids(study)) == sorted(acknowledged)


def test_node_without_space_receives_the_instances_later(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    """0xA700 is retried."""
    node = start_node(port=unused_port)
    node.answer = lambda _event: 0xA700
    adapter.receive(*make_study(instances=2))
    adapter.advance(60)
    [job] = adapter.jobs
    assert "0xA700 (out of resources)" in job.last_error
    node.answer = lambda _event: 0
    adapter.advance(10 * 60)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_new_jobs_do_not_make_a_node_that_is_down_look_available(adapter: Adapter) -> None:
    """The steps before the uploads do not call the node.

    Verified to fail when the success of these steps counts as an answer of the node.
    """
    node = Part(PartKind.PLATFORM, "pacs")
    adapter.receive(*make_study(instances=1))
    adapter.advance(10 * 60)
    assert PartState.FAILING is adapter.host.findings()[node].state
    for _number in range(6):
        adapter.receive(*make_study(instances=1))
        adapter.advance(7)
        assert PartState.FAILING is adapter.host.findings()[node].state


def test_refused_instance_faults_the_job_after_the_others_were_delivered(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    """The error of the job contains the comment of the node. The retry sends only the missing instance."""
    node = start_node(port=unused_port)
    study = make_study(instances=40)
    refused = str(study[3].SOPInstanceUID)

    def answer(event: Any) -> Dataset:
        reply = Dataset()
        is_refused = event.request.AffectedSOPInstanceUID == refused and not is_corrected
        reply.Status = 0xC000 if is_refused else 0
        reply.ErrorComment = "unknown ward"
        return reply

    is_corrected, node.answer = False, answer
    adapter.receive(*study)
    adapter.advance(60)
    [job] = adapter.jobs
    assert JobState.FAULTED is job.state
    assert f'refused instance {refused} with 0xC000 (cannot understand): "unknown …"' in job.last_error
    assert uids(study) == set(node.received)
    is_corrected = True
    operators.retry(adapter.resources.ledger, adapter.clock, job.job_id)
    adapter.advance(60)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]
    assert [refused] == node.received[40:]
