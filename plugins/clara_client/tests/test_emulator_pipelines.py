"""Pipelines of the emulated platform."""

from __future__ import annotations

import pytest

from dicom_adapter_clara_client.emulator.rules import Conflict, InvalidValue, MalformedId, NotFound
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import PipelineFile
from dicom_adapter_clara_client.wire.codes import ClaraCode

LUNG = 32 * "a"
DEFINITION = [PipelineFile(path="lung.yaml", content="api-version: 0.4.0\nname: 'lung tumours'\n")]


def test_a_pipeline_has_the_name_of_its_definition() -> None:
    """The name comes from the top level of the definition."""
    platform = EmulatedPlatform()
    pipeline = platform.pipelines.create(DEFINITION, {"owner": "me"})
    assert ("lung tumours", {"owner": "me"}) == (pipeline.name, pipeline.metadata)
    assert pipeline == platform.pipelines.details(pipeline.pipeline_id.upper())


def test_pieces_with_the_same_path_are_joined() -> None:
    """A file of a definition may be sent in pieces; paths are compared without case."""
    pieces = [PipelineFile(path=path, content=content) for path, content in [("a", "1"), ("b", "2"), ("A", "3")]]
    files = EmulatedPlatform().pipelines.create(pieces).files
    assert [("a", "13"), ("b", "2")] == [(file.path, file.content) for file in files]


@pytest.mark.parametrize("pieces", [[], [("", "x")], [("a", " \n")]])
def test_an_empty_definition_is_malformed(pieces: list[tuple[str, str]]) -> None:
    """A definition needs at least one file, and every file needs a path and a content."""
    with pytest.raises(InvalidValue) as error:
        EmulatedPlatform().pipelines.create(PipelineFile(path=path, content=content) for path, content in pieces)
    assert ClaraCode.DEFINITION_MALFORMED == error.value.code


def test_a_client_can_choose_an_unused_id() -> None:
    """A second pipeline with the same id is refused."""
    platform = EmulatedPlatform()
    assert LUNG == platform.pipelines.create(DEFINITION, pipeline_id=LUNG.upper()).pipeline_id
    with pytest.raises(Conflict):
        platform.pipelines.create(DEFINITION, pipeline_id=LUNG)
    with pytest.raises(MalformedId):
        platform.pipelines.create(DEFINITION, pipeline_id="lung")


def test_an_update_replaces_the_definition() -> None:
    """The definition and its name change; id and metadata do not."""
    platform = EmulatedPlatform()
    platform.pipelines.create(DEFINITION, {"k": "v"}, LUNG)
    updated = platform.pipelines.update(LUNG, [PipelineFile(path="b.yaml", content="name: heart")])
    assert ("heart", {"k": "v"}, 1) == (updated.name, updated.metadata, len(platform.pipelines.list()))


def test_a_removed_pipeline_is_unknown() -> None:
    """No job can be created for a removed pipeline."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    platform.pipelines.remove(LUNG)
    with pytest.raises(NotFound):
        platform.create_job(LUNG, "name")


def test_pipelines_have_metadata() -> None:
    """The rules are those of jobs' metadata."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    platform.pipelines.add_metadata(LUNG, {"A": "1", "B": "2"})
    with pytest.raises(Conflict):
        platform.pipelines.add_metadata(LUNG, {"a": "2"})
    assert {"B": "2"} == platform.pipelines.remove_metadata(LUNG, ["a"]).metadata


def test_every_id_is_accepted_with_any() -> None:
    """Every well-formed id is accepted; only registered pipelines are listed."""
    platform = EmulatedPlatform(pipelines="any")
    assert (LUNG, ()) == (platform.pipelines.details(LUNG).pipeline_id, platform.pipelines.list())
    with pytest.raises(MalformedId):
        platform.pipelines.details("lung")


def test_the_pipeline_of_a_call_is_found_by_each_kind_of_id() -> None:
    """Faults for one pipeline also apply to calls with the ids of its jobs and their payloads."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    job = platform.create_job(LUNG, "name")
    calls = [{"pipelineId": LUNG.upper()}, {"jobId": job.job_id}, {"payloadId": job.payload_id}]
    others = [{}, {"jobId": "bad"}, {"payloadId": platform.payloads.create().payload_id}]
    assert [LUNG] * 3 + [None] * 3 == [platform.pipeline_of(ids) for ids in (*calls, *others)]
