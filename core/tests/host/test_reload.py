"""Reload on a simulated clock: changed parts are replaced, and unchanged parts keep running."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import JobPriority, JobProcessorBase, JobState, Refused, Submitter, hookimpl
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.plugins.measured import unwrap
from dicom_adapter.testing import Adapter, Plugin
from dicom_adapter_clara_client import FakeSubmitter

MakeAdapter = Callable[..., Adapter]

PLATFORM = '[submitters.platform]\ntype = "fake"\nfolder = "platform"\n'
HEAD = '[ae-titles.HEAD.settings]\npipeline-one = "head"\n'
LUNG = '[ae-titles.LUNG.settings]\npipeline-one = "old"\n'
BOTH = PLATFORM + HEAD + LUNG
RETRIES = PLATFORM + "retry-first = 7\n"
SLOWER = PLATFORM + HEAD + '[ae-titles.LUNG.settings]\npipeline-one = "new"\ntimeout = 60\ngroup-by = "study"\n'
CALLERS = PLATFORM + HEAD + '[ae-titles.LUNG]\nallowed-callers = ["CT1"]\nmetadata = ["StudyDate"]\n' + LUNG


def processor(adapter: Adapter, ae_title: str) -> Any:
    return unwrap(adapter.host._lanes.lanes[ae_title]._running.processor)


def submitter(adapter: Adapter) -> Any:
    return unwrap(adapter.host._submitters._entries["platform"].submission._submitter)


def pipelines(adapter: Adapter) -> list[tuple[str, int]]:
    """Return pipeline and number of instances of each submitted job."""
    assert {JobState.SUBMITTED} >= {job.state for job in adapter.jobs}
    return [(job.pipeline_id, job.instance_count) for job in adapter.jobs]


def test_unchanged_lanes_and_submitters_are_not_replaced(make_adapter: MakeAdapter) -> None:
    """The unchanged processor keeps its group and its submitter. The changed one is replaced.

    Tried: a reload that replaces all lanes.
    """
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="HEAD")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(4)
    head, lung, platform = processor(adapter, "HEAD"), processor(adapter, "LUNG"), submitter(adapter)
    adapter.reload(SLOWER)
    assert processor(adapter, "HEAD") is head
    assert submitter(adapter) is platform
    assert processor(adapter, "LUNG") is not lung
    adapter.advance(1)
    assert [("head", 1)] == pipelines(adapter)


def test_changed_callers_and_metadata_do_not_replace_the_processor(make_adapter: MakeAdapter) -> None:
    """They are not settings of the processor. New jobs have the new metadata."""
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(StudyDate="20260102"), ae_title="LUNG")
    before = processor(adapter, "LUNG")
    adapter.reload(CALLERS)
    assert processor(adapter, "LUNG") is before
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


def test_calls_of_replaced_parts_are_measured(make_adapter: MakeAdapter) -> None:
    """The parts are the processor, its timers, and the submitter."""
    adapter = make_adapter(BOTH)
    calls = adapter._plugins.statistics
    calls.trace = True
    calls.flush_log()
    adapter.reload(SLOWER.replace(PLATFORM, RETRIES))
    with capture_logs() as logged:
        adapter.receive(make_instance(), ae_title="LUNG")
        adapter.advance(60)
    assert [("new", 1)] == pipelines(adapter)
    called = {(entry["part"], entry["hook"]) for entry in logged if entry["event"] == "hook_called"}
    assert {
        ("AE title LUNG", "handle_instance"),
        ("AE title LUNG", "timer"),
        ("submitter platform", "upload"),
    } <= called


def test_pending_instances_are_delivered_to_the_new_processor_with_their_arrival_times(
    make_adapter: MakeAdapter,
) -> None:
    """A study that is received partly before the change and partly after it is one job, under the new settings.

    Tried: a replaced processor that does not get the pending instances again.
    """
    adapter = make_adapter(BOTH)
    first, second, third = make_study(instances=3)
    adapter.receive(first, ae_title="LUNG")
    adapter.advance(3)
    adapter.receive(second, ae_title="LUNG")
    adapter.reload(SLOWER)
    adapter.advance(40)
    assert [] == pipelines(adapter)
    adapter.receive(third, ae_title="LUNG")
    adapter.advance(59)
    assert [] == pipelines(adapter)
    adapter.advance(1)
    assert [("new", 3)] == pipelines(adapter)
    [job] = adapter.jobs
    uids = [instance.sop_instance_uid for instance in adapter.instances_of(job)]
    assert [data_set.SOPInstanceUID for data_set in (first, second, third)] == uids


def test_a_group_that_is_due_under_the_new_settings_becomes_a_job_at_once(make_adapter: MakeAdapter) -> None:
    """The new timeout is shorter than the time that the group has already waited."""
    adapter = make_adapter(SLOWER)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(20)
    adapter.reload(BOTH)
    assert [("old", 1)] == pipelines(adapter)


def test_a_stopped_lane_runs_again_when_its_settings_change(make_adapter: MakeAdapter) -> None:
    """The change may fix the cause."""

    class Picky(JobProcessorBase):
        name = "picky"

        def open(self) -> None:
            raise ValueError

        def handle_instance(self, instance: Any) -> None:
            raise AssertionError

    plugin = Plugin(SimpleNamespace(dicom_adapter_processors=hookimpl(lambda: [Picky])))
    adapter = make_adapter(PLATFORM + '[ae-titles.LUNG]\nprocessor = "picky"\n', plugin)
    adapter.receive(*[make_instance() for _number in range(3)], ae_title="LUNG")
    adapter.advance(60)
    assert LaneState.STOPPED is adapter.lanes["LUNG"].state
    adapter.reload(PLATFORM + LUNG)
    adapter.advance(60)
    assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    assert 0 < sum(count for _pipeline, count in pipelines(adapter))


def test_a_removed_ae_title_is_held_until_it_is_configured_again(make_adapter: MakeAdapter) -> None:
    """Its lane ends. It is listed while it has instances or jobs."""
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.reload(PLATFORM + HEAD)
    adapter.advance(60)
    assert [] == pipelines(adapter)
    assert (LaneState.STOPPED, {"pending": 1}) == (adapter.lanes["LUNG"].state, adapter.states)
    assert "it is not configured" in adapter.lanes["LUNG"].reason
    adapter.reload(BOTH)
    assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    assert [("old", 1)] == pipelines(adapter)


def test_instances_of_an_open_association_with_a_removed_ae_title_are_kept(make_adapter: MakeAdapter) -> None:
    """They are acknowledged, and held with the other instances."""
    adapter = make_adapter(BOTH)
    adapter.reload(PLATFORM + HEAD)
    [answer] = adapter.receive(make_instance(), ae_title="LUNG")
    assert answer.instance is not None
    adapter.reload(BOTH)
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


def test_a_draining_ae_title_submits_its_jobs_and_is_removed(make_adapter: MakeAdapter) -> None:
    """Its processor and settings stay the same. Later instances of an open association become jobs, too."""
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(3)
    before = processor(adapter, "LUNG")
    adapter.reload(PLATFORM + HEAD, drain=True)
    assert processor(adapter, "LUNG") is before
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()
    adapter.advance(4)
    assert [("old", 1)] == pipelines(adapter)
    assert {"HEAD"} == adapter.lanes.keys()
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(10)
    assert [("old", 1)] * 2 == pipelines(adapter)


def test_a_draining_submitter_finishes_its_jobs(make_adapter: MakeAdapter) -> None:
    """It is the default submitter of an AE title that is removed with it. Another submitter is the only one left."""
    second = '[submitters.second]\ntype = "fake"\nfolder = "second"\nfail = [{ call = "start", times = 3 }]\n'
    both = 'default-submitter = "second"\n' + PLATFORM + second
    adapter = make_adapter(both + LUNG + HEAD + "[ae-titles.OLD.settings]\npipeline-one = 'old'\n")
    adapter.receive(make_instance(), ae_title="OLD")
    adapter.advance(5)
    assert [JobState.UPLOADED] == [job.state for job in adapter.jobs]
    adapter.reload(PLATFORM + LUNG + HEAD, drain=True)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(100)
    assert [("old", 1)] * 2 == pipelines(adapter)
    assert ["second", "platform"] == [job.submitter for job in adapter.jobs]


def test_an_ae_title_that_is_configured_again_while_it_drains_keeps_its_processor(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(2)
    before = processor(adapter, "LUNG")
    adapter.reload(PLATFORM + HEAD, drain=True)
    adapter.reload(BOTH)
    assert processor(adapter, "LUNG") is before
    adapter.advance(3)
    assert [("old", 1)] == pipelines(adapter)
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()


def test_an_added_ae_title_is_served(make_adapter: MakeAdapter) -> None:
    """It is served as soon as the reload is complete."""
    adapter = make_adapter(PLATFORM + HEAD)
    adapter.reload(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


def test_a_changed_submitter_is_replaced_and_continues_the_jobs(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is closed. A job that has already started continues with its next step."""
    closed: list[Any] = []
    close = FakeSubmitter.close
    monkeypatch.setattr(FakeSubmitter, "close", lambda self: (closed.append(self), close(self)))
    failing = PLATFORM + 'fail = [{ call = "start", times = 1 }]\nretry-first = 100\nretry-most = 100\n' + LUNG
    adapter = make_adapter(failing)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert [JobState.UPLOADED] == [job.state for job in adapter.jobs]
    old, lung = submitter(adapter), processor(adapter, "LUNG")
    adapter.reload(RETRIES + LUNG)
    assert [old] == closed
    assert submitter(adapter) is not old
    assert processor(adapter, "LUNG") is lung
    adapter.advance(200)
    assert [("old", 1)] == pipelines(adapter)
    names = [event.event for event in adapter.events]
    assert (1, 1) == (names.count("job_created"), names.count("job_submitted"))


def test_a_processor_can_name_a_submitter_that_a_reload_added(make_adapter: MakeAdapter) -> None:
    """The processor was created before the reload."""

    class Choosing(JobProcessorBase):
        name = "choosing"

        def handle_instance(self, instance: Any) -> None:
            self.submit_pipeline_job("job", "one", JobPriority.NORMAL, [instance], submitter="second")
            self.remove_instances([instance])

    plugin = Plugin(SimpleNamespace(dicom_adapter_processors=hookimpl(lambda: [Choosing])))
    first = 'default-submitter = "platform"\n' + PLATFORM + '[ae-titles.LUNG]\nprocessor = "choosing"\n'
    adapter = make_adapter(first, plugin)
    before = processor(adapter, "LUNG")
    adapter.reload(first + '[submitters.second]\ntype = "fake"\nfolder = "second"\n')
    adapter.receive(make_instance(), ae_title="LUNG")
    assert processor(adapter, "LUNG") is before or before is None
    assert [("one", 1)] == pipelines(adapter)


def test_a_configuration_that_a_plugin_refuses_changes_nothing(make_adapter: MakeAdapter) -> None:
    """Other changes of the configuration are not applied either.

    Tried: a check after the submitters are replaced.
    """

    class Strict(Submitter):
        name = "strict"

        def __init__(self, settings: Any, context: Any) -> None:
            raise ValueError

        create_job = add_metadata = upload = start = status = cancel = lambda *_: None

    plugin = Plugin(SimpleNamespace(dicom_adapter_submitters=hookimpl(lambda: [Strict])))
    adapter = make_adapter(BOTH, plugin)
    adapter.receive(make_instance(), ae_title="LUNG")
    before, platform = processor(adapter, "LUNG"), submitter(adapter)
    other = '[submitters.strict]\ntype = "strict"\n'
    with pytest.raises(Refused, match="AE title 'HEAD': submitter 'strict' cannot be created: ValueError"):
        adapter.reload(
            'default-submitter = "strict"\n' + RETRIES + HEAD + other + '[ae-titles.NEW.settings]\npipeline-a = "a"\n'
        )
    assert (before, platform) == (processor(adapter, "LUNG"), submitter(adapter))
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


CHOICES = [BOTH, SLOWER, CALLERS, PLATFORM + HEAD, RETRIES + HEAD + LUNG]


@pytest.mark.parametrize("seed", range(5))
def test_reloads_in_the_middle_of_studies_lose_nothing_and_submit_nothing_twice(
    make_adapter: MakeAdapter, seed: int
) -> None:
    """Settings change at any time. In the end, every instance is in one job.

    Tried: a replaced processor that does not get the pending instances again.
    """
    random = Random(seed)
    adapter = make_adapter(BOTH)
    sent = 0
    for _round in range(15):
        for data_set in make_study(instances=random.randint(1, 4)):
            ae_title = random.choice(["HEAD", "LUNG"])
            sent += sum(answer.instance is not None for answer in adapter.receive(data_set, ae_title=ae_title))
            if random.random() < 0.4:
                adapter.reload(random.choice(CHOICES), drain=random.random() < 0.5)
            adapter.advance(random.choice([0, 0.5, 4, 6]))
    adapter.reload(BOTH)
    adapter.advance(1000)
    assert sent == sum(count for _pipeline, count in pipelines(adapter))
    assert {"reclaimed": sent} == adapter.states
    taken = [one.instance_id for job in adapter.jobs for one in adapter.instances_of(job)]
    assert sorted(set(taken)) == sorted(taken)
