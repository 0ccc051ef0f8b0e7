"""Tests of the processor under a virtual clock, and the conformance suite."""

import pytest
from dicom_adapter.testing import Adapter, BaseProcessorTests, ExpectedJob, make_study

from {{ cookiecutter.__module }} import {{ cookiecutter.__class }}


@pytest.fixture
def adapter_configuration() -> str:
    return """
    [ae-titles.MINE]
    processor = "{{ cookiecutter.__plugin }}"
    [ae-titles.MINE.settings]
    quiet = 10
    pipeline-first = "pipeline-1"
    """


def test_a_study_becomes_a_job_when_no_more_instances_arrive(adapter: Adapter) -> None:
    study = make_study(instances=3)
    for second, instance in zip((0, 8, 16), study, strict=True):
        adapter.receive(instance, at=second)
    # `by` advances the clock to this second before the jobs are compared, so that another job would be noticed.
    adapter.expect_jobs(ExpectedJob("pipeline-1", instances=study, at=26), by=3600)


def test_two_studies_become_two_jobs(adapter: Adapter) -> None:
    first, second = make_study(instances=2), make_study(instances=1)
    adapter.receive(*first)
    adapter.receive(*second, at=5)
    adapter.expect_jobs(
        ExpectedJob("pipeline-1", instances=first, at=10), ExpectedJob("pipeline-1", instances=second, at=15), by=60
    )


class TestConformance(BaseProcessorTests):
    processor = {{ cookiecutter.__class }}
    settings = 'pipeline-first = "pipeline-1"'
