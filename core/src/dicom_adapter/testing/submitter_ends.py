"""Part of the conformance suite for submitters: the end of a job, its results, its log, and its retry."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

import pytest
from attrs import evolve

from dicom_adapter.api.errors import Permanent, Retriable
from dicom_adapter.api.submitter import Output, Submitter
from dicom_adapter.api.values import Job, PlatformStatus
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, JobSteps, PlatformRecord, make_job, make_upload

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
EndJob = Callable[[Job, Mapping[str, bytes] | None], None]
MIB = 1 << 20
PIECE_BYTES = 1 << 16
MAX_RESULT_MEMORY = 16 * MIB  # maximum memory for reading one large output
END_SECONDS = 60.0  # time in which the submitter must report that a job has ended
OUTPUTS = {"report.json": b'{"finding": "none"}', "series/mask.dcm": b"\0mask" * 40_000, "series/empty": b""}


class EndOfJobTests:
    """Tests of `status`, `results`, `clean_up`, `log` and `run_id`, most of them for submitters that follow jobs."""

    pipeline_id: ClassVar[str]
    large_upload_bytes: ClassVar[int | None]

    @pytest.fixture
    def end_job(self) -> EndJob:
        """A function that ends a started job on the platform.

        `end_job(job, outputs)`: the job succeeds, and has produced files with these relative names and contents. The
        submitter may return them in a folder. `end_job(job, None)`: the job fails.
        """
        pytest.skip("the fixture `end_job` is not overridden: the end of a job and its results are not tested")

    @pytest.fixture
    def follower(self, submitter: Submitter[Any]) -> Submitter[Any]:
        """An open submitter that follows jobs."""
        if not submitter.follows_jobs:
            pytest.skip("follows_jobs = False: the end of a job and its results are not tested")
        return submitter

    @pytest.fixture
    def started(self, follower: Submitter[Any]) -> Job:
        """A started job with one instance."""
        steps = JobSteps(make_job(1, self.pipeline_id, instance_count=1))
        steps.all(follower, [make_upload(0, b"the only instance")])
        return steps.job

    # --- the end of a job

    def test_running_job_has_no_outcome(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:  # noqa: ARG002 - skips
        """Before the end of the job, nobody knows whether it succeeds."""
        status = follower.status(started)
        assert not status.finished, "the job has not ended yet: PlatformStatus.finished must be False"
        assert status.succeeded is None, "before the end of a job, PlatformStatus.succeeded must be None"

    def test_success_is_reported(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:
        """The adapter collects the results of a job that has succeeded."""
        end_job(started, {})
        status = wait_for_end(follower, started)
        assert status.succeeded is True, "the job has succeeded: PlatformStatus.succeeded must be True"

    def test_failure_is_reported_with_its_reason(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:
        """The reason is all that an operator sees of the failure. It is logged, so it has no patient data."""
        end_job(started, None)
        status = wait_for_end(follower, started)
        assert status.succeeded is False, "the job has failed: PlatformStatus.succeeded must be False, not None"
        assert status.detail, "PlatformStatus.detail must say why the job has failed"
        assert PATIENT_ID not in status.detail, "PlatformStatus.detail contains patient data: it is logged and stored"

    def test_cancelled_job_has_not_succeeded(self, follower: Submitter[Any], started: Job) -> None:
        """`succeeded` must not be None: the adapter would report a bug of the submitter."""
        follower.cancel(started)
        status = wait_for_end(follower, started)
        assert status.succeeded is False, "a cancelled job has not succeeded: PlatformStatus.succeeded must be False"

    def test_end_is_reported_by_another_process(
        self, follower: Submitter[Any], started: Job, end_job: EndJob, connect: MakeSubmitter
    ) -> None:
        """The service may restart while a job runs."""
        follower.close()
        end_job(started, {})
        assert wait_for_end(connect(), started).succeeded is True, "after a restart, the end of the job is unknown"
        follower.open()

    # --- results

    def test_results_are_the_files_that_the_job_produced(
        self, follower: Submitter[Any], started: Job, end_job: EndJob
    ) -> None:
        """All files are returned, with different relative names, and each can be read twice."""
        end_job(started, OUTPUTS)
        wait_for_end(follower, started)
        results = list(follower.results(started))
        check_results(results, OUTPUTS)
        check_results(results, OUTPUTS)

    def test_results_can_be_collected_again(
        self, follower: Submitter[Any], started: Job, end_job: EndJob, connect: MakeSubmitter
    ) -> None:
        """After a crash, the adapter calls `results` again: names and contents must be the same."""
        end_job(started, OUTPUTS)
        wait_for_end(follower, started)
        names = sorted(result.name for result in follower.results(started))
        again = list(connect().results(started))
        assert names == sorted(result.name for result in again), "a second call of results() returned other names"
        check_results(again, OUTPUTS)

    def test_results_belong_to_one_job(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:
        """Files of another job could belong to another patient. The job's own input is not a result."""
        other = JobSteps(make_job(2, self.pipeline_id, instance_count=1))
        other.all(follower, [make_upload(0, b"another instance")])
        end_job(started, {})
        end_job(other.job, OUTPUTS)
        wait_for_end(follower, started)
        wait_for_end(follower, other.job)
        check_results(list(follower.results(started)), {})
        check_results(list(follower.results(other.job)), OUTPUTS)

    def test_large_result_needs_little_memory(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:
        """An output may be larger than the memory: its reader returns it in pieces."""
        size = self.large_upload_bytes
        if size is None:
            pytest.skip("large_upload_bytes = None: a large output is not tested")
        end_job(started, {"large.bin": bytes(size)})
        wait_for_end(follower, started)
        tracemalloc.start()
        try:
            (result,) = follower.results(started)
            with result.open() as source:
                received = sum(map(len, iter(lambda: source.read(PIECE_BYTES), b"")))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size == received, f"an output of {size} bytes was read as {received} bytes"
        assert peak < MAX_RESULT_MEMORY, (
            f"an output of {size // MIB} MiB took {peak // MIB} MiB of memory: return it in pieces"
        )

    # --- cleaning up

    @pytest.mark.parametrize("outputs", [OUTPUTS, None], ids=["succeeded", "failed"])
    def test_ended_job_can_be_cleaned_up_twice(
        self, follower: Submitter[Any], started: Job, end_job: EndJob, outputs: Mapping[str, bytes] | None
    ) -> None:
        """After a crash, the adapter may call `clean_up` again. Later calls raise at most Permanent or Retriable."""
        end_job(started, outputs)
        wait_for_end(follower, started)
        for _ in range(2):
            follower.clean_up(started)
        follower.cancel(started)  # has no effect
        try:
            follower.status(started)
        except (Permanent, Retriable):
            pass  # the platform does not have the job any more

    def test_cleaning_up_spares_other_jobs(self, follower: Submitter[Any], started: Job, end_job: EndJob) -> None:
        """The results of another job may not be collected yet."""
        other = JobSteps(make_job(2, self.pipeline_id, instance_count=1))
        other.all(follower, [make_upload(0, b"another instance")])
        for job in (started, other.job):
            end_job(job, OUTPUTS)
            wait_for_end(follower, job)
        follower.clean_up(started)
        check_results(list(follower.results(other.job)), OUTPUTS)

    def test_cleaning_up_an_unknown_job_succeeds(self, submitter: Submitter[Any]) -> None:
        """A job that was never created has nothing to delete."""
        submitter.clean_up(make_job(1, self.pipeline_id))

    # --- log

    def test_log_can_be_read_before_open(
        self, make_submitter: MakeSubmitter, follower: Submitter[Any], started: Job, end_job: EndJob
    ) -> None:
        """`dicom-adapter jobs show --log` is another process: it makes a submitter and calls only `log`."""
        end_job(started, None)
        wait_for_end(follower, started)
        for job in (started, make_job(9, self.pipeline_id)):
            opened = make_submitter().log(job)
            if opened is not None:
                with opened:
                    opened.read().decode("utf-8")

    # --- further runs

    def test_further_run_is_another_job(
        self, follower: Submitter[Any], started: Job, on_platform: OnPlatform, end_job: EndJob
    ) -> None:
        """The retry of a failed job repeats all steps with another `job.run_id`, and must not find the failed job.

        Verified to fail when `clara-grpc` and `clara-rest` use `job.job_id` as the key.
        """
        end_job(started, None)
        wait_for_end(follower, started)
        again = JobSteps(evolve(started, run=2, platform_job_id="", platform_payload_id=""))
        again.all(follower, [make_upload(0, b"sent again")])
        records = {record.platform_job_id: record for record in on_platform()}
        assert again.job.platform_job_id != started.platform_job_id, (
            "a further run became the job of the first run: identify jobs on the platform by `job.run_id`"
        )
        record = records[again.job.platform_job_id]
        assert ([b"sent again"], True) == (list(record.files), record.started), "the further run is incomplete"
        assert not follower.status(again.job).finished, "a further run has the state of the first run"
        repeated = follower.create_job(evolve(again.job, platform_job_id="", platform_payload_id="", repeated=True))
        assert again.job.platform_job_id == repeated.job_id, "a repeated create_job created another job"


def wait_for_end(submitter: Submitter[Any], job: Job) -> PlatformStatus:
    """Return the status of a job that has ended."""
    end = time.monotonic() + END_SECONDS
    while not (status := submitter.status(job)).finished:
        assert time.monotonic() < end, f"the job has ended, and status() has not reported it for {END_SECONDS:g} s"
        time.sleep(0.02)
    return status


def check_results(results: Sequence[Output], expected: Mapping[str, bytes]) -> None:
    """Check that the results are these files. Their names may begin with a folder."""
    names = [result.name for result in results]
    assert len(names) == len(set(names)), "two results have the same name"
    unsafe = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    assert not unsafe, "the names of results must be relative paths without '..'"
    found: dict[str, bytes] = {}
    for result in results:
        with result.open() as source:
            content = source.read()
        assert isinstance(content, bytes), "Output.open must return a file in binary mode"
        matching = [name for name in expected if f"/{result.name}".endswith(f"/{name}")]
        found[matching[0] if matching else result.name] = content
    assert sorted(expected) == sorted(found), "results() must return all files that the job has produced, and no other"
    changed = [name for name, content in expected.items() if found[name] != content]
    assert not changed, f"the contents of these results are changed: {changed}"
