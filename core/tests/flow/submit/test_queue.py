"""The jobs of one submitter: their order, slow uploads, and open and close of the submitter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    JobProcessorBase,
    JobState,
    Permanent,
    Retriable,
    hookimpl,
)
from dicom_adapter.dicom.synthetic import make_instance, make_study
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.submit.queue import JobQueue
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.submit.steps import CannotRead, Steps
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.flow.submit.uploading import Interrupted
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.parts import Part, PartKind, submitter_part
from dicom_adapter.runtime.watch import PartFinding
from dicom_adapter.runtime.workers import BoundedExecutor, Worker
from dicom_adapter.simulation.adapter import InlineExecutor
from dicom_adapter.testing import Adapter, Plugin
from support.listening import wait_until
from support.scripted_platform import ScriptedPlatform

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.platform]
type = "scripted"
[submitters.other]
type = "memory"
[ae-titles.LUNG]
processor = "one-by-one"
submitter = "platform"
[ae-titles.LIVER]
processor = "one-by-one"
submitter = "other"
"""
# Both AE titles use one submitter.
TOGETHER = """
[submitters.platform]
type = "scripted"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "huge" }
[ae-titles.LIVER]
processor = "by-study"
settings = { pipeline-a = "small" }
"""
NO_TIME = timedelta(0)
ONCE = Retries(first=NO_TIME, longest=NO_TIME, total=NO_TIME)  # gives up after the first failure
PATIENCE_S = 30.0  # time limit of each wait


class OneByOne(JobProcessorBase):  # type: ignore[type-arg] # without settings
    """Processor that submits each instance as a job.

    The accession number of the instance is the priority of the job.
    """

    name = "one-by-one"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        priority = JobPriority(self.read_header(instance).AccessionNumber or "normal")
        self.submit_pipeline_job("job", "p1", priority, [instance])
        self.remove_instances([instance])


class Platform(ScriptedPlatform):
    """A plugin with a submitter whose behaviour a test defines."""

    def __init__(self) -> None:
        super().__init__()
        self.on_open: Callable[[], None] = lambda: None
        self.on_upload: Callable[[Job], None] = lambda _job: None
        self.started: list[str] = []  # priorities
        self.is_open = False
        self.closed = 0  # number of calls of `close`

    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        return [OneByOne]

    def open(self) -> None:
        self.on_open()
        self.is_open = True

    def close(self) -> None:
        self.closed += 1
        self.is_open = False

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        if call == "create":
            assert self.is_open
        elif call == "upload":
            self.on_upload(job)
        elif call == "start":
            self.started.append(job.priority.value)


@pytest.fixture
def platform() -> Platform:
    return Platform()


def raising(failure: BaseException) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise failure

    return call


# --- order ----------------------------------------------------------------------------------------------------------


def test_jobs_are_started_by_priority_and_then_by_age(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Jobs of all priorities are queued before the first one starts."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    arrived = ["normal", "lower", "immediate", "higher", "lower", "immediate", "normal"]
    adapter.receive(*[make_instance(accession_number=priority) for priority in arrived], ae_title="LUNG")
    by_id = [event.job_id for event in adapter.events if event.event == "job_submitted"]
    older_first = {job.job_id: number for number, job in enumerate(adapter.jobs)}
    assert ["immediate", "immediate", "higher", "normal", "normal", "lower", "lower"] == platform.started
    numbers = [older_first[job_id] for job_id in by_id if job_id is not None]
    assert [2, 5, 3, 0, 6, 1, 4] == numbers


# --- the platform -----------------------------------------------------------------------------------------------------


@pytest.fixture
def outage(make_adapter: MakeAdapter, platform: Platform) -> Outage:
    return Outage(make_adapter(CONFIGURATION, Plugin(platform)), platform)


class Outage:
    """An adapter whose platform can fail, and the health of the platform."""

    def __init__(self, adapter: Adapter, platform: Platform) -> None:
        self.adapter = adapter
        self.platform = platform
        self.attempts = 0

    def begin(self) -> None:
        def fail(_job: Job) -> None:
            self.attempts += 1
            raise Retriable("connection refused")

        self.platform.on_upload = fail

    def end(self) -> None:
        self.platform.on_upload = lambda _job: None

    def health(self) -> PartFinding:
        return self.adapter.host.findings()[Part(PartKind.PLATFORM, "platform")]


def test_a_platform_is_down_after_three_failures_of_one_job(outage: Outage) -> None:
    """The reason is that of the last failure, with the time of the first one. Other platforms are not down.

    Verified to fail when failures of one job do not count: the platform of a single study is never down.
    """
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    assert PartFinding() == outage.health()
    while outage.attempts < 3:  # jitter shortens the pauses
        outage.adapter.advance(1)
    reason = "3 calls in a row have failed since 2026-01-05 08:00:00 UTC: connection refused"
    assert PartFinding(state=PartState.FAILING, reason=reason) == outage.health()
    assert PartFinding() == outage.adapter.host.findings()[Part(PartKind.PLATFORM, "other")]


def test_a_platform_that_is_back_is_up_within_half_a_minute(outage: Outage) -> None:
    """After an outage of hours, a job is not left in its long pause.

    Verified to fail when the pauses of the job count: the next attempt is after up to five minutes.
    """
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    outage.adapter.advance(7200)
    assert outage.attempts < 10 + 7200 / 30
    outage.end()
    outage.adapter.advance(30)
    assert PartFinding() == outage.health()
    assert [JobState.SUBMITTED] == [job.state for job in outage.adapter.jobs]


def test_a_platform_is_down_after_a_minute_without_a_success(make_adapter: MakeAdapter, platform: Platform) -> None:
    """The first pause may be longer than a minute. The job is retried twice per minute nevertheless.

    Verified to fail when the pauses of the job count: the job is not submitted soon after the outage.
    """
    outage = with_long_pauses(make_adapter, platform)
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    outage.adapter.advance(59)
    assert PartFinding() == outage.health()
    outage.adapter.advance(1)
    assert PartState.FAILING is outage.health().state
    outage.adapter.restart()
    outage.end()
    outage.adapter.advance(30)
    assert [JobState.SUBMITTED] == [job.state for job in outage.adapter.jobs]


def with_long_pauses(make_adapter: MakeAdapter, platform: Platform) -> Outage:
    """Return an adapter with long pauses between two tries of a job."""
    configuration = CONFIGURATION.replace('"scripted"', '"scripted"\nretry-first = 300')
    return Outage(make_adapter(configuration, Plugin(platform)), platform)


def test_a_platform_is_down_a_minute_after_its_only_call(
    make_adapter: MakeAdapter, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter cannot read what another job needs, which is tried instead.

    Verified to fail when only failures are counted: there is no second call before the pause of the job has ended.
    """
    outage = with_long_pauses(make_adapter, platform)
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")

    def fail_to_read(_call: str, _job: Job, _position: int | None = None) -> None:
        raise CannotRead("the files cannot be read")

    monkeypatch.setattr(platform, "handle", fail_to_read)
    outage.adapter.advance(29)
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    outage.adapter.advance(30)
    assert PartFinding() == outage.health()
    outage.adapter.advance(1)
    reason = "1 call has failed since 2026-01-05 08:00:00 UTC: connection refused"
    assert PartFinding(state=PartState.FAILING, reason=reason) == outage.health()


def test_a_job_that_the_adapter_cannot_read_does_not_delay_the_others(
    make_adapter: MakeAdapter, platform: Platform
) -> None:
    """It is tried every 30 seconds, without a call of the platform.

    Verified to fail when its tries count as calls of the platform: the other job waits for its pause of five minutes.
    """
    outage = with_long_pauses(make_adapter, platform)
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    [waiting] = outage.adapter.jobs
    outage.adapter.advance(10)

    def fail_to_read(job: Job) -> None:
        if job.job_id != waiting.job_id:
            raise CannotRead("the files cannot be read")

    platform.on_upload = fail_to_read
    outage.adapter.receive(make_instance(seed="another"), ae_title="LUNG")
    outage.adapter.advance(50)
    states = {job.job_id: job.state for job in outage.adapter.jobs}
    assert JobState.SUBMITTED is states.pop(waiting.job_id)
    assert [JobState.METADATA_SENT] == list(states.values())


@pytest.mark.parametrize("count", [1, 3])
def test_a_platform_for_which_no_job_waits_is_not_down(outage: Outage, count: int) -> None:
    """All jobs are faulted: nothing calls the platform any more.

    Verified to fail when only a success ends an outage.
    """
    outage.begin()
    for _number in range(count):
        outage.adapter.receive(make_instance(), ae_title="LUNG")
    outage.adapter.advance(10)
    assert PartState.FAILING is outage.health().state

    def refuse(_job: Job) -> None:
        raise Permanent("the input is not supported")

    outage.platform.on_upload = refuse
    outage.adapter.advance(300)
    assert [JobState.FAULTED] * count == [job.state for job in outage.adapter.jobs]
    assert PartFinding() == outage.health()


def test_a_platform_is_not_down_after_its_only_job_was_cancelled(outage: Outage) -> None:
    outage.begin()
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    outage.adapter.advance(10)
    assert PartState.FAILING is outage.health().state
    operators.cancel(outage.adapter.ledger, outage.adapter.clock, outage.adapter.jobs[0].job_id)
    outage.adapter.advance(30)
    assert PartFinding() == outage.health()


@pytest.mark.parametrize(
    ("call", "state"), [("create", PartState.FAILING), ("upload", PartState.DEGRADED), ("start", PartState.FAILING)]
)
def test_a_call_that_does_not_return_is_reported_after_a_minute(
    outage: Outage, monkeypatch: pytest.MonkeyPatch, call: str, state: PartState
) -> None:
    """An upload may be slow, any other call is not. Verified to fail when only calls that return count."""
    states = []

    def hang(called: str, _job: Job, _position: int | None = None) -> None:
        if called == call:
            outage.adapter.clock.advance(59)
            states.append(outage.health().state)
            outage.adapter.clock.advance(1)
            states.append(outage.health().state)

    monkeypatch.setattr(outage.platform, "handle", hang)
    outage.adapter.receive(make_instance(), ae_title="LUNG")
    assert [PartState.OK, state] == states
    assert PartFinding() == outage.health()


# --- uploads --------------------------------------------------------------------------------------------------------


def test_a_huge_job_yields_to_others_after_each_batch(
    make_adapter: MakeAdapter, platform: Platform, batch: int
) -> None:
    """A job of another AE title does not wait for its last file.

    Verified to fail when all files are uploaded in one step.
    """
    uploads: list[int] = []  # number of started jobs at each upload
    platform.on_upload = lambda _job: uploads.append(len(platform.started))
    adapter = make_adapter(TOGETHER, Plugin(platform))
    for data_set in [make_instance(seed=f"huge-{number}", study_uid="1.2.3") for number in range(10 * batch)]:
        adapter.receive(data_set, ae_title="LUNG")
    adapter.receive(make_instance(seed="small"), ae_title="LIVER")
    adapter.advance(5)
    assert 2 == len(platform.started)
    assert 1 in uploads  # files of the huge job were uploaded after the small job had started


def uploading(adapter: Adapter, platform: Platform, *, huge: int, small: int) -> None:
    """Create a job of LUNG with `huge` and one of LIVER with `small` files; postpone their first upload by a minute."""
    platform.on_upload = raising(Retriable("away"))
    for ae_title, count in (("LUNG", huge), ("LIVER", small)):
        adapter.receive(*make_study(modality="CT", instances=count, rows=2, columns=2), ae_title=ae_title)
    adapter.advance(5)
    assert [JobState.METADATA_SENT] * 2 == [job.state for job in adapter.jobs]
    adapter.clock.advance(60)  # both jobs are due again


class CountingExecutor(BoundedExecutor):
    """Executor that counts the calls of `submit`, including those that wait for a place."""

    submitted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return super().submit(fn, *args, **kwargs)


def test_jobs_on_a_slow_platform_alternate_before_their_batches_are_complete(
    make_adapter: MakeAdapter, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job is chosen when the time of a batch is over.

    Verified to fail when the time of a batch has no limit.
    """
    monkeypatch.setattr("dicom_adapter.flow.submit.uploading.BATCH_SECONDS", 0.0)
    adapter = make_adapter(TOGETHER, Plugin(platform))
    uploading(adapter, platform, huge=3, small=3)
    uploaded: list[str] = []
    platform.on_upload = lambda job: uploaded.append(job.pipeline_id)
    adapter.host.run_until_idle()
    assert "small" in uploaded[:3]
    assert ["huge"] * 3 + ["small"] * 3 == sorted(uploaded)


def test_slow_uploads_of_one_ae_title_delay_another_by_a_few_files_only(
    make_adapter: MakeAdapter, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test runs with the threads of a real service.

    Verified to fail when all files of a batch are in the queue of the threads at once, or a place is handed to a
    waiting thread (which is slow to wake).
    """
    monkeypatch.setattr(
        "dicom_adapter.flow.submit.uploading.BATCH_SECONDS", 10 * PATIENCE_S
    )  # so that the time of a batch never ends on a slow machine
    adapter = make_adapter(TOGETHER, Plugin(platform))
    uploading(adapter, platform, huge=100, small=1)
    begun, ended, other_uploaded = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def upload(job: Job) -> None:
        if job.pipeline_id == "small":
            other_uploaded.set()
        else:
            begun.release()
            ended.acquire()

    platform.on_upload = upload
    executor = CountingExecutor(2, "upload")
    queue = JobQueue("platform", submission(adapter, platform, executor), ONCE, adapter.resources)
    workers = [Worker("submitter platform", queue.step, adapter.clock) for _number in range(2)]
    try:
        workers[0].start()
        wait_until(lambda: executor.submitted == 5)  # the huge job: two files in progress, two queued, one waiting
        workers[1].start()
        wait_until(lambda: executor.submitted == 6)  # the file of the small job
        assert all(begun.acquire(timeout=PATIENCE_S) for _thread in range(2))
        ended.release(8)
        assert other_uploaded.wait(PATIENCE_S)
    finally:
        ended.release(1000)
        for worker in workers:
            worker.stop()
        assert all(worker.join(PATIENCE_S) for worker in workers)
        executor.shutdown()


# --- opening --------------------------------------------------------------------------------------------------------


def test_a_submitter_that_does_not_open_delays_only_its_jobs(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Jobs of the other submitter are submitted. The delayed jobs are submitted as soon as their submitter opens."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    platform.on_open = raising(OSError("no licence"))
    with pytest.raises(OSError, match="no licence"):
        adapter.restart()
    parts = adapter.host.parts()
    step = parts[submitter_part("platform")].step
    for _again in range(2):
        with pytest.raises(OSError, match="no licence"):
            step()
    assert adapter.clock.now() < parts[submitter_part("other")].step()
    platform.on_open = lambda: None
    adapter.receive(make_instance(), ae_title="LUNG")
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_only_an_open_submitter_is_closed(make_adapter: MakeAdapter, platform: Platform) -> None:
    """A second close has no effect, and a submitter that could not be opened is not closed."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    assert platform.is_open
    adapter.host.close()
    adapter.host.close()
    assert (False, 1) == (platform.is_open, platform.closed)
    platform.on_open = raising(OSError("no licence"))
    with pytest.raises(OSError, match="no licence"):
        adapter.restart()
    adapter.host.close()
    assert 1 == platform.closed


# --- stop of the service during a step ------------------------------------------------------------------------------


@pytest.fixture
def waiting(make_adapter: MakeAdapter, platform: Platform) -> Adapter:
    """An adapter with one job whose next step is an upload."""
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    platform.on_upload = raising(Retriable("away"))
    adapter.receive(make_instance(), ae_title="LUNG")
    assert ["metadata-sent"] == [job.state.value for job in adapter.jobs]
    return adapter


def submission(adapter: Adapter, platform: Platform, uploads: Executor) -> Submission:
    submitter = platform.submitter(None, None)  # type: ignore[arg-type] # it uses neither
    steps = Steps(submitter, adapter.resources, uploads, {})
    submission = Submission(submitter, steps, ONCE, adapter.resources, lambda _job: None)
    submission.open()
    return submission


def check_step_is_interrupted(adapter: Adapter, sending: Submission) -> None:
    """Check that the next step is interrupted: the step does not count as a failure and does not change the job."""
    before = adapter.jobs
    with adapter.ledger.read() as transaction:
        row = ledger_jobs.get(transaction, before[0].job_id)
    assert row is not None
    with pytest.raises(Interrupted):
        sending.run_step(row)
    assert before == adapter.jobs


def test_uploads_that_can_no_longer_start_do_not_fault_the_job(waiting: Adapter, platform: Platform) -> None:
    """A stop does not wait for a huge job, which continues after the next start."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    check_step_is_interrupted(waiting, submission(waiting, platform, executor))


def test_uploads_that_were_cancelled_do_not_fault_the_job(waiting: Adapter, platform: Platform) -> None:
    """`HostProcess.stop` cancels uploads that have not started."""

    class Cancelling(InlineExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            future: Future[Any] = Future()
            future.cancel()
            return future

    check_step_is_interrupted(waiting, submission(waiting, platform, Cancelling()))


@pytest.mark.parametrize("failure", [ConnectionResetError("closed"), Retriable("closed")])
def test_a_step_interrupted_by_close_does_not_fault_the_job(
    waiting: Adapter, platform: Platform, failure: Exception
) -> None:
    """Errors of the submitter after its close are not errors of the job."""
    sending = submission(waiting, platform, InlineExecutor())

    def close_and_fail(_job: Job) -> None:
        sending.close()
        raise failure

    platform.on_upload = close_and_fail
    check_step_is_interrupted(waiting, sending)
    platform.on_upload = lambda _job: None
    waiting.restart()
    waiting.advance(2)
    assert [JobState.SUBMITTED] == [job.state for job in waiting.jobs]


def test_a_job_that_was_changed_during_a_step_is_not_overwritten(waiting: Adapter, platform: Platform) -> None:
    """The cancellation by an operator takes precedence over the running step."""

    def cancel(_job: Job) -> None:
        with waiting.ledger.write() as transaction:
            row = ledger_jobs.get(transaction, waiting.jobs[0].job_id)
            assert row is not None
            ledger_jobs.change(transaction, row, state=JobState.CANCELLED)

    platform.on_upload = cancel
    waiting.advance(2)
    assert [JobState.CANCELLED] == [job.state for job in waiting.jobs]
    assert [] == platform.started
