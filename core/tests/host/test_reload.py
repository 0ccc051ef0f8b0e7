"""Reload on a simulated clock: changed parts are replaced, and unchanged parts keep running."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import JobPriority, JobProcessorBase, JobState, Refused, Retriable, Submitter, hookimpl
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.simulation.platform import MemorySubmitter
from dicom_adapter.testing import Adapter, Plugin
from support.grouping import StudyProcessor

MakeAdapter = Callable[..., Adapter]

PLATFORM = '[submitters.platform]\ntype = "memory"\n'
SECOND = '[submitters.second]\ntype = "memory"\n'
HEAD = '[ae-titles.HEAD]\nprocessor = "by-study"\nsettings = { pipeline-one = "head" }\n'
LUNG = '[ae-titles.LUNG]\nprocessor = "by-study"\nsettings = { pipeline-one = "old" }\n'
OLD = """
[ae-titles.OLD]
processor = "by-study"
submitter = "platform"
settings = { timeout = 60, pipeline-one = { id = "x", submitter = "second" } }
"""
BOTH = PLATFORM + HEAD + LUNG
RETRIES = PLATFORM + "retry-first = 7\n"
SLOWER = BOTH.replace('pipeline-one = "old"', 'pipeline-one = "new", timeout = 60')
CALLERS = BOTH + 'allowed-callers = ["CT1"]\nmetadata = ["StudyDate"]\n'

Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record each `open` and `close` of a processor or submitter: the method, and the AE title or submitter.

    Processors and submitters that a reload keeps are neither closed nor opened.
    """
    recorded: Calls = []
    for method in ("open", "close"):
        record = partial(_record, recorded, method)
        monkeypatch.setattr(StudyProcessor, method, lambda self, record=record: record(self.ae_title))
        monkeypatch.setattr(MemorySubmitter, method, lambda self, record=record: record(self.context.name))
    return recorded


def _record(recorded: Calls, method: str, name: str) -> None:
    recorded.append((method, name))


def pipelines(adapter: Adapter) -> list[tuple[str, int]]:
    """Return pipeline and number of instances of each submitted job."""
    assert {JobState.SUBMITTED} >= {job.state for job in adapter.jobs}
    return [(job.pipeline_id, job.instance_count) for job in adapter.jobs]


def test_unchanged_lanes_and_submitters_are_not_replaced(make_adapter: MakeAdapter, calls: Calls) -> None:
    """The unchanged processor keeps its group and its submitter. The changed processor is replaced.

    Verified to fail when a reload replaces all lanes.
    """
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="HEAD")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(4)
    calls.clear()
    adapter.reload(SLOWER)
    assert [("close", "LUNG"), ("open", "LUNG")] == calls
    adapter.advance(1)
    assert [("head", 1)] == pipelines(adapter)


def test_changed_callers_and_metadata_do_not_replace_the_processor(make_adapter: MakeAdapter, calls: Calls) -> None:
    """Callers and metadata are not settings of the processor. New jobs have the new metadata."""
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(StudyDate="20260102"), ae_title="LUNG")
    calls.clear()
    adapter.reload(CALLERS)
    assert [] == calls
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)
    [handed_over] = adapter.platform.jobs.values()
    assert "20260102" == handed_over.metadata["00080020"]


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

    Verified to fail when a new processor does not get the pending instances.
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
    """The change may correct the cause of the failures."""

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
    """The lane of the AE title ends. The AE title is listed while it has instances or jobs."""
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
    """The instances are acknowledged, and held with the other instances of the AE title."""
    adapter = make_adapter(BOTH)
    adapter.reload(PLATFORM + HEAD)
    [answer] = adapter.receive(make_instance(), ae_title="LUNG")
    assert answer.instance is not None
    adapter.reload(BOTH)
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


def test_a_draining_ae_title_submits_its_jobs_and_is_removed(make_adapter: MakeAdapter, calls: Calls) -> None:
    """The processor and settings of the AE title do not change.

    Later instances of an open association become jobs, too.
    """
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(3)
    calls.clear()
    adapter.reload(PLATFORM + HEAD, drain=True)
    assert [] == calls
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()
    adapter.advance(4)
    assert [("old", 1)] == pipelines(adapter)
    assert {"HEAD"} == adapter.lanes.keys()
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(10)
    assert [("old", 1)] * 2 == pipelines(adapter)


def test_a_draining_submitter_finishes_its_jobs(make_adapter: MakeAdapter) -> None:
    """The submitter is the default of an AE title that is removed with it. Only one other submitter remains."""
    both = 'default-submitter = "second"\n' + PLATFORM + SECOND
    adapter = make_adapter(both + LUNG + HEAD + LUNG.replace("LUNG", "OLD").replace('"old"', '"drained"'))
    adapter.platform.fail("start", Retriable("busy"), times=3, pipeline_id="drained")
    adapter.receive(make_instance(), ae_title="OLD")
    adapter.advance(5)
    assert [JobState.UPLOADED] == [job.state for job in adapter.jobs]
    adapter.reload(PLATFORM + LUNG + HEAD, drain=True)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(100)
    assert [("drained", 1), ("old", 1)] == pipelines(adapter)
    assert ["second", "platform"] == [job.submitter for job in adapter.jobs]


def test_a_draining_ae_title_submits_to_the_submitters_of_its_pipelines(make_adapter: MakeAdapter) -> None:
    """A submitter that only a pipeline names drains with the AE title."""
    adapter = make_adapter(PLATFORM + SECOND + HEAD + 'submitter = "platform"\n' + OLD)
    adapter.receive(make_instance(), ae_title="OLD")
    adapter.reload(PLATFORM + HEAD, drain=True)
    adapter.advance(100)
    assert [("x", "second")] == [(job.pipeline_id, job.submitter) for job in adapter.jobs]
    assert {"HEAD"} == adapter.lanes.keys()


def test_an_ae_title_that_is_configured_again_while_it_drains_keeps_its_processor(
    make_adapter: MakeAdapter, calls: Calls
) -> None:
    adapter = make_adapter(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(2)
    calls.clear()
    adapter.reload(PLATFORM + HEAD, drain=True)
    adapter.reload(BOTH)
    assert [] == calls
    adapter.advance(3)
    assert [("old", 1)] == pipelines(adapter)
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()


def test_an_added_ae_title_is_served(make_adapter: MakeAdapter) -> None:
    """The AE title is served as soon as the reload is complete."""
    adapter = make_adapter(PLATFORM + HEAD)
    adapter.reload(BOTH)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


def test_a_changed_submitter_is_replaced_and_continues_the_jobs(make_adapter: MakeAdapter, calls: Calls) -> None:
    """The old submitter is closed. A job that has already started continues with its next step."""
    adapter = make_adapter(PLATFORM + "retry-first = 100\nretry-most = 100\n" + LUNG)
    adapter.platform.fail("start", Retriable("busy"))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert [JobState.UPLOADED] == [job.state for job in adapter.jobs]
    calls.clear()
    adapter.reload(RETRIES + LUNG)
    assert [("close", "platform"), ("open", "platform")] == calls
    adapter.advance(200)
    assert [("old", 1)] == pipelines(adapter)
    names = [event.event for event in adapter.events]
    assert (1, 1) == (names.count("job_created"), names.count("job_submitted"))


def test_a_processor_can_name_a_submitter_that_a_reload_added(make_adapter: MakeAdapter) -> None:
    """The processor was created before the reload."""

    opened: list[str] = []

    class Choosing(JobProcessorBase):
        name = "choosing"

        def open(self) -> None:
            opened.append(self.ae_title)

        def handle_instance(self, instance: Any) -> None:
            self.submit_pipeline_job("job", "one", JobPriority.NORMAL, [instance], submitter="second")
            self.remove_instances([instance])

    plugin = Plugin(SimpleNamespace(dicom_adapter_processors=hookimpl(lambda: [Choosing])))
    first = 'default-submitter = "platform"\n' + PLATFORM + '[ae-titles.LUNG]\nprocessor = "choosing"\n'
    adapter = make_adapter(first, plugin)
    adapter.reload(first + SECOND)
    adapter.receive(make_instance(), ae_title="LUNG")
    assert ["LUNG"] == opened
    assert [("one", 1)] == pipelines(adapter)


def test_a_configuration_that_a_plugin_refuses_changes_nothing(make_adapter: MakeAdapter, calls: Calls) -> None:
    """Other changes of the configuration are not applied either.

    Verified to fail when the check follows the replacement of the submitters.
    """

    class Strict(Submitter):
        name = "strict"

        def __init__(self, settings: Any, context: Any) -> None:
            raise ValueError

        create_job = add_metadata = upload = start = status = cancel = lambda *_: None

    plugin = Plugin(SimpleNamespace(dicom_adapter_submitters=hookimpl(lambda: [Strict])))
    adapter = make_adapter(BOTH, plugin)
    adapter.receive(make_instance(), ae_title="LUNG")
    calls.clear()
    other = '[submitters.strict]\ntype = "strict"\n'
    with pytest.raises(Refused, match="AE title 'HEAD': submitter 'strict' cannot be created: ValueError"):
        adapter.reload('default-submitter = "strict"\n' + RETRIES + HEAD + other + LUNG.replace("LUNG", "NEW"))
    assert [] == calls
    assert {"HEAD", "LUNG"} == adapter.lanes.keys()
    adapter.advance(5)
    assert [("old", 1)] == pipelines(adapter)


CHOICES = [BOTH, SLOWER, CALLERS, PLATFORM + HEAD, RETRIES + HEAD + LUNG]


@pytest.mark.parametrize("seed", range(5))
def test_reloads_in_the_middle_of_studies_lose_nothing_and_submit_nothing_twice(
    make_adapter: MakeAdapter, seed: int
) -> None:
    """Settings change at any time. In the end, every instance is in one job.

    Verified to fail when a new processor does not get the pending instances.
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
    taken = [instance.instance_id for job in adapter.jobs for instance in adapter.instances_of(job)]
    assert sorted(set(taken)) == sorted(taken)
