"""The conformance suite of submitters: tests to subclass."""

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
from dicom_adapter.testing.submitter_jobs import (
    PATIENT,
    PlatformRecord,
    Walk,
    Zeros,
    breaking,
    make_job,
    make_upload,
)

MakeSubmitter = Callable[[], Submitter[Any]]
OnPlatform = Callable[[], Sequence[PlatformRecord]]
MIB = 1 << 20
LITTLE = 16 * MIB  # of memory, for an upload that is large
FIRST, SECOND = b"first instance", b"the second instance"
HOSTILE_NAMES = ["../../../outside", "/etc/hostname", "a\nb", "名前", "x" * 300]


class BaseSubmitterTests:
    """Subclass it with two fixtures and other attributes as needed; pytest collects the subclass.

    - `make_submitter` returns a function that makes a submitter, not yet open, always for the same platform;
    - `on_platform` returns a function that returns a `PlatformRecord` for each job of that platform.
    """

    pipeline_id: ClassVar[str] = "pipeline-1"  # one that the platform knows
    unknown_pipeline_id: ClassVar[str | None] = None  # one that it does not know; None: it knows them all
    large_upload_bytes: ClassVar[int | None] = 64 * MIB  # None: the platform keeps what it gets in this memory

    @pytest.fixture
    def make_submitter(self) -> MakeSubmitter:
        pytest.fail("override the fixture `make_submitter`: a function that makes a submitter, not open yet")

    @pytest.fixture
    def on_platform(self) -> OnPlatform:
        pytest.fail("override the fixture `on_platform`: a function that returns a PlatformRecord for each job")

    @pytest.fixture
    def unreachable(self) -> MakeSubmitter:
        """A factory of submitters, not yet open, whose platform is unreachable; override it to test that."""
        pytest.skip("the fixture `unreachable` is not overridden: a platform that is down is not tested")

    # --- what the tests work with

    @pytest.fixture
    def connect(self, make_submitter: MakeSubmitter) -> Iterator[MakeSubmitter]:
        """A factory of open submitters, each as after a start of the service."""
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
    def walk(self) -> Walk:
        """The steps of one job."""
        return Walk(make_job(1, self.pipeline_id))

    # --- the life of a submitter

    def test_it_is_complete_and_has_a_name(self, make_submitter: MakeSubmitter) -> None:
        """The configuration chooses it by `name`, and every abstract method is there."""
        made = type(make_submitter())
        assert isinstance(getattr(made, "name", None), str), "the class attribute `name` is missing"

    def test_to_make_one_changes_nothing(self, make_submitter: MakeSubmitter, tmp_path: Path) -> None:
        """Constructors are called by `check` too: what connects, starts or writes belongs into `open`."""
        before, threads = sorted(tmp_path.rglob("*")), set(threading.enumerate())
        made = make_submitter()
        assert before == sorted(tmp_path.rglob("*")), "the constructor made files or folders: that belongs into open()"
        assert set(threading.enumerate()) <= threads, "the constructor started threads: that belongs into open()"
        assert not made.context.data_folder.exists(), "the constructor made its data folder: that belongs into open()"

    def test_it_may_be_closed_and_another_one_opened(self, connect: MakeSubmitter, walk: Walk) -> None:
        """A restart of the service between any two steps changes nothing."""
        for step in (walk.create, walk.describe, walk.start):
            submitter = connect()
            step(submitter)
            submitter.close()
            submitter.open()

    # --- the way of a job

    def test_a_job_arrives_whole(self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform) -> None:
        """Created, described, uploaded, started: the platform has all of it, once."""
        walk.all(submitter, [make_upload(0, FIRST), make_upload(1, SECOND)])
        record = only(on_platform())
        assert walk.job.platform_job_id == record.platform_job_id, "create_job did not tell the platform's id"
        assert dict(walk.job.metadata).items() <= dict(record.metadata).items(), "the metadata is not all there"
        assert [FIRST, SECOND] == list(record.files), "the files are not what was uploaded, in the job's order"
        assert (True, False) == (record.started, record.cancelled), "the job was not started"

    def test_nothing_starts_before_it_is_told_to(
        self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform
    ) -> None:
        """A platform that begins with half of the instances gives a wrong result."""
        walk.create(submitter)
        walk.describe(submitter)
        walk.upload(submitter, make_upload(0, FIRST))
        assert not only(on_platform()).started, "the job was started before start() was called"

    def test_create_job_answers_with_texts(self, submitter: Submitter[Any], walk: Walk) -> None:
        """The ids are strings: the ledger stores them."""
        made = submitter.create_job(walk.job)
        assert isinstance(made, PlatformJob), f"create_job must return a PlatformJob, not {type(made).__name__}"
        assert isinstance(made.job_id, str), "PlatformJob.job_id must be a text"
        assert made.job_id, "PlatformJob.job_id must not be empty"

    def test_instances_may_come_in_any_order(
        self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform
    ) -> None:
        """Uploads run concurrently; `position` defines the order of the files."""
        walk.create(submitter)
        walk.upload(submitter, make_upload(1, SECOND), make_upload(0, FIRST))
        assert [FIRST, SECOND] == list(only(on_platform()).files), "files must stand in the order of their positions"

    def test_the_platform_is_asked_what_became_of_a_job(self, submitter: Submitter[Any], walk: Walk) -> None:
        """In every state that a job may be in."""
        walk.all(submitter, [make_upload(0, FIRST)])
        self._told(submitter, walk)
        submitter.cancel(walk.job)
        assert self._told(submitter, walk).finished, "status must say `finished` of a job that was cancelled"

    def _told(self, submitter: Submitter[Any], walk: Walk) -> PlatformStatus:
        told = submitter.status(walk.job)
        assert isinstance(told, PlatformStatus), f"status must return a PlatformStatus, not {type(told).__name__}"
        assert isinstance(told.state, str), "PlatformStatus.state must be a text"
        return told

    # --- every step may be repeated: after a crash nobody knows whether it was done

    @pytest.mark.parametrize("restarted", [False, True], ids=["same-process", "restarted"])
    def test_every_step_taken_twice_has_the_effect_of_one(
        self, connect: MakeSubmitter, walk: Walk, on_platform: OnPlatform, restarted: bool
    ) -> None:
        """`job.repeated` is true the second time. There is one job, with each key and file once, started once."""
        first, uploads = connect(), [make_upload(0, FIRST), make_upload(1, SECOND)]
        again = connect() if restarted else first
        made = walk.create(first).platform_job_id
        assert made == walk.create(again, repeated=True).platform_job_id, "a repeated create_job made another job"
        walk.describe(first)
        walk.describe(again, repeated=True)
        walk.upload(first, *uploads)
        walk.upload(again, *uploads, repeated=True)
        walk.start(first)
        walk.start(again, repeated=True)
        record = only(on_platform())
        assert [FIRST, SECOND] == list(record.files), (
            "an instance is there twice, or not at all, after a repeated upload"
        )
        assert dict(walk.job.metadata).items() <= dict(record.metadata).items(), "repeated metadata got lost"
        assert record.started, "a repeated start stopped the job"

    def test_jobs_that_are_alike_are_two_jobs(self, submitter: Submitter[Any], on_platform: OnPlatform) -> None:
        """Jobs are identified by `job_id` only, not by name, pipeline or content."""
        first, second = (Walk(make_job(number, self.pipeline_id, name="LUNG-alike")) for number in (1, 2))
        first.all(submitter, [make_upload(0, FIRST)])
        second.all(submitter, [make_upload(0, FIRST)])
        assert 2 == len(on_platform()), (
            "two jobs of the same name were taken for one: `job_id` is what tells them apart"
        )

    def test_jobs_and_uploads_run_side_by_side(self, submitter: Submitter[Any], on_platform: OnPlatform) -> None:
        """All methods are called from several threads at once, `upload` also for one job."""
        walks = [Walk(make_job(number, self.pipeline_id)) for number in range(1, 5)]
        contents = [f"{number}".encode() * 1000 for number in range(10)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda walk: walk.create(submitter), walks))
            uploads = [(walk, make_upload(place, data)) for place, data in enumerate(contents) for walk in walks]
            list(threads.map(lambda pair: pair[0].upload(submitter, pair[1]), uploads))
            list(threads.map(lambda walk: walk.start(submitter), walks))
        assert [contents] * 4 == [list(record.files) for record in on_platform()], "instances got lost or mixed up"

    # --- uploads

    def test_a_large_instance_passes_through_little_memory(self, submitter: Submitter[Any], walk: Walk) -> None:
        """An instance may be larger than the memory: the submitter reads and sends it in pieces."""
        size = self.large_upload_bytes
        if size is None:
            pytest.skip("large_upload_bytes = None: the platform keeps what it gets in this process's memory")
        walk.create(submitter)
        large = make_upload(0, size_bytes=size, open=lambda: cast(BinaryIO, Zeros(size)))
        tracemalloc.start()
        try:
            walk.upload(submitter, large)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < LITTLE, f"an instance of {size // MIB} MiB took {most // MIB} MiB of memory: it is held whole"

    @pytest.mark.parametrize(
        "failure",
        [StoredObjectMissing("the stored object is gone"), Permanent("it has changed"), Retriable("not now")],
        ids=lambda failure: type(failure).__name__,
    )
    def test_an_upload_that_cannot_be_read_to_its_end_does_not_count(
        self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform, failure: DicomAdapterError
    ) -> None:
        """The reader's error reaches the adapter, which handles it; the partial file is not an instance."""
        walk.create(submitter)
        whole = make_upload(0, FIRST)
        broken = evolve(whole, open=breaking(FIRST[:5], failure))
        with pytest.raises(type(failure)) as raised:
            walk.upload(submitter, broken)
        assert str(failure) in str(raised.value), "the reader's own error must come through, or be quoted"
        assert [] == list(only(on_platform()).files), "an upload that broke off is there as if it were whole"
        walk.upload(submitter, whole, repeated=True)
        assert [FIRST] == list(only(on_platform()).files), "an upload that broke off cannot be repeated"

    # --- cancelling

    def test_a_job_is_cancelled_in_any_state(
        self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform
    ) -> None:
        """A job is cancelled before and after its start, once and twice; it does not run afterwards."""
        walk.create(submitter)
        running = Walk(make_job(2, self.pipeline_id))
        running.all(submitter, [make_upload(0, FIRST)])
        for job in (walk.job, running.job) * 2:
            submitter.cancel(job)
        assert [True, True] == [record.cancelled for record in on_platform()], "cancel() did not stop the job"

    def test_a_job_that_was_cancelled_does_not_start(self, submitter: Submitter[Any], walk: Walk) -> None:
        """The job will never run, so the error must reach an operator."""
        walk.create(submitter)
        submitter.cancel(walk.job)
        with pytest.raises(Permanent):
            walk.start(submitter)

    def test_a_job_that_the_platform_does_not_know_is_cancelled(self, submitter: Submitter[Any], walk: Walk) -> None:
        """It was never created, so there is nothing to stop."""
        submitter.cancel(walk.job)

    # --- errors: retriable, permanent, or a bug

    def test_an_unknown_pipeline_is_permanent(self, submitter: Submitter[Any]) -> None:
        """Only a change of the configuration helps, so retries are useless."""
        if self.unknown_pipeline_id is None:
            pytest.skip("unknown_pipeline_id = None: the platform knows every pipeline")
        walk = Walk(make_job(1, self.unknown_pipeline_id))
        with pytest.raises(Permanent):
            walk.all(submitter, [])

    def test_opening_does_not_wait_for_the_platform(self, unreachable: MakeSubmitter) -> None:
        """The service starts even if the platform is down for hours."""
        submitter = unreachable()
        submitter.open()
        submitter.close()

    @pytest.mark.parametrize("step", ["create", "describe", "upload", "start", "status", "cancel"])
    def test_a_platform_that_is_down_is_retriable(self, unreachable: MakeSubmitter, walk: Walk, step: str) -> None:
        """The adapter retries each step for `retry-for` seconds; no error contains patient data."""
        submitter = unreachable()
        submitter.open()
        walk.job = evolve(walk.job, platform_job_id=32 * "b", platform_payload_id=32 * "c")
        steps: dict[str, Callable[[], object]] = {
            "create": lambda: walk.create(submitter),
            "describe": lambda: walk.describe(submitter),
            "upload": lambda: walk.upload(submitter, make_upload(0, FIRST)),
            "start": lambda: walk.start(submitter),
            "status": lambda: submitter.status(walk.job),
            "cancel": lambda: submitter.cancel(walk.job),
        }
        with pytest.raises(Retriable) as raised:
            steps[step]()
        submitter.close()
        assert PATIENT not in str(raised.value), "an error quotes the patient: errors are logged and kept"

    # --- what comes from elsewhere

    def test_metadata_is_taken_as_it_is(self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform) -> None:
        """Values come from DICOM attributes: they may be empty or in any script."""
        values = {
            "00100040": "",
            "PatientName": "Müller^Ä",
            "Study": "検査",
            "Comment": "c" * 200,
            "Quoted": "\"'\\<&",
        }
        walk.job = evolve(walk.job, metadata={**walk.job.metadata, **values})
        walk.create(submitter)
        walk.describe(submitter)
        record = only(on_platform())
        lost = [key for key, value in walk.job.metadata.items() if record.metadata.get(key) != value]
        assert [] == lost, f"the metadata of these keys did not arrive as it was given: {lost}"

    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: name[:16])
    def test_what_a_peer_sent_does_no_harm(
        self, submitter: Submitter[Any], walk: Walk, on_platform: OnPlatform, tmp_path: Path, name: str
    ) -> None:
        """UIDs from the network may be any text: they are stored or refused as permanent, and never used as a path."""
        walk.create(submitter)
        try:
            walk.upload(submitter, make_upload(0, FIRST, sop_instance_uid=name))
        except Permanent:
            assert [] == list(only(on_platform()).files)
        else:
            assert [FIRST] == list(only(on_platform()).files)
        assert not list(tmp_path.rglob("*outside*")), "a name from the network has become a path"
        assert not (tmp_path.parent / "outside").exists(), "a name from the network has become a path"


def only(records: Sequence[PlatformRecord]) -> PlatformRecord:
    """Return the only job."""
    assert 1 == len(records), f"the platform has {len(records)} jobs, and there should be one"
    return records[0]
