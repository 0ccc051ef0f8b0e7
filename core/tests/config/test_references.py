"""Settings of plugins that refer to submitters, and pipelines with a submitter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from attrs import frozen

from dicom_adapter import PipelineReference, SubmitterReference, setting
from dicom_adapter.api.declare import NoSettings
from dicom_adapter.config.references import referenced_submitters

Structure = Callable[[type, str], tuple[Any, dict[str, str]]]


@frozen(kw_only=True)
class PipelinesById:
    pipelines: Mapping[str, PipelineReference] = setting(prefix="pipeline-", help="Pipelines.")


@frozen(kw_only=True)
class Destinations:
    to: tuple[SubmitterReference, ...] = setting(default=(), help="Destinations.")
    pipelines: PipelinesById | None = setting(default=None, help="Pipelines.")


def test_a_pipeline_is_an_id_or_a_table(settings: Structure) -> None:
    """Both forms have the same type; the table may name a submitter."""
    found, problems = settings(
        PipelinesById, 'pipeline-a = "1"\npipeline-b = { id = "2" }\npipeline-c = { id = "3", submitter = "clara" }'
    )
    assert {} == problems
    assert {
        "a": PipelineReference(id="1"),
        "b": PipelineReference(id="2"),
        "c": PipelineReference(id="3", submitter=SubmitterReference("clara")),
    } == found.pipelines


@pytest.mark.parametrize(
    ("value", "path", "expected"),
    [
        (
            '{ id = "1", submitter = "calra" }',
            "pipeline-a.submitter",
            "settings.pipeline-a.submitter = 'calra', must name a [submitters.<name>] table; "
            "did you mean 'clara'? (there are: clara)",
        ),
        ('{ submitter = "clara" }', "pipeline-a.id", "settings.pipeline-a.id is missing"),
        ('{ id = "1", submiter = "clara" }', "pipeline-a.submiter", "did you mean 'submitter'? (known: id, submitter)"),
        ('{ id = "1", submitter = 3 }', "pipeline-a.submitter", "must be a text in quotes"),
        ("7", "pipeline-a", 'must be the id of a pipeline in quotes, or a table such as {id = "…", submitter = "…"}'),
    ],
)
def test_a_wrong_pipeline_is_refused(settings: Structure, value: str, path: str, expected: str) -> None:
    """Each message has the path of the value. An unknown submitter is reported with the known ones."""
    _, problems = settings(PipelinesById, f"pipeline-a = {value}")
    assert [path] == list(problems)
    assert expected in problems[path]


def test_references_are_found_anywhere_in_the_settings() -> None:
    """Lists, tables and nested classes are searched. Other texts are no references."""
    pipeline = PipelineReference(id="1", submitter=SubmitterReference("gpu"))
    found = Destinations(
        to=(SubmitterReference("pacs"), SubmitterReference("archive")),
        pipelines=PipelinesById(pipelines={"a": pipeline, "b": PipelineReference(id="gpu2")}),
    )
    assert ["pacs", "archive", "gpu"] == list(referenced_submitters(found))
    assert [] == list(referenced_submitters(NoSettings()))


def test_an_ae_title_needs_the_submitters_of_its_pipelines(read: Callable[[str], Any], minimal: str) -> None:
    """If such a submitter is not installed, the AE title cannot be served."""
    lines = (
        "default-submitter = 'clara'\n"
        + minimal.replace('"8abf"', '{ id = "8abf", submitter = "far" }')
        + "[submitters.far]\ntype = 'remoet'\n"
    )
    config = read(lines).config
    assert config is not None
    assert ["clara", "far"] == config.submitters_of("LUNG")
    assert config.unavailable("LUNG").startswith("submitter 'far' needs submitter 'remoet', which is not installed")
