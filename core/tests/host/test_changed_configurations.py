"""Added, removed and failing AE titles and pipelines: one job for each group and each pipeline of the new settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dicom_adapter import JobState, Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

OTHER = '[ae-titles.HEAD]\nprocessor = "by-study"\nsettings = { pipeline-one = "other" }\n'
LUNG = '[ae-titles.LUNG]\nprocessor = "by-study"\n'
OLD = OTHER + LUNG + 'settings = { pipeline-one = "old-1", pipeline-two = "old-2" }\n'
NEW = OTHER + LUNG + 'settings = { pipeline-one = "new" }\n'
THREE = LUNG + 'settings = { pipeline-one = "p1", pipeline-two = "p2", pipeline-three = "p3" }\n'


def count_by_pipeline(adapter: Adapter, event: str) -> Counter[str]:
    """Count this event by the pipeline of its job."""
    pipelines = {job.job_id: job.pipeline_id for job in adapter.jobs}
    return Counter(pipelines[entry.job_id] for entry in adapter.events if entry.event == event and entry.job_id)


def test_an_ae_title_that_is_removed_and_added_again_submits_to_its_new_pipelines(
    make_adapter: MakeAdapter,
) -> None:
    """Pending instances become the new jobs. Instances that were in jobs do not become jobs again.

    Verified to fail when releases are not committed.
    """
    adapter = make_adapter(OLD)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(6)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(1)
    adapter.restart(OTHER)
    adapter.advance(60)
    assert {"old-1": 1, "old-2": 1} == count_by_pipeline(adapter, "job_submitted")
    assert {"pending": 1, "reclaimed": 1} == adapter.states

    adapter.restart(NEW)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(60)
    assert {"old-1": 1, "old-2": 1, "new": 2} == count_by_pipeline(adapter, "job_submitted")
    assert {"reclaimed": 3} == adapter.states


def test_a_failing_pipeline_causes_no_second_job_of_another_pipeline(make_adapter: MakeAdapter) -> None:
    """The job of the failing pipeline continues with the failed step, also after a restart.

    Verified to fail when a failure restarts the job from the beginning.
    """
    adapter = make_adapter(THREE)
    adapter.platform.fail("start", Retriable("busy"), times=4, pipeline_id="p2")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    adapter.restart()
    adapter.advance(60)
    assert [JobState.SUBMITTED] * 3 == [job.state for job in adapter.jobs]
    assert {"p2": 4} == count_by_pipeline(adapter, "job_attempt_failed")  # before and after the restart
    for step in ("job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted"):
        assert {"p1": 1, "p2": 1, "p3": 1} == count_by_pipeline(adapter, step)
