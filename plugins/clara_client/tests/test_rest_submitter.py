"""The `clara-rest` submitter against the emulator, over real HTTP: every step, repeated, lost, refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from attrs import evolve

from dicom_adapter import (
    InstanceStorageInfo,
    Job,
    JobPriority,
    Permanent,
    PlatformStatus,
    Retriable,
    Secret,
    StoredObjectMissing,
    SubmitterContext,
    Upload,
)
from dicom_adapter_clara_client.emulator.faults import Fault, FaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog
from dicom_adapter_clara_client.emulator.rest_face import serve
from dicom_adapter_clara_client.emulator.state import Platform
from dicom_adapter_clara_client.emulator.values import JobState, JobStatus, Run
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_submitter import ClaraRestSubmitter

PIPELINE = 32 * "a"
NOW = datetime.now(timezone.utc)
LOSSES = [FaultKind.RESET, FaultKind.DROP, FaultKind.TRUNCATE, FaultKind.GARBAGE]
PATIENT = "SECRET^PATIENT"


class Site:
    """An emulated platform, and a submitter that talks to it."""

    def __init__(self, tmp_path: Path, token: str | None = None, folder: Path | None = None) -> None:
        self.now = NOW
        run = Run(seconds=None)
        self.platform = Platform(folder=folder, pipelines=[PIPELINE], run=run, clock=lambda: self.now)
        self.faults = Faults()
        self.log = CallLog()
        self.server = serve(self.platform, faults=self.faults, log=self.log, token=token, clock=lambda: self.now)
        self._tmp_path = tmp_path
        self._submitters: list[ClaraRestSubmitter] = []
        self.submitter = self.connect()

    def connect(self, **settings: Any) -> ClaraRestSubmitter:
        context = SubmitterContext(name="clara", data_folder=self._tmp_path / "never-used")
        found = ClaraRestSettings(**{"endpoint": self.server.url, "timeout": 10.0, **settings})
        submitter = ClaraRestSubmitter(found, context)
        submitter.open()
        self._submitters.append(submitter)
        return submitter

    def close(self) -> None:
        for submitter in self._submitters:
            submitter.close()
        self.server.stop()

    def fail(self, call: str, kind: FaultKind, **more: Any) -> None:
        self.faults.add(Fault(call=call, kind=kind, face="rest", **more))

    def created(self, job: Job | None = None) -> Job:
        """A job that the platform knows."""
        job = job or a_job()
        known = self.submitter.create_job(job)
        return evolve(job, platform_job_id=known.job_id, platform_payload_id=known.payload_id)

    def calls(self, prefix: str = "") -> list[str]:
        return [record.call for record in self.log.calls() if record.call.startswith(prefix)]

    def files(self, job: Job) -> dict[str, bytes]:
        found = {}
        for file in self.platform.payloads.details(job.platform_payload_id).files:
            with self.platform.payloads.download(job.platform_payload_id, file.name)[1] as source:
                found[file.name] = source.read()
        return found


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


def a_job(**more: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": 31 * "0" + "1",
        "name": "LUNG-nodules-20260901120000",
        "ae_title": "LUNG",
        "pipeline_id": PIPELINE,
        "priority": JobPriority.HIGHER,
        "submitter": "clara",
        "instance_count": 2,
        "metadata": {"Source": "LUNG", "Instances": "2"},
        "created_at": NOW,
        "changed_at": NOW,
    }
    return Job(**{**values, **more})


def an_upload(position: int, data: bytes, **more: Any) -> Upload:
    instance = InstanceStorageInfo(
        instance_id=position + 100,
        ae_title="LUNG",
        calling_ae_title="CT1",
        peer_address="127.0.0.1",
        association_id="a",
        sop_class_uid="1.2",
        sop_instance_uid=f"1.2.{position}",
        study_instance_uid="1.2.1",
        series_instance_uid="1.2.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id=PATIENT,
        issuer_of_patient_id="",
        received_at=NOW,
        storage_key="",
        size_bytes=len(data),
        checksum=0,
    )
    values: dict[str, Any] = {"size_bytes": len(data), "open": lambda: BytesIO(data)}
    return Upload(instance=instance, position=position, **{**values, **more})


# --- the way of a job -------------------------------------------------------------------------------------------------


def test_a_job_goes_all_the_way(site: Site) -> None:
    """Created, described, uploaded and started: the platform has all of it."""
    job = site.created()
    site.submitter.add_metadata(job, {**job.metadata, "00080060": "CT"})
    for position, data in enumerate((b"first", b"second")):
        site.submitter.upload(job, an_upload(position, data))
    site.submitter.start(job)
    found = site.platform.jobs.status(job.platform_job_id)
    assert ("lung-nodules-20260901120000", PIPELINE, JobPriority.HIGHER) == (
        found.name,
        found.pipeline_id,
        found.priority,
    )
    assert (JobState.RUNNING, job.platform_payload_id) == (found.state, found.payload_id)
    assert {"Source": "LUNG", "Instances": "2", "00080060": "CT", "dicom-adapter-job": job.job_id} == found.metadata
    assert {"input/dcm/000000-1.2.0.dcm": b"first", "input/dcm/000001-1.2.1.dcm": b"second"} == site.files(job)


def test_the_patient_id_is_in_no_name(site: Site) -> None:
    """Neither files nor addresses carry it."""
    job = site.created()
    site.submitter.upload(job, an_upload(0, b"x"))
    assert not [name for name in site.files(job) if PATIENT in name or "PATIENT" in name]


@pytest.mark.parametrize("kind", LOSSES)
def test_a_job_whose_creation_got_lost_is_made_once(site: Site, kind: FaultKind) -> None:
    """Whether the platform made the job or not, the repetition gives the one job that there is."""
    site.fail("Jobs.Create", kind)
    with pytest.raises(Retriable):
        site.submitter.create_job(a_job())
    known = site.submitter.create_job(a_job(repeated=True))
    assert [(known.job_id, known.payload_id)] == [(job.job_id, job.payload_id) for job in site.platform.jobs.list()]


@pytest.mark.parametrize("after", [timedelta(hours=30), timedelta(days=9)])
def test_a_job_is_found_again_when_the_platform_has_forgotten_its_key(site: Site, after: timedelta) -> None:
    """After a day, a repeated creation looks for the job by its metadata before it makes another."""
    job = a_job(created_at=NOW - after)
    site.now = NOW - after
    made = site.submitter.create_job(job)
    for number in range(25):
        site.platform.create_job(PIPELINE, f"other-{number}", metadata={"dicom-adapter-job": f"{number:032x}0"})
    site.now = NOW
    assert made == site.submitter.create_job(evolve(job, repeated=True))
    assert 26 == len(site.platform.jobs.list())


def test_a_job_that_is_not_found_after_a_day_is_made(site: Site) -> None:
    """What never reached the platform is created late."""
    job = a_job(created_at=NOW - timedelta(days=2), repeated=True)
    assert site.submitter.create_job(job).job_id == site.platform.jobs.list()[0].job_id


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_is_sent_in_one_call(site: Site) -> None:
    """As long as nothing goes wrong."""
    job = site.created()
    site.submitter.add_metadata(job, {"a": "1", "b": "2", "c": "3"})
    assert ["Jobs.Create", "Jobs.AddMetadata"] == site.calls()


def test_no_metadata_is_no_call(site: Site) -> None:
    """What went with the creation is not sent again."""
    site.submitter.add_metadata(site.created(), {"Source": "LUNG"})
    assert ["Jobs.Create"] == site.calls()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("repeated", [True, False])
def test_metadata_whose_answer_got_lost_is_there_once(site: Site, kind: FaultKind, repeated: bool) -> None:
    """The repetition neither meets its own first try nor loses anything."""
    job = site.created()
    wanted = {"Instances": "2", "00080060": "CT", "a key/with ? marks": "ä"}
    site.fail("Jobs.AddMetadata", kind)
    with pytest.raises(Retriable):
        site.submitter.add_metadata(job, wanted)
    site.submitter.add_metadata(evolve(job, repeated=repeated), wanted)
    found = site.platform.jobs.status(job.platform_job_id).metadata
    assert {"Source": "LUNG", "dicom-adapter-job": job.job_id, **wanted} == found


def test_metadata_that_is_there_already_is_replaced(site: Site) -> None:
    """A key that the platform set itself does not fault the job."""
    job = site.created()
    site.platform.jobs.add_metadata(job.platform_job_id, {"INSTANCES": "?"})
    site.submitter.add_metadata(job, {"Instances": "2"})
    assert "2" == site.platform.jobs.status(job.platform_job_id).metadata["Instances"]


def test_an_error_about_metadata_quotes_no_value(site: Site) -> None:
    """The platform's detail may repeat a patient's data: it is left out."""
    job = site.created()
    site.fail("Jobs.*Metadata", FaultKind.CODE, code=-0x2901, messages=(f"the value {PATIENT} is refused",), times=2)
    for repeated in (False, True):
        with pytest.raises(Permanent) as raised:
            site.submitter.add_metadata(evolve(job, repeated=repeated), {"00100010": PATIENT})
        assert PATIENT not in str(raised.value)
        assert "422 Unprocessable" in str(raised.value)
        assert "(code -10497)" in str(raised.value)


# --- uploads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
def test_an_upload_whose_answer_got_lost_is_there_once(site: Site, kind: FaultKind) -> None:
    """The repetition takes the place of the first try."""
    job = site.created()
    site.fail("Payloads.Upload", kind)
    with pytest.raises(Retriable):
        site.submitter.upload(job, an_upload(0, b"x" * 300_000))
    site.submitter.upload(job, an_upload(0, b"x" * 300_000))
    assert {"input/dcm/000000-1.2.0.dcm": b"x" * 300_000} == site.files(job)


def test_an_empty_file_is_uploaded(site: Site) -> None:
    """Without a single byte."""
    job = site.created()
    site.submitter.upload(job, an_upload(0, b""))
    assert {"input/dcm/000000-1.2.0.dcm": b""} == site.files(job)


def test_uploads_run_side_by_side(site: Site) -> None:
    """From as many threads as the core likes."""
    job = site.created()
    uploads = [an_upload(position, bytes([position]) * 100_000) for position in range(40)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda upload: site.submitter.upload(job, upload), uploads))
    assert [bytes([position]) * 100_000 for position in range(40)] == list(site.files(job).values())


class Endless:
    """A large file that is nowhere."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        taken = min(size, self._left)
        self._left -= taken
        return bytes(taken)

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def test_a_large_file_does_not_go_through_memory(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """Neither the submitter nor the emulator holds it: 64 MiB pass through less than 8."""
    site = make_site(folder=tmp_path / "platform")
    job, size = site.created(), 64 << 20
    tracemalloc.start()
    try:
        site.submitter.upload(job, an_upload(0, b"", size_bytes=size, open=lambda: Endless(size)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [size] == [file.size_bytes for file in site.platform.payloads.details(job.platform_payload_id).files]
    assert peak < 8 << 20


@pytest.mark.parametrize("recorded", [999, 1001, 0, 10_000_000, 1 << 18])
def test_a_file_of_another_length_is_not_uploaded(site: Site, recorded: int) -> None:
    """A stored file that is not as long as the ledger says is damaged; the platform gets nothing of it."""
    job = site.created()
    with pytest.raises(Permanent, match=r"the stored file has .* bytes"):
        site.submitter.upload(
            job, an_upload(0, bytes(1000 if recorded != 1 << 18 else 1 + (1 << 18)), size_bytes=recorded)
        )
    assert {} == site.files(job)


def test_a_storage_that_fails_while_it_is_read_is_asked_again(site: Site) -> None:
    """A disk may come back."""

    class Failing(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError("the disk is gone")
            return super().read(size)

    with pytest.raises(Retriable, match="reading the stored file failed"):
        site.submitter.upload(
            site.created(), an_upload(0, b"", size_bytes=1 << 20, open=lambda: Failing(bytes(1 << 20)))
        )


def test_an_object_that_is_missing_is_told_as_it_is(site: Site) -> None:
    """What opening the file raises goes to the core."""

    def missing() -> BinaryIO:
        raise StoredObjectMissing("gone")

    with pytest.raises(StoredObjectMissing):
        site.submitter.upload(site.created(), an_upload(0, b"x", open=missing))


def test_a_refusal_is_understood_while_the_file_is_still_sent(site: Site) -> None:
    """The platform refuses early; the message is its own."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    with pytest.raises(Permanent, match=r"409 Conflict; The payload is read-only: .*its job has begun"):
        site.submitter.upload(job, an_upload(0, bytes(20_000_000)))


# --- start, status, cancel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("pause", [timedelta(0), timedelta(hours=25)])
def test_a_start_whose_answer_got_lost_starts_once(site: Site, kind: FaultKind, pause: timedelta) -> None:
    """Even when the platform has forgotten the key: a job that is not pending was started."""
    job = site.created()
    site.fail("Jobs.Start", kind)
    with pytest.raises(Retriable):
        site.submitter.start(job)
    site.now += pause
    site.submitter.start(evolve(job, repeated=True))
    assert JobState.RUNNING is site.platform.jobs.status(job.platform_job_id).state


def test_a_job_that_ran_to_its_end_counts_as_started(site: Site) -> None:
    """A repeated start may come late."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    site.platform.jobs.finish(job.platform_job_id, JobStatus.FAULTED)
    site.submitter.start(evolve(job, repeated=True))
    assert JobState.STOPPED is site.platform.jobs.status(job.platform_job_id).state


def test_a_job_that_was_cancelled_before_it_ran_cannot_start(site: Site) -> None:
    """An operator of the platform stopped it, and an operator of the adapter is told."""
    job = site.created()
    site.platform.jobs.cancel(job.platform_job_id)
    with pytest.raises(Permanent, match=r"stopped on the platform \(canceled\) before it was started"):
        site.submitter.start(job)


def test_the_status_is_the_platforms(site: Site) -> None:
    """Its words for state and status, and what it says."""
    job = site.created()
    seen = [site.submitter.status(job)]
    site.submitter.start(job)
    seen.append(site.submitter.status(job))
    site.platform.jobs.finish(job.platform_job_id, JobStatus.FAULTED, ("out of\x1b[31m memory",))
    seen.append(site.submitter.status(job))
    expected = [
        PlatformStatus(state="pending", finished=False, detail="healthy"),
        PlatformStatus(state="running", finished=False, detail="healthy"),
        PlatformStatus(state="stopped", finished=True, detail="faulted; out of [31m memory"),
    ]
    assert expected == seen


def test_a_job_is_cancelled_in_any_state(site: Site) -> None:
    """Pending, running, stopped: afterwards it is stopped, and nothing is an error."""
    jobs = [site.created(a_job(job_id=f"{number:032x}")) for number in range(2)]
    site.submitter.start(jobs[1])
    for job in [*jobs, *jobs]:
        site.submitter.cancel(job)
    expected = [(JobState.STOPPED, JobStatus.CANCELED)] * 2
    assert expected == [(job.state, job.status) for job in site.platform.jobs.list()]


def test_a_job_that_the_platform_does_not_know_is_cancelled(site: Site) -> None:
    """It was never created there, or is forgotten: there is nothing to stop."""
    site.submitter.cancel(a_job())
    site.submitter.cancel(a_job(platform_job_id=32 * "0"))
    assert ["Jobs.Cancel"] == site.calls()


def test_a_job_whose_creation_got_lost_is_cancelled(site: Site) -> None:
    """It is looked for, so that it does not stay pending for ever."""
    site.fail("Jobs.Create", FaultKind.DROP)
    with pytest.raises(Retriable):
        site.submitter.create_job(a_job())
    site.submitter.cancel(a_job(repeated=True))
    assert [JobStatus.CANCELED] == [job.status for job in site.platform.jobs.list()]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, Retriable) for status in (408, 425, 429, 500, 502, 503, 504, 507)),
        *((status, Permanent) for status in (400, 401, 403, 404, 405, 409, 410, 412, 413, 422, 451, 501, 505)),
        *((status, Permanent) for status in (301, 302, 303, 307, 308)),
    ],
)
def test_a_status_belongs_to_a_family(site: Site, status: int, expected: type[Exception]) -> None:
    """What may pass is retried, what cannot is given up; the message names the status."""
    site.fail("Jobs.Create", FaultKind.STATUS, status=status)
    with pytest.raises(expected, match=rf"^job 0{{31}}1: create: .*{status}"):
        site.submitter.create_job(a_job())


def test_an_error_says_what_the_platform_says(site: Site) -> None:
    """Title, detail and code of the problem."""
    expected = (
        f"job {a_job().job_id}: create: the platform answered 422 Unprocessable Entity; "
        f"No such pipeline: no pipeline {32 * 'b'} (code -4097)"
    )
    with pytest.raises(Permanent) as raised:
        site.submitter.create_job(a_job(pipeline_id=32 * "b"))
    assert expected.replace("Entity", "") == str(raised.value).replace("Entity", "").replace("Content", "")


def test_an_error_is_short_and_harmless(site: Site) -> None:
    """What the platform says is cut, and stripped of control characters."""
    site.fail("Jobs.Create", FaultKind.STATUS, status=400, messages=("a\r\n\x1b[2J\u202eb" + 100_000 * "x",))
    with pytest.raises(Permanent) as raised:
        site.submitter.create_job(a_job())
    assert len(str(raised.value)) < 600
    assert str(raised.value).isprintable()


def test_a_time_to_wait_is_mentioned(site: Site) -> None:
    """Retry-After is for the operator: the core has its own pauses."""
    site.fail("Jobs.Create", FaultKind.STATUS, status=503)
    with pytest.raises(Retriable, match="it asks to retry after 1 s"):
        site.submitter.create_job(a_job())


def test_a_request_that_is_still_in_progress_is_waited_for(site: Site) -> None:
    """409 because of the key means that the first try is still running."""
    site.fail("Jobs.Create", FaultKind.DELAY, seconds=0.0)
    with ThreadPoolExecutor(8) as pool:
        known = {
            _created_or_busy(site, future.exception())
            for future in [pool.submit(site.submitter.create_job, a_job(repeated=True)) for _ in range(32)]
        }
    assert known <= {"created", "busy"}
    assert 1 == len(site.platform.jobs.list())


def _created_or_busy(_site: Site, error: BaseException | None) -> str:
    if error is None:
        return "created"
    assert isinstance(error, Retriable)
    assert "409 Conflict; The first request with this key is still being answered" in str(error)
    return "busy"


def test_a_platform_that_is_down_is_waited_for(site: Site) -> None:
    """No connection is Retriable, and works when the platform is back at its place."""
    job = site.created()
    site.server.stop()
    with pytest.raises(Retriable, match=r"status: .*(no connection|broke off|failed)"):
        site.submitter.status(job)
    site.server = serve(site.platform, site.server.address)
    assert "pending" == site.submitter.status(job).state


def test_a_platform_that_does_not_answer_is_left(site: Site) -> None:
    """The time for a call is limited."""
    job = site.created()
    site.fail("Jobs.Status", FaultKind.DELAY, seconds=30)
    with pytest.raises(Retriable, match="took too long"):
        site.connect(timeout=0.2).status(job)


def test_closing_cuts_off_what_is_under_way(site: Site) -> None:
    """A stop of the service does not wait for a slow platform; a closed submitter does nothing more."""
    job = site.created()
    site.fail("Jobs.Status", FaultKind.DELAY, seconds=30)
    slow = site.connect()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(slow.status, job)
        while site.faults.left():
            pass  # until the call has arrived
        slow.close()
        assert isinstance(call.exception(timeout=5), Retriable)
    with pytest.raises(RuntimeError, match="not open"):
        slow.status(job)


# --- the token --------------------------------------------------------------------------------------------------------


def test_the_token_opens_the_platform(make_site: Callable[..., Site]) -> None:
    """It is sent with every call; a wrong one is an error that says what to check."""
    site = make_site(token="right-token")
    with pytest.raises(Permanent, match=r"401 Unauthorized.*check the submitter's token"):
        site.connect(token=Secret("wrong-token")).create_job(a_job())
    assert site.connect(token=Secret("right-token")).create_job(a_job()).job_id


def test_the_token_never_shows(make_site: Callable[..., Site]) -> None:
    """Not in errors, even when the platform repeats it, and not in any `repr`."""
    token = "tell-nobody/0123456789"
    site = make_site()
    submitter = site.connect(token=Secret(token))
    site.fail("Jobs.Create", FaultKind.STATUS, status=403, messages=(f"{'x' * 290}Bearer {token} is not allowed",))
    with pytest.raises(Permanent) as raised:
        submitter.create_job(a_job())
    assert "tell" not in str(raised.value)
    assert "tell" not in repr((submitter, submitter.settings, vars(submitter)))
