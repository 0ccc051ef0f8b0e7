"""Results of a pipeline are delivered to a DICOM node: one that is named, and the sender of the instances."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter import JobState
from dicom_adapter.testing import Adapter, make_study

from .conftest import ScriptedNode

MakeAdapter = Callable[[str], Adapter]


@pytest.fixture
def adapter_configuration(unused_port: int) -> str:
    return f"""
        default-submitter = "pipelines"

        [submitters.pipelines]
        type = "fake"
        outcome = "succeeds"
        secondary-capture = true

        [submitters.pacs]
        type = "dicom"
        host = "127.0.0.1"
        port = {unused_port}
        ae-title = "PACS"

        [ae-titles.LUNG.results]
        to = ["pacs"]

        [ae-titles.LUNG.settings]
        group-by = "study"
        timeout = 5
        pipeline-lung = "lung"
    """


def test_result_of_a_pipeline_is_sent_to_the_node(
    adapter: Adapter, start_node: Callable[..., ScriptedNode], unused_port: int
) -> None:
    """The inputs are not sent. While the node is down, only the delivery waits."""
    study = make_study(instances=3)
    adapter.receive(*study)
    adapter.advance(120)
    assert {"lung": JobState.SUCCEEDED, "results": JobState.METADATA_SENT} == {
        job.pipeline_id: job.state for job in adapter.jobs
    }
    node = start_node(port=unused_port)
    adapter.advance(10 * 60)
    assert {"lung": JobState.SUCCEEDED, "results": JobState.SUBMITTED} == {
        job.pipeline_id: job.state for job in adapter.jobs
    }
    [uid] = node.received
    assert uid not in {str(instance.SOPInstanceUID) for instance in study}
    [[(sop_class, _transfer_syntaxes)]] = node.proposed
    assert "1.2.840.10008.5.1.4.1.1.7" == sop_class, "secondary capture"


def test_result_is_sent_to_the_sender(
    make_adapter: MakeAdapter,
    adapter_configuration: str,
    start_node: Callable[..., ScriptedNode],
    unused_port: int,
) -> None:
    """The address of the sender is that of the submitter with its AE title. Each sender gets its results only.

    Verified to fail when the submitter does not report the AE title of its node.
    """
    adapter = make_adapter(adapter_configuration.replace('to = ["pacs"]', "to-sender = true"))
    node = start_node(port=unused_port)
    adapter.receive(*make_study(instances=2), calling_ae_title="PACS")
    adapter.receive(*make_study(instances=2), calling_ae_title="CT1")
    adapter.advance(120)
    assert ["pacs"] == [job.submitter for job in adapter.jobs if job.pipeline_id == "results"]
    assert 1 == len(node.received)
    assert [["CT1"]] == [event.detail["senders"] for event in adapter.events if event.event == "results_sender_unknown"]
