"""The jobs of one submitter: which goes first, and what opening and closing the submitter mean for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    JobProcessorBase,
    JobState,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    Upload,
    hookimpl,
)
from dicom_adapter.flow.submit import Interrupted, Retries, Submission
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.synthetic import make_instance
from dicom_adapter.testing import Adapter, Plugin
from dicom_adapter.testing.adapter import Inline

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.platform]
type = "scripted"
[submitters.other]
type = "fake"
[ae-titles.LUNG]
processor = "one-by-one"
submitter = "platform"
[ae-titles.LIVER]
processor = "one-by-one"
submitter = "other"
"""


class OneByOne(JobProcessorBase):  # type: ignore[type-arg] # without settings
    """Each instance is a job; its accession number is the job's priority."""

    name = "one-by-one"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        priority = JobPriority(self.read_header(instance).AccessionNumber or "normal")
        self.submit_pipeline_job("job", "p1", priority, [instance])
        self.remove_instances([instance])


class Platform:
    """A plugin with a submitter that does what a test says."""

    def __init__(self) -> None:
        self.on_open: Callable[[], None] = lambda: None
        self.on_upload: Callable[[], None] = lambda: None
        self.started: list[str] = []  # priorities
        self.is_open = False

    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        return [OneByOne]

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type]:
        return [scripted(self)]


def scripted(platform: Platform) -> type[Submitter[Any]]:
    class Scripted(Submitter):  # type: ignore[type-arg] # without settings
        name = "scripted"

        def open(self) -> None:
            platform.on_open()
            platform.is_open = True

        def create_job(self, job: Job) -> PlatformJob:
            assert platform.is_open
            return PlatformJob(job_id=job.job_id)

        def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None: ...

        def upload(self, job: Job, upload: Upload) -> None:
            platform.on_upload()

        def start(self, job: Job) -> None:
            platform.started.append(job.priority.value)

        def status(self, job: Job) -> PlatformStatus:
            raise NotImplementedError

        def cancel(self, job: Job) -> None:
            raise NotImplementedError

        def close(self) -> None:
            assert platform.is_open
            platform.is_open = False

    return Scripted


@pytest.fixture
def platform() -> Platform:
    return Platform()


def raising(failure: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise failure

    return call


# --- order ----------------------------------------------------------------------------------------------------------


def test_urgent_jobs_go_first_and_older_ones_among_equals(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Of jobs of all priorities that were queued before the first one could go."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    arrived = ["normal", "lower", "immediate", "higher", "lower", "immediate", "normal"]
    adapter.receive(*[make_instance(accession_number=priority) for priority in arrived], ae_title="LUNG")
    by_id = [event.job_id for event in adapter.events if event.event == "job_submitted"]
    older_first = {job.job_id: number for number, job in enumerate(adapter.jobs)}
    assert ["immediate", "immediate", "higher", "normal", "normal", "lower", "lower"] == platform.started
    numbers = [older_first[job_id] for job_id in by_id if job_id is not None]
    assert [2, 5, 3, 0, 6, 1, 4] == numbers


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_huge_job_gives_way_to_others_after_each_batch(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Another AE title's job does not wait for its last file. Tried: uploading all of a job in one step."""
    together = """
[submitters.platform]
type = "scripted"
[ae-titles.LUNG.settings]
pipeline-a = "huge"
[ae-titles.LIVER.settings]
pipeline-a = "small"
"""
    uploads: list[int] = []  # how many jobs had been started at each
    platform.on_upload = lambda: uploads.append(len(platform.started))
    adapter = make_adapter(together, Plugin(platform))
    for data_set in [make_instance(seed=f"huge-{number}", study_uid="1.2.3") for number in range(300)]:
        adapter.receive(data_set, ae_title="LUNG")
    adapter.receive(make_instance(seed="small"), ae_title="LIVER")
    adapter.advance(5)
    assert 2 == len(platform.started)
    assert 1 in uploads  # files of the huge job went after the small job had started


def test_a_submitter_that_does_not_open_keeps_its_own_jobs_waiting_and_no_others(
    make_adapter: MakeAdapter, platform: Platform
) -> None:
    """The other submitter's jobs go their way; its own go theirs as soon as it opens."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    adapter.close()
    platform.on_open = raising(OSError("no licence"))
    with pytest.raises(OSError, match="no licence"):
        adapter._begin()
    parts = adapter.host.parts()
    step, _threads = parts["submitter platform"]
    for _again in range(2):
        with pytest.raises(OSError, match="no licence"):
            step()
    assert adapter.clock.now() < parts["submitter other"][0]()
    platform.on_open = lambda: None
    adapter.receive(make_instance(), ae_title="LUNG")
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_only_what_was_opened_is_closed(make_adapter: MakeAdapter, platform: Platform) -> None:
    """A submitter that never opened has nothing to let go of; closing twice closes once."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    assert platform.is_open
    adapter.host.close()
    assert not platform.is_open
    adapter.host.close()


# --- the end of the service in the middle of a step -----------------------------------------------------------------


@pytest.fixture
def waiting(make_adapter: MakeAdapter, platform: Platform) -> Adapter:
    """An adapter with one job that is about to upload."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    platform.on_upload = raising(Retriable("away"))
    adapter.receive(make_instance(), ae_title="LUNG")
    assert ["metadata-sent"] == [job.state.value for job in adapter.jobs]
    return adapter


def submission(adapter: Adapter, platform: Platform, uploads: Executor) -> Submission:
    once = timedelta(0)  # gives up at the first failure: an interruption must not count as one
    made = Submission(
        scripted(platform)(None, None),  # type: ignore[arg-type] # it uses neither
        Retries(first=once, most=once, lasting=once),
        adapter.ledger,
        adapter.storage,
        adapter.clock,
        uploads,
        lambda _job: None,
        {},
    )
    made.open()
    return made


def interrupted(adapter: Adapter, sending: Submission) -> None:
    """Taking the next step is interrupted, and leaves the job as it was."""
    before = adapter.jobs
    with adapter.ledger.read() as transaction:
        row = ledger_jobs.get(transaction, before[0].job_id)
    assert row is not None
    with pytest.raises(Interrupted):
        sending.take_step(row)
    assert before == adapter.jobs


def test_uploads_that_can_no_longer_begin_do_not_fault_the_job(waiting: Adapter, platform: Platform) -> None:
    """A stop that does not wait for a huge job leaves it for the next start."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    interrupted(waiting, submission(waiting, platform, executor))


def test_uploads_that_were_cancelled_do_not_fault_the_job(waiting: Adapter, platform: Platform) -> None:
    """As `HostProcess.stop` cancels those that have not begun."""

    class Cancelling(Inline):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            future: Any = super().submit(lambda: None).__class__()
            future.cancel()
            return future

    interrupted(waiting, submission(waiting, platform, Cancelling()))


@pytest.mark.parametrize("failure", [ConnectionResetError("closed"), Retriable("closed")])
def test_a_step_that_closing_cuts_off_does_not_fault_the_job(
    waiting: Adapter, platform: Platform, failure: Exception
) -> None:
    """What the submitter raises then says nothing of the job."""
    sending = submission(waiting, platform, Inline())

    def close_and_fail() -> None:
        sending.close()
        raise failure

    platform.on_upload = close_and_fail
    interrupted(waiting, sending)
    platform.on_upload = lambda: None
    waiting.restart()
    waiting.advance(2)
    assert [JobState.SUBMITTED] == [job.state for job in waiting.jobs]


def test_a_job_that_somebody_else_changed_meanwhile_is_left_alone(waiting: Adapter, platform: Platform) -> None:
    """An operator's cancellation wins over a step that was under way."""

    def cancel() -> None:
        with waiting.ledger.write() as transaction:
            row = ledger_jobs.get(transaction, waiting.jobs[0].job_id)
            assert row is not None
            ledger_jobs.change(transaction, row, state=JobState.CANCELLED)

    platform.on_upload = cancel
    waiting.advance(2)
    assert [JobState.CANCELLED] == [job.state for job in waiting.jobs]
    assert [] == platform.started
