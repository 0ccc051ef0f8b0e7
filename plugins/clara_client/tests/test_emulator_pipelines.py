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
    """The name is read from the definition's top level."""
    platform = EmulatedPlatform()
    pipeline = platform.pipelines.create(DEFINITION, {"owner": "me"})
    assert ("lung tumours", {"owner": "me"}) == (pipeline.name, pipeline.metadata)
    assert pipeline == platform.pipelines.details(pipeline.pipeline_id.upper())


def test_pieces_of_one_path_are_joined_ignoring_case() -> None:
    """A definition may come in pieces; paths that differ in case are one file."""
    pieces = [PipelineFile(path=path, content=content) for path, content in [("a", "1"), ("b", "2"), ("A", "3")]]
    files = EmulatedPlatform().pipelines.create(pieces).files
    assert [("a", "13"), ("b", "2")] == [(file.path, file.content) for file in files]


@pytest.mark.parametrize("pieces", [[], [("", "x")], [("a", " \n")]])
def test_a_definition_with_nothing_in_it_is_malformed(pieces: list[tuple[str, str]]) -> None:
    """There must be a file, each with a path and a content."""
    with pytest.raises(InvalidValue) as error:
        EmulatedPlatform().pipelines.create(PipelineFile(path=path, content=content) for path, content in pieces)
    assert ClaraCode.DEFINITION_MALFORMED == error.value.code


def test_an_id_can_be_forced_once() -> None:
    """A client may bring its own id; a second pipeline of the id is refused."""
    platform = EmulatedPlatform()
    assert LUNG == platform.pipelines.create(DEFINITION, pipeline_id=LUNG.upper()).pipeline_id
    with pytest.raises(Conflict):
        platform.pipelines.create(DEFINITION, pipeline_id=LUNG)
    with pytest.raises(MalformedId):
        platform.pipelines.create(DEFINITION, pipeline_id="lung")


def test_an_update_gives_another_definition() -> None:
    """Id and metadata stay, the definition and its name do not."""
    platform = EmulatedPlatform()
    platform.pipelines.create(DEFINITION, {"k": "v"}, LUNG)
    updated = platform.pipelines.update(LUNG, [PipelineFile(path="b.yaml", content="name: heart")])
    assert ("heart", {"k": "v"}, 1) == (updated.name, updated.metadata, len(platform.pipelines.list()))


def test_a_removed_pipeline_is_unknown() -> None:
    """A removed pipeline makes no more jobs."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    platform.pipelines.remove(LUNG)
    with pytest.raises(NotFound):
        platform.create_job(LUNG, "name")


def test_pipelines_have_metadata() -> None:
    """The rules are those of all metadata."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    platform.pipelines.add_metadata(LUNG, {"A": "1", "B": "2"})
    with pytest.raises(Conflict):
        platform.pipelines.add_metadata(LUNG, {"a": "2"})
    assert {"B": "2"} == platform.pipelines.remove_metadata(LUNG, ["a"]).metadata


def test_any_id_can_be_a_pipelines() -> None:
    """Every well-formed id is known then; only the registered ones are listed."""
    platform = EmulatedPlatform(pipelines="any")
    assert (LUNG, ()) == (platform.pipelines.details(LUNG).pipeline_id, platform.pipelines.list())
    with pytest.raises(MalformedId):
        platform.pipelines.details("lung")


def test_the_pipeline_of_a_call_is_found_by_any_id() -> None:
    """Faults for one pipeline reach the calls about its jobs and their payloads."""
    platform = EmulatedPlatform(pipelines=[LUNG])
    job = platform.create_job(LUNG, "name")
    calls = [{"pipelineId": LUNG.upper()}, {"jobId": job.job_id}, {"payloadId": job.payload_id}]
    others = [{}, {"jobId": "bad"}, {"payloadId": platform.payloads.create().payload_id}]
    assert [LUNG] * 3 + [None] * 3 == [platform.pipeline_of(ids) for ids in (*calls, *others)]
