"""The steps of jobs on a simulated clock: states, retries, faults and uploads."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from attrs import evolve

from dicom_adapter import (
    Job,
    JobState,
    Permanent,
    PlatformJob,
    Retriable,
)
from dicom_adapter.api.errors import LedgerUnavailable, StorageUnavailable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.ledger import jobs as ledger_jobs
from dicom_adapter.testing import Adapter, Plugin
from support.scripted_platform import ScriptedPlatform

MakeAdapter = Callable[..., Adapter]

ONE = """
[submitters.platform]
type = "scripted"
retry-first = 2
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""
THREE = ONE + 'pipeline-two = "p2"\npipeline-three = "p3"\n'
WAIT_S = 5  # from the last instance of a study to its jobs


class Platform(ScriptedPlatform):
    """A platform that records every call and fails as a test defines."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, int | None]] = []  # call, pipeline, position
        self.metadata: dict[str, dict[str, str]] = {}  # by pipeline
        # Each error is raised once. Members: the call, such as "upload", or "upload 3" for one position only; the
        # pipeline, or None for all pipelines; the error.
        self.failures: list[tuple[str, str | None, BaseException]] = []
        self.open_failures: list[BaseException] = []
        self.answer: Any = None  # returned instead of a PlatformJob
        self.opened = 0
        self.closed = 0

    def fail(self, call: str, failure: BaseException, *, pipeline: str | None = None, times: int = 1) -> None:
        self.failures += [(call, pipeline, failure)] * times

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        self.calls.append((call, job.pipeline_id, position))
        for index, (what, pipeline, failure) in enumerate(self.failures):
            if what in (call, f"{call} {position}") and pipeline in (None, job.pipeline_id):
                del self.failures[index]
                raise failure

    def names(self, pipeline: str = "p1") -> list[str]:
        return [call for call, of, _position in self.calls if of == pipeline]

    def positions(self) -> list[int | None]:
        return [position for call, _pipeline, position in self.calls if call == "upload"]

    def open(self) -> None:
        self.opened += 1
        if self.open_failures:
            raise self.open_failures.pop(0)

    def close(self) -> None:
        self.closed += 1

    def create(self, job: Job) -> PlatformJob:
        answer: PlatformJob = self.answer or super().create(job)
        return answer

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        self.metadata[job.pipeline_id] = dict(metadata)


@pytest.fixture
def platform() -> Platform:
    return Platform()


def with_jobs(make_adapter: MakeAdapter, platform: Platform, configuration: str = ONE, instances: int = 1) -> Adapter:
    """Return an adapter whose group of instances becomes jobs at the current time."""
    adapter = make_adapter(configuration, Plugin(platform))
    study = [make_instance(seed="study", instance_number=number + 1) for number in range(instances)]
    adapter.receive(*study, ae_title="LUNG")
    adapter.advance(WAIT_S)
    return adapter


def states(adapter: Adapter) -> dict[str, str]:
    return {job.pipeline_id: job.state.value for job in adapter.jobs}


# --- states ---------------------------------------------------------------------------------------------------------


def test_a_job_goes_through_its_states_in_order(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Each step is one call, and each state has one event. The platform's id of the job is stored."""
    adapter = with_jobs(make_adapter, platform, instances=2)
    (job,) = adapter.jobs
    assert ["create", "metadata", "upload", "upload", "start"] == platform.names()
    assert [0, 1] == platform.positions()
    assert (JobState.SUBMITTED, "job of p1", "payload") == (job.state, job.platform_job_id, job.platform_payload_id)
    assert (0, None, "") == (job.attempts, job.next_attempt_at, job.last_error)
    steps = [event.event for event in adapter.events if event.job_id == job.job_id]
    assert ["job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted"] == steps


def test_a_submitted_job_is_not_repeated_after_a_restart(make_adapter: MakeAdapter, platform: Platform) -> None:
    adapter = with_jobs(make_adapter, platform)
    calls = list(platform.calls)
    adapter.restart()
    adapter.advance(400)
    assert calls == platform.calls
    assert (2, 1) == (platform.opened, platform.closed)


def test_a_submitter_is_not_opened_while_the_storage_is_missing(make_adapter: MakeAdapter, platform: Platform) -> None:
    """Otherwise it would create its data folder in the mount point of a disk that is not mounted.

    The class of the error is important: the log has only the class, and it must show that the disk is the cause.
    Verified to fail when the submitter is opened in any case, and when the error is another `Retriable`.
    """
    adapter = make_adapter(ONE, Plugin(platform))
    problems = ["the disk is not mounted"]
    resources = evolve(adapter.resources, storage_problem=lambda: "".join(problems))
    submission = Submission(platform, Mock(), Mock(), resources, Mock())
    with pytest.raises(StorageUnavailable, match="the disk is not mounted"):
        submission.open()
    opened = platform.opened
    problems.clear()
    submission.open()
    assert (opened + 1, "") == (platform.opened, resources.problem())


# --- retriable ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "state"),
    [("create", "queued"), ("metadata", "created"), ("upload", "metadata-sent"), ("start", "uploaded")],
)
def test_a_retriable_failure_postpones_only_the_failed_step(
    make_adapter: MakeAdapter, platform: Platform, call: str, state: str
) -> None:
    """The failed step is repeated after a pause, earlier steps are not. Success resets the count of failures."""
    platform.fail(call, Retriable("the platform is busy"), times=2)
    adapter = with_jobs(make_adapter, platform)
    (job,) = adapter.jobs
    now = adapter.clock.now()
    assert (state, 1, "the platform is busy") == (job.state.value, job.attempts, job.last_error)
    assert job.next_attempt_at is not None
    assert now + timedelta(seconds=1) <= job.next_attempt_at <= now + timedelta(seconds=2)
    adapter.advance(2)
    (job,) = adapter.jobs
    assert job.next_attempt_at is not None
    assert (state, 2) == (job.state.value, job.attempts)
    adapter.advance(4)
    (job,) = adapter.jobs
    assert (JobState.SUBMITTED, 0, None, "") == (job.state, job.attempts, job.next_attempt_at, job.last_error)
    assert {call: 3} == {name: n for name in platform.names() if (n := platform.names().count(name)) > 1}


def test_a_restart_does_not_shorten_the_pause_of_a_postponed_job(make_adapter: MakeAdapter, platform: Platform) -> None:
    """The time of the next attempt and the count of failed attempts are kept."""
    platform.fail("create", Retriable("down"), times=8)
    adapter = with_jobs(make_adapter, platform)
    adapter.advance(100)
    (before,) = adapter.jobs
    adapter.restart()
    assert [before] == adapter.jobs
    tried = len(platform.calls)
    assert before.next_attempt_at is not None
    remaining = (before.next_attempt_at - adapter.clock.now()).total_seconds()
    adapter.advance(remaining - 0.001)
    assert tried == len(platform.calls)
    adapter.advance(0.001)
    assert tried < len(platform.calls)


def test_a_job_that_keeps_failing_faults_after_the_retry_time(make_adapter: MakeAdapter, platform: Platform) -> None:
    """`retry-for` starts at the first failure. After the fault, an operator must decide."""
    platform.fail("start", Retriable("still down"), times=1000)
    adapter = with_jobs(make_adapter, platform, ONE.replace("retry-first = 2", "retry-first = 2\nretry-for = 60"))
    adapter.advance(59)
    assert {"p1": "uploaded"} == states(adapter)
    adapter.advance(120)
    (job,) = adapter.jobs
    assert (JobState.FAULTED, None) == (job.state, job.next_attempt_at)
    gave_up = f"gave up after {job.attempts} attempts since 2026-01-05 08:00:05 UTC: still down"
    assert gave_up == job.last_error


# --- permanent failures and bugs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["create", "metadata", "upload", "start"])
def test_a_permanent_failure_faults_only_its_job_and_at_once(
    make_adapter: MakeAdapter, platform: Platform, call: str
) -> None:
    """Jobs of the group's other pipelines continue."""
    platform.fail(call, Permanent("the platform knows no pipeline p2"), pipeline="p2")
    adapter = with_jobs(make_adapter, platform, THREE)
    assert {"p1": "submitted", "p2": "faulted", "p3": "submitted"} == states(adapter)
    faulted = adapter.jobs[1]
    assert ("the platform knows no pipeline p2", 1, None) == (
        faulted.last_error,
        faulted.attempts,
        faulted.next_attempt_at,
    )
    adapter.advance(400)
    assert 1 == platform.names("p2").count(call)


def caused_by(failure: Exception, cause: Exception) -> Exception:
    """Return an error of a library whose cause is another error."""
    failure.__cause__ = cause
    return failure


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENFILE, "Too many open files in system"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
        caused_by(RuntimeError("no connection"), OSError(errno.EMFILE, "Too many open files")),
        caused_by(Permanent("the file cannot be read"), OSError(errno.EMFILE, "Too many open files")),
    ],
)
@pytest.mark.parametrize("call", ["create", "metadata", "upload", "start"])
def test_a_lack_of_descriptors_or_memory_faults_no_job(
    make_adapter: MakeAdapter, platform: Platform, call: str, failure: Exception
) -> None:
    """The step is repeated with back-off. The platform is not the cause, so it does not count as unavailable.

    Verified to fail when the failure counts as a bug of the submitter.
    """
    platform.fail(call, failure, times=3)
    adapter = with_jobs(make_adapter, platform)
    assert "the system has no free file descriptors or memory" in adapter.jobs[0].last_error
    adapter.advance(60)
    assert {"p1": "submitted"} == states(adapter)


def test_a_lack_of_descriptors_does_not_hide_the_permanent_failure_of_another_upload(
    make_adapter: MakeAdapter, platform: Platform
) -> None:
    platform.fail("upload 0", OSError(errno.EMFILE, "Too many open files"))
    platform.fail("upload 1", Permanent("refused"), times=2)
    adapter = with_jobs(make_adapter, platform, instances=2)
    adapter.advance(60)
    error = "1 of 2 instances could not be uploaded: refused"
    assert ({"p1": "faulted"}, error) == (states(adapter), adapter.jobs[0].last_error)


@pytest.mark.parametrize("failure", [ZeroDivisionError("Müller^Jörg"), SystemExit("Müller^Jörg")])
@pytest.mark.parametrize("call", ["create", "metadata", "upload", "start"])
def test_an_unexpected_exception_faults_the_job_without_its_message(
    make_adapter: MakeAdapter, platform: Platform, call: str, failure: BaseException
) -> None:
    """Type and location are recorded. The message may contain patient data, so it is not stored."""
    platform.fail(call, failure, pipeline="p2")
    adapter = with_jobs(make_adapter, platform, THREE)
    assert {"p1": "submitted", "p2": "faulted", "p3": "submitted"} == states(adapter)
    faulted = adapter.jobs[1]
    assert faulted.last_error.startswith(f"bug in submitter 'platform': {type(failure).__name__} at ")
    assert "test_steps.py" in faulted.last_error
    assert "Müller" not in repr(adapter.events) + faulted.last_error


@pytest.mark.parametrize("answer", ["a text", PlatformJob(job_id=7), PlatformJob(job_id="7", payload_id=None)])  # type: ignore[arg-type] # mistakes
def test_an_invalid_result_of_the_submitter_faults_the_job(
    make_adapter: MakeAdapter, platform: Platform, answer: object
) -> None:
    """The host checks results before it stores them: the ledger would refuse such a value on every attempt."""
    platform.answer = answer
    adapter = with_jobs(make_adapter, platform)
    assert {"p1": "faulted"} == states(adapter)
    assert adapter.jobs[0].last_error.startswith("bug in submitter 'platform': ")


# --- uploads --------------------------------------------------------------------------------------------------------


def test_a_refused_file_does_not_stop_the_others(make_adapter: MakeAdapter, platform: Platform, batch: int) -> None:
    """The job is faulted after all other files are uploaded. Its error has the text of the refusal.

    A retry sends what is missing. Verified to fail when a permanent error of an upload is raised at once.
    """
    count = batch + 5
    platform.fail("upload 1", Permanent("SOP class not supported"))
    adapter = with_jobs(make_adapter, platform, instances=count)
    (job,) = adapter.jobs
    assert f"1 of {count} instances could not be uploaded: SOP class not supported" == job.last_error
    assert (JobState.FAULTED, list(range(count))) == (job.state, platform.positions())
    operators.retry(adapter.ledger, adapter.clock, job.job_id)
    adapter.advance(2)
    assert {"p1": "submitted"} == states(adapter)
    assert [*range(count), 1] == platform.positions()


def test_a_transient_failure_of_an_upload_is_retried_before_a_refusal_counts(
    make_adapter: MakeAdapter, platform: Platform
) -> None:
    """The refused file is tried again, too; uploaded files are not."""
    platform.fail("upload 0", Retriable("busy"))
    platform.fail("upload 1", Permanent("refused"), times=2)
    adapter = with_jobs(make_adapter, platform, instances=3)
    assert ("metadata-sent", "busy") == (adapter.jobs[0].state.value, adapter.jobs[0].last_error)
    adapter.advance(2)
    assert "1 of 3 instances could not be uploaded: refused" == adapter.jobs[0].last_error
    assert [0, 1, 2, 0, 1] == platform.positions()


def test_refused_files_do_not_reset_the_retries_of_a_job(
    make_adapter: MakeAdapter, platform: Platform, batch: int
) -> None:
    """In each attempt, a batch of files is refused, then another file fails for a moment. The refusals are no success.

    So the pauses get longer, and the job is faulted after `retry-for`.

    Verified to fail when each batch without a transient failure clears the failed attempts.
    """
    for number in range(batch):
        platform.fail(f"upload {number}", Permanent("refused"), times=50)
    platform.fail(f"upload {batch}", Retriable("busy"), times=50)
    configuration = ONE.replace("retry-first = 2", "retry-first = 2\nretry-for = 600")
    adapter = with_jobs(make_adapter, platform, configuration, instances=batch + 1)
    adapter.advance(900)
    (job,) = adapter.jobs
    assert JobState.FAULTED is job.state
    assert "gave up after" in job.last_error


def test_many_refusals_are_summed_up(make_adapter: MakeAdapter, platform: Platform) -> None:
    """The ledger and the log need no thousand errors."""
    for number in range(6):
        platform.fail(f"upload {number}", Permanent(f"refused for reason {max(number - 1, 0)}"))
    adapter = with_jobs(make_adapter, platform, instances=7)
    words = "refused for reason 0; refused for reason 1; refused for reason 2; and 2 other errors"
    assert f"6 of 7 instances could not be uploaded: {words}" == adapter.jobs[0].last_error


def test_uploads_continue_where_they_stopped(make_adapter: MakeAdapter, platform: Platform, batch: int) -> None:
    """After a failure and after a restart, only the missing files are sent."""
    count = 2 * batch + 6
    broken = batch + 3
    platform.fail(f"upload {broken}", Retriable("connection lost"))
    adapter = with_jobs(make_adapter, platform, instances=count)
    assert list(range(2 * batch)) == platform.positions()
    adapter.restart()
    adapter.advance(2)
    assert {"p1": "submitted"} == states(adapter)
    assert [*range(2 * batch), broken, *range(2 * batch, count)] == platform.positions()


def test_a_crash_during_uploads_repeats_at_most_one_batch(
    make_adapter: MakeAdapter, platform: Platform, batch: int
) -> None:
    """Files whose upload is recorded are not sent again."""
    platform.fail(f"upload {batch + 2}", KeyboardInterrupt())  # simulates the end of the process
    with pytest.raises(KeyboardInterrupt):
        with_jobs(adapters := _Keeping(make_adapter), platform, instances=batch + 5)
    adapters.adapter.restart()
    repeated = [n for n in set(platform.positions()) if platform.positions().count(n) > 1]
    assert {"p1": "submitted"} == states(adapters.adapter)
    assert [batch, batch + 1, batch + 2] == sorted(repeated)


class _Keeping:
    """Factory that keeps the created adapter, for a test whose set-up raises."""

    def __init__(self, make: MakeAdapter) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Adapter:
        self.adapter = self._make(*arguments)
        return self.adapter


def test_a_missing_stored_object_faults_only_its_job(make_adapter: MakeAdapter, platform: Platform) -> None:
    """The reason has no patient data. The next study is submitted."""
    adapter = make_adapter(ONE, Plugin(platform))
    lost, kept = make_instance(), make_instance()
    (answer,) = adapter.receive(lost, ae_title="LUNG")
    adapter.receive(kept, ae_title="LUNG")
    assert answer.instance is not None
    adapter.storage.delete([answer.instance.storage_key])
    adapter.advance(WAIT_S)
    by_study = {adapter.instances_of(job)[0].study_instance_uid: job for job in adapter.jobs}
    faulted = by_study[lost.StudyInstanceUID]
    assert JobState.FAULTED is faulted.state
    assert answer.instance.storage_key in faulted.last_error
    assert JobState.SUBMITTED is by_study[kept.StudyInstanceUID].state


def test_a_temporary_failure_of_the_storage_does_not_fault_jobs(
    make_adapter: MakeAdapter, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network share may be unavailable for a moment. Such a failure is not an error of the submitter."""
    adapter = make_adapter(ONE, Plugin(platform))
    adapter.receive(make_instance(), ae_title="LUNG")
    with monkeypatch.context() as patch:
        patch.setattr(adapter.storage, "read", _raising(OSError(5, "Input/output error", "/a/path")))
        adapter.advance(WAIT_S)
    (job,) = adapter.jobs
    expected = ("metadata-sent", "the storage backend failed to read (OSError)")
    assert expected == (job.state.value, job.last_error)
    adapter.advance(2)
    assert {"p1": "submitted"} == states(adapter)


def test_a_temporary_failure_of_the_ledger_does_not_fault_jobs(
    make_adapter: MakeAdapter, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is repeated, and does not count as an error of the submitter."""
    adapter = make_adapter(ONE, Plugin(platform))
    adapter.receive(make_instance(), ae_title="LUNG")
    with monkeypatch.context() as patch:
        failure = LedgerUnavailable("database or disk is full")
        patch.setattr(ledger_jobs, "mark_uploaded", _raising(failure))
        adapter.advance(WAIT_S)
    (job,) = adapter.jobs
    assert ("metadata-sent", "the ledger is not available: database or disk is full") == (
        job.state.value,
        job.last_error,
    )
    adapter.advance(2)
    assert {"p1": "submitted"} == states(adapter)


def _raising(failure: Exception) -> Callable[..., Any]:
    def call(*_arguments: Any) -> Any:
        raise failure

    return call
