"""The conformance suite for submitters: subclass it to test that your submitter follows the rules."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import pytest
from attrs import evolve

from dicom_adapter.api.errors import DicomAdapterError, Permanent, Retriable, StoredObjectMissing
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import PlatformJob, PlatformStatus
from dicom_adapter.testing.submitter_attachments import AttachmentTests
from dicom_adapter.testing.submitter_ends import EndOfJobTests
from dicom_adapter.testing.submitter_jobs import (
    PATIENT_ID,
    JobSteps,
    PlatformRecord,
    Zeros,
    make_job,
    make_upload,
    open_failing,
)

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
MIB = 1 << 20
MAX_MEMORY = 16 * MIB  # maximum memory for the upload of a large instance
FIRST, SECOND = b"first instance", b"the second instance"
MALFORMED_UIDS = ["../../../outside", "/etc/hostname", "a\nb", "名前", "x" * 300]


class BaseSubmitterTests(EndOfJobTests, AttachmentTests):
    """Base class of tests: subclass it with these fixtures, and attributes as needed. Pytest collects the subclass.

    - `make_submitter` returns a function that makes a submitter, not yet open. All submitters use the same platform.
    - `on_platform` returns a function that returns a `PlatformRecord` for each job of that platform.
    - `end_job` returns a function that ends a job on that platform. Only a submitter that follows jobs needs it.
    """

    pipeline_id: ClassVar[str] = "pipeline-1"  # a pipeline of the platform
    unknown_pipeline_id: ClassVar[str | None] = None  # a pipeline that the platform does not have; None: not tested
    large_upload_bytes: ClassVar[int | None] = 64 * MIB  # size of the largest uploaded instance; None: not tested

    @pytest.fixture
    def make_submitter(self) -> MakeSubmitter:
        pytest.fail("override the fixture `make_submitter`: return a function that makes a submitter, not yet open")

    @pytest.fixture
    def on_platform(self) -> OnPlatform:
        pytest.fail("override the fixture `on_platform`: return a function that returns a PlatformRecord for each job")

    @pytest.fixture
    def unreachable(self) -> MakeSubmitter:
        """A factory of submitters, not yet open, whose platform is unreachable. Override it to test this failure."""
        pytest.skip("the fixture `unreachable` is not overridden: an unreachable platform is not tested")

    # --- fixtures

    @pytest.fixture
    def connect(self, make_submitter: MakeSubmitter) -> Iterator[MakeSubmitter]:
        """A factory of open submitters."""
        opened: list[Submitter[Any]] = []

        def make() -> Submitter[Any]:
            opened.append(make_submitter())
            opened[-1].open()
            return opened[-1]

        yield make
        for submitter in opened:
            submitter.close()

    @pytest.fixture
    def submitter(self, connect: MakeSubmitter) -> Submitter[Any]:
        return connect()

    @pytest.fixture
    def steps(self) -> JobSteps:
        """The steps of one job."""
        return JobSteps(make_job(1, self.pipeline_id))

    # --- class, constructor, restart

    def test_submitter_is_complete_and_has_a_name(self, make_submitter: MakeSubmitter) -> None:
        """All abstract methods are implemented, and `name`, by which the configuration selects the class, is set."""
        assert isinstance(getattr(type(make_submitter()), "name", None), str), "the class attribute `name` is missing"

    def test_constructor_has_no_side_effects(self, make_submitter: MakeSubmitter, tmp_path: Path) -> None:
        """`dicom-adapter check` calls constructors, too: connect, start threads and create files in `open`."""
        before, threads = sorted(tmp_path.rglob("*")), set(threading.enumerate())
        submitter = make_submitter()
        assert before == sorted(tmp_path.rglob("*")), "the constructor created files or folders: move that to open()"
        assert set(threading.enumerate()) <= threads, "the constructor started threads: move that to open()"
        assert not submitter.context.data_folder.exists(), (
            "the constructor created its data folder: move that to open()"
        )

    def test_ae_title_of_the_node_is_valid(self, make_submitter: MakeSubmitter) -> None:
        """`to-sender = true` compares `node_ae_title` with the calling AE titles of senders."""
        title = make_submitter().node_ae_title
        is_valid = title is None or (isinstance(title, str) and title == title.strip() and 1 <= len(title) <= 16)
        assert is_valid, "node_ae_title must be None or 1 to 16 characters, without blanks at the ends (PS3.5 6.2, AE)"

    def test_connection_can_be_checked_before_open(
        self, make_submitter: MakeSubmitter, on_platform: OnPlatform, tmp_path: Path
    ) -> None:
        """`dicom-adapter check --connect` calls `check_connection`, also while the service runs."""
        before = sorted(tmp_path.rglob("*"))
        answer = make_submitter().check_connection()
        assert isinstance(answer, str), f"check_connection must return a string, not {type(answer).__name__}"
        assert before == sorted(tmp_path.rglob("*")), "check_connection created files or folders"
        assert not list(on_platform()), "check_connection created a job on the platform"

    def test_submitter_can_be_replaced_between_steps(
        self, connect: MakeSubmitter, steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """The service may restart between any two steps of a job."""
        for step in (steps.create, steps.describe, steps.start):
            submitter = connect()
            step(submitter)
            submitter.close()
            submitter.open()
        assert only(on_platform()).started, "the job was not started"

    # --- the steps of a job

    def test_job_arrives_complete(self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform) -> None:
        """After all steps, the platform has the job once, with its metadata and files, and has started it."""
        steps.all(submitter, [make_upload(0, FIRST), make_upload(1, SECOND)])
        record = only(on_platform())
        assert steps.job.platform_job_id == record.platform_job_id, (
            "create_job must return the id that the platform uses"
        )
        assert dict(steps.job.metadata).items() <= dict(record.metadata).items(), "metadata is missing"
        assert [FIRST, SECOND] == list(record.files), "the files are not the uploaded ones, in the job's order"
        assert (True, False) == (record.started, record.cancelled), "the job was not started, or was cancelled"

    def test_job_does_not_run_before_start(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """A pipeline that starts before all instances have arrived gives a wrong result."""
        steps.create(submitter)
        steps.describe(submitter)
        steps.upload(submitter, make_upload(0, FIRST))
        assert not only(on_platform()).started, "the job was started before start() was called"

    def test_create_job_returns_strings(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """The ids are strings, because the ledger stores them."""
        created = submitter.create_job(steps.job)
        assert isinstance(created, PlatformJob), f"create_job must return a PlatformJob, not {type(created).__name__}"
        assert isinstance(created.job_id, str), "PlatformJob.job_id must be a string"
        assert created.job_id, "PlatformJob.job_id must not be empty"

    def test_uploads_may_arrive_in_any_order(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """Uploads run concurrently; `position` defines the order of the files."""
        steps.create(submitter)
        steps.upload(submitter, make_upload(1, SECOND), make_upload(0, FIRST))
        assert [FIRST, SECOND] == list(only(on_platform()).files), "files must be in the order of their positions"

    def test_status_reports_the_state_of_a_job(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """`status` returns a PlatformStatus for a running job and for a cancelled job."""
        steps.all(submitter, [make_upload(0, FIRST)])
        self._query_status(submitter, steps)
        submitter.cancel(steps.job)
        assert self._query_status(submitter, steps).finished, "PlatformStatus.finished must be True for a cancelled job"

    def _query_status(self, submitter: Submitter[Any], steps: JobSteps) -> PlatformStatus:
        status = submitter.status(steps.job)
        assert isinstance(status, PlatformStatus), f"status must return a PlatformStatus, not {type(status).__name__}"
        assert isinstance(status.state, str), "PlatformStatus.state must be a string"
        return status

    # --- every step may be repeated: after a crash, the adapter repeats a step that may be done already

    @pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
    def test_every_step_is_idempotent(
        self, connect: MakeSubmitter, steps: JobSteps, on_platform: OnPlatform, restarted: bool
    ) -> None:
        """A repeated step (`job.repeated`) changes nothing: one job, with each key and file once, started once."""
        first, uploads = connect(), [make_upload(0, FIRST), make_upload(1, SECOND)]
        again = connect() if restarted else first
        created = steps.create(first).platform_job_id
        assert created == steps.create(again, repeated=True).platform_job_id, (
            "a repeated create_job created another job"
        )
        steps.describe(first)
        steps.describe(again, repeated=True)
        steps.upload(first, *uploads)
        steps.upload(again, *uploads, repeated=True)
        steps.start(first)
        steps.start(again, repeated=True)
        record = only(on_platform())
        assert [FIRST, SECOND] == list(record.files), "an instance is missing or present twice after a repeated upload"
        assert dict(steps.job.metadata).items() <= dict(record.metadata).items(), "repeated metadata is missing"
        assert record.started, "a repeated start stopped the job"

    def test_identical_jobs_remain_separate(self, submitter: Submitter[Any], on_platform: OnPlatform) -> None:
        """Jobs are identified by `job_id` only, not by name, pipeline or content."""
        first, second = (JobSteps(make_job(number, self.pipeline_id, name="LUNG-alike")) for number in (1, 2))
        first.all(submitter, [make_upload(0, FIRST)])
        second.all(submitter, [make_upload(0, FIRST)])
        assert 2 == len(on_platform()), "two jobs with the same name became one: identify jobs by `job_id`"

    def test_jobs_and_uploads_run_concurrently(self, submitter: Submitter[Any], on_platform: OnPlatform) -> None:
        """The adapter calls all methods from several threads at the same time, `upload` even for the same job."""
        jobs = [JobSteps(make_job(number, self.pipeline_id)) for number in range(1, 5)]
        contents = [f"{number}".encode() * 1000 for number in range(10)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda steps: steps.create(submitter), jobs))
            uploads = [(steps, make_upload(place, data)) for place, data in enumerate(contents) for steps in jobs]
            list(threads.map(lambda pair: pair[0].upload(submitter, pair[1]), uploads))
            list(threads.map(lambda steps: steps.start(submitter), jobs))
        assert [contents] * 4 == [list(record.files) for record in on_platform()], (
            "instances are missing or in the wrong job or order"
        )

    # --- uploads

    def test_large_upload_needs_little_memory(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """An instance may be larger than the memory: the submitter reads and sends it in pieces."""
        size = self.large_upload_bytes
        if size is None:
            pytest.skip("large_upload_bytes = None: the upload of a large instance is not tested")
        steps.create(submitter)
        large = make_upload(0, size_bytes=size, open=lambda: cast(BinaryIO, Zeros(size)))
        tracemalloc.start()
        try:
            steps.upload(submitter, large)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MAX_MEMORY, (
            f"an instance of {size // MIB} MiB took {peak // MIB} MiB of memory: read and send it in pieces"
        )

    @pytest.mark.parametrize(
        "failure",
        [StoredObjectMissing("the stored object is gone"), Permanent("it has changed"), Retriable("not now")],
        ids=lambda failure: type(failure).__name__,
    )
    def test_incomplete_upload_is_not_an_instance(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform, failure: DicomAdapterError
    ) -> None:
        """An error while the instance is read must reach the adapter, and the partial file is not an instance."""
        steps.create(submitter)
        whole = make_upload(0, FIRST)
        broken = evolve(whole, open=open_failing(FIRST[:5], failure))
        with pytest.raises(type(failure)) as raised:
            steps.upload(submitter, broken)
        assert str(failure) in str(raised.value), "the error must be the reader's own, or contain its message"
        assert [] == list(only(on_platform()).files), "an incomplete upload counts as an instance"
        steps.upload(submitter, whole, repeated=True)
        assert [FIRST] == list(only(on_platform()).files), "an incomplete upload cannot be repeated"

    # --- cancelling

    def test_job_can_be_cancelled_in_any_state(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """A job can be cancelled before and after its start, and twice. A cancelled job does not run."""
        steps.create(submitter)
        running = JobSteps(make_job(2, self.pipeline_id))
        running.all(submitter, [make_upload(0, FIRST)])
        for job in (steps.job, running.job) * 2:
            submitter.cancel(job)
        assert [True, True] == [record.cancelled for record in on_platform()], "cancel() did not stop the job"

    def test_cancelled_job_does_not_start(self, submitter: Submitter[Any], steps: JobSteps) -> None:
        """The job will never run: `start` raises Permanent, so that an operator sees the error."""
        steps.create(submitter)
        submitter.cancel(steps.job)
        with pytest.raises(Permanent):
            steps.start(submitter)

    def test_cancelling_an_unknown_job_succeeds(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """A job that was never created needs no action of the platform."""
        submitter.cancel(steps.job)
        assert not list(on_platform()), "cancel() created a job on the platform"

    # --- errors: retriable, permanent, or a bug

    def test_unknown_pipeline_is_a_permanent_error(self, submitter: Submitter[Any]) -> None:
        """Retries are useless: only a change of the configuration helps."""
        if self.unknown_pipeline_id is None:
            pytest.skip("unknown_pipeline_id = None: an unknown pipeline is not tested")
        steps = JobSteps(make_job(1, self.unknown_pipeline_id))
        with pytest.raises(Permanent):
            steps.all(submitter, [])

    def test_open_does_not_wait_for_the_platform(self, unreachable: MakeSubmitter) -> None:
        """The service starts even if the platform is down for hours."""
        submitter = unreachable()
        submitter.open()
        submitter.close()

    @pytest.mark.parametrize("step", ["create", "describe", "upload", "start", "status", "results", "cancel"])
    def test_unreachable_platform_is_a_retriable_error(
        self, unreachable: MakeSubmitter, steps: JobSteps, step: str
    ) -> None:
        """The adapter retries each step for `retry-for` seconds; no error contains patient data."""
        submitter = unreachable()
        if step == "results" and not submitter.follows_jobs:
            pytest.skip("follows_jobs = False: results() is not called")
        submitter.open()
        steps.job = evolve(steps.job, platform_job_id=32 * "b", platform_payload_id=32 * "c")
        calls: dict[str, Callable[[], object]] = {
            "create": lambda: steps.create(submitter),
            "describe": lambda: steps.describe(submitter),
            "upload": lambda: steps.upload(submitter, make_upload(0, FIRST)),
            "start": lambda: steps.start(submitter),
            "status": lambda: submitter.status(steps.job),
            "results": lambda: list(submitter.results(steps.job)),
            "cancel": lambda: submitter.cancel(steps.job),
        }
        with pytest.raises(Retriable) as raised:
            calls[step]()
        submitter.close()
        assert PATIENT_ID not in str(raised.value), "an error contains patient data: errors are logged and stored"

    # --- values from DICOM attributes

    def test_metadata_arrives_unchanged(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """Values are DICOM attributes: they may be empty, long, or in any script."""
        values = {
            "00100040": "",
            "PatientName": "Müller^Ä",
            "Study": "検査",
            "Comment": "c" * 200,
            "Quoted": "\"'\\<&",
        }
        steps.job = evolve(steps.job, metadata={**steps.job.metadata, **values})
        steps.create(submitter)
        steps.describe(submitter)
        record = only(on_platform())
        changed = [key for key, value in steps.job.metadata.items() if record.metadata.get(key) != value]
        assert [] == changed, f"the values of these keys are missing or changed on the platform: {changed}"

    @pytest.mark.parametrize("uid", MALFORMED_UIDS, ids=lambda uid: uid[:16])
    def test_malformed_uids_are_harmless(
        self, submitter: Submitter[Any], steps: JobSteps, on_platform: OnPlatform, tmp_path: Path, uid: str
    ) -> None:
        """A UID may be any string: it is accepted or refused as Permanent, and never used as a path."""
        steps.create(submitter)
        try:
            steps.upload(submitter, make_upload(0, FIRST, sop_instance_uid=uid))
        except Permanent:
            assert [] == list(only(on_platform()).files)
        else:
            assert [FIRST] == list(only(on_platform()).files)
        assert not list(tmp_path.rglob("*outside*")), "a UID was used as a path"
        assert not (tmp_path.parent / "outside").exists(), "a UID was used as a path"


def only(records: Sequence[PlatformRecord]) -> PlatformRecord:
    """Return the only job."""
    assert 1 == len(records), f"the platform must have one job, and has {len(records)}"
    return records[0]
