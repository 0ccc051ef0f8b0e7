"""Results of a pipeline are delivered to a DICOM node, also with storage commitment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter import JobState
from dicom_adapter.testing import Adapter, make_study

from .conftest import ScriptedNode


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
