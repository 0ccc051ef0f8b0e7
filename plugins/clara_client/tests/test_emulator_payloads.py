"""Payloads of the emulated platform, in memory and in a folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_adapter_clara_client.emulator.rules import Conflict, InvalidValue, MalformedId, NotFound
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraPayload, PayloadFile, PayloadType
from dicom_adapter_clara_client.wire.codes import ClaraCode

LUNG = 32 * "a"


@pytest.fixture(params=["memory", "folder"])
def platform(request: pytest.FixtureRequest, tmp_path: Path) -> EmulatedPlatform:
    return EmulatedPlatform(pipelines=[LUNG], folder=tmp_path / "platform" if request.param == "folder" else None)


@pytest.fixture
def job(platform: EmulatedPlatform) -> ClaraJob:
    return platform.create_job(LUNG, "ae-lung-1")


def read(platform: EmulatedPlatform, payload_id: str, name: str) -> bytes:
    file, reader = platform.payloads.download(payload_id, name)
    with reader:
        data = reader.read()
    assert file.size_bytes == len(data)
    return data


def names(platform: EmulatedPlatform, payload_id: str) -> list[str]:
    return [file.name for file in platform.payloads.details(payload_id).files]


def test_an_upload_to_a_jobs_payload_is_in_its_input_folder(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """The name in an upload is relative to the input folder; names in all other calls are relative to the root."""
    stored = platform.payloads.upload(job.payload_id, "dcm/1.dcm", [b"ab", b"", b"c"])
    expected = PayloadFile(name="input/dcm/1.dcm", size_bytes=3)
    payload = ClaraPayload(payload_id=job.payload_id, type=PayloadType.PIPELINE, job_id=job.job_id, files=(expected,))
    assert (expected, payload) == (stored, platform.payloads.details(job.payload_id))
    assert b"abc" == read(platform, job.payload_id, "input/dcm/1.dcm")


def test_an_upload_to_a_reusable_payload_keeps_its_name(platform: EmulatedPlatform) -> None:
    """A reusable payload has no input folder."""
    payload = platform.payloads.create({"kind": "reference"})
    platform.payloads.upload(payload.payload_id, "atlas/1.nii", [b"x"], mode=0o644)
    expected = (PayloadFile(name="atlas/1.nii", size_bytes=1, mode=0o644),)
    details = platform.payloads.details(payload.payload_id)
    assert (PayloadType.REUSABLE, None, {"kind": "reference"}, expected) == (
        details.type,
        details.job_id,
        details.metadata,
        details.files,
    )


def test_a_second_upload_replaces_the_first(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A repeated upload replaces the file of the same name."""
    platform.payloads.upload(job.payload_id, "1.dcm", [b"first"])
    with platform.payloads.receive(job.payload_id, "1.dcm") as incoming:
        incoming.write(b"second")
        incoming.commit()
    assert incoming.replaced
    assert ["input/1.dcm"] == names(platform, job.payload_id)
    assert b"second" == read(platform, job.payload_id, "input/1.dcm")


def test_an_upload_that_is_not_committed_stores_nothing(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """An incomplete upload creates no file and does not change an older file of the same name."""
    platform.payloads.upload(job.payload_id, "1.dcm", [b"whole"])
    with platform.payloads.receive(job.payload_id, "1.dcm") as incoming:
        incoming.write(b"half")
    with platform.payloads.receive(job.payload_id, "2.dcm") as incoming:
        incoming.write(b"half")
    assert ["input/1.dcm"] == names(platform, job.payload_id)
    assert b"whole" == read(platform, job.payload_id, "input/1.dcm")


def test_uploads_from_the_root_can_only_go_to_the_input_folder(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """With names relative to the root, only names below `input/` are accepted."""
    with platform.payloads.receive(job.payload_id, "input/1.dcm", from_root=True) as incoming:
        incoming.commit()
    with pytest.raises(Conflict):
        platform.payloads.receive(job.payload_id, "operators/1.dcm", from_root=True)
    assert ["input/1.dcm"] == names(platform, job.payload_id)


def test_an_upload_without_replace_does_not_replace_a_file(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """With replace=False the first of two uploads wins, even if the second began before the first was committed."""
    late = platform.payloads.receive(job.payload_id, "1.dcm", replace=False)
    platform.payloads.upload(job.payload_id, "1.dcm", [b"first"])
    with late, pytest.raises(Conflict):
        late.commit()
    with pytest.raises(Conflict):
        platform.payloads.receive(job.payload_id, "1.dcm", replace=False)
    assert b"first" == read(platform, job.payload_id, "input/1.dcm")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "a/",
        "a\0b",
        "a\nb",
        "\ud800",
        256 * "x",
        10 * (250 * "x" + "/") + "x",
    ],
)
def test_names_that_are_not_safe_paths_are_refused(platform: EmulatedPlatform, job: ClaraJob, name: str) -> None:
    """A file's name cannot lead out of its payload."""
    with pytest.raises(InvalidValue) as error:
        platform.payloads.upload(job.payload_id, name, [b"x"])
    assert ClaraCode.FILE_NAME_INVALID == error.value.code
    assert [] == names(platform, job.payload_id)


def test_refusals_do_not_repeat_the_name(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """Names may contain a patient's id, and messages appear in logs."""
    with pytest.raises(InvalidValue) as error:
        platform.payloads.upload(job.payload_id, "PAT123/../x", [b"x"])
    assert "PAT123" not in str(error.value)


def test_a_name_cannot_be_both_a_file_and_a_folder(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A file cannot be inside another file, and cannot replace a folder."""
    platform.payloads.upload(job.payload_id, "a/b", [b"x"])
    for name in ("a", "a/b/c"):
        with pytest.raises(Conflict):
            platform.payloads.upload(job.payload_id, name, [b"x"])
    platform.payloads.remove(job.payload_id, "input/a/b")
    platform.payloads.upload(job.payload_id, "a", [b"y"])
    assert ["input/a"] == names(platform, job.payload_id)


def test_names_are_normalised(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """`.` and empty segments are removed; a leading slash is ignored when reading."""
    platform.payloads.upload(job.payload_id, "./a//b", [b"x"])
    assert ["input/a/b"] == names(platform, job.payload_id)
    assert b"x" == read(platform, job.payload_id, "/input/a/b") == read(platform, job.payload_id, "./input/a/b")


def test_case_matters_only_if_several_names_match(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A single match is found without case; if several match, only the exact name is found."""
    platform.payloads.upload(job.payload_id, "Scan.dcm", [b"1"])
    assert b"1" == read(platform, job.payload_id, "INPUT/scan.DCM")
    platform.payloads.upload(job.payload_id, "scan.dcm", [b"2"])
    assert b"2" == read(platform, job.payload_id, "input/scan.dcm")
    with pytest.raises(NotFound):
        read(platform, job.payload_id, "input/SCAN.dcm")


def test_the_payload_of_a_started_job_is_read_only(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """Uploads and removals are refused after the start, also an upload that began before the start."""
    platform.payloads.upload(job.payload_id, "1.dcm", [b"x"])
    late = platform.payloads.receive(job.payload_id, "2.dcm")
    platform.jobs.start(job.job_id)
    with late, pytest.raises(Conflict):
        late.commit()
    with pytest.raises(Conflict) as error:
        platform.payloads.upload(job.payload_id, "3.dcm", [b"x"])
    with pytest.raises(Conflict):
        platform.payloads.remove(job.payload_id, "input/1.dcm")
    assert ClaraCode.PAYLOAD_READ_ONLY == error.value.code
    assert b"x" == read(platform, job.payload_id, "input/1.dcm")


def test_the_output_of_operators_can_be_downloaded(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """The output can be downloaded while the job runs and afterwards."""
    platform.jobs.start(job.job_id)
    platform.payloads.add_output(job.payload_id, "operators/segment/out.dcm", b"result")
    assert b"result" == read(platform, job.payload_id, "/operators/segment/out.dcm")


def test_a_removed_file_is_missing(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A removed file does not exist; its name and its folder's name can be used again."""
    platform.payloads.upload(job.payload_id, "a/b/1", [b"x"])
    platform.payloads.remove(job.payload_id, "/input/a/b/1")
    with pytest.raises(NotFound) as error:
        platform.payloads.remove(job.payload_id, "input/a/b/1")
    platform.payloads.upload(job.payload_id, "a", [b"x"])
    assert (ClaraCode.NO_SUCH_FILE, ["input/a"]) == (error.value.code, names(platform, job.payload_id))


def test_a_download_continues_if_its_file_is_replaced(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A reader reads the file that existed when the reader was opened."""
    platform.payloads.upload(job.payload_id, "1", [b"first"])
    _, reader = platform.payloads.download(job.payload_id, "input/1")
    platform.payloads.upload(job.payload_id, "1", [b"second"])
    platform.payloads.remove(job.payload_id, "input/1")
    with reader:
        assert b"first" == reader.read()


def test_only_reusable_payloads_have_metadata(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A job's payload refuses metadata; the job has metadata."""
    payload = platform.payloads.create({"a": "1"})
    assert {"a": "1", "b": "2"} == platform.payloads.add_metadata(payload.payload_id, {"b": "2"}).metadata
    assert {"b": "2"} == platform.payloads.remove_metadata(payload.payload_id, ["A"]).metadata
    with pytest.raises(Conflict):
        platform.payloads.add_metadata(payload.payload_id, {"B": "3"})
    with pytest.raises(InvalidValue):
        platform.payloads.add_metadata(job.payload_id, {"b": "2"})


def test_reusable_payloads_are_copied_into_a_job(platform: EmulatedPlatform) -> None:
    """The payload's files are in the job's input folder, even after the payload was changed or deleted."""
    first, second = platform.payloads.create(), platform.payloads.create()
    platform.payloads.upload(first.payload_id, "a/1", [b"one"])
    platform.payloads.upload(second.payload_id, "a/2", [b"two"])
    job = platform.create_job(LUNG, "name", input_payloads=[first.payload_id, second.payload_id])
    platform.payloads.upload(first.payload_id, "a/1", [b"changed"])
    platform.payloads.delete(second.payload_id)
    assert ["input/a/1", "input/a/2"] == names(platform, job.payload_id)
    assert (b"one", b"two") == (
        read(platform, job.payload_id, "input/a/1"),
        read(platform, job.payload_id, "input/a/2"),
    )


def test_invalid_input_payloads_are_refused(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """Unknown payloads, payloads of jobs, and two files with the same name are refused; no job is created."""
    first, second = platform.payloads.create(), platform.payloads.create()
    for payload in (first, second):
        platform.payloads.upload(payload.payload_id, "same", [b"x"])
    for inputs in ([32 * "0"], ["bad"], [job.payload_id], [first.payload_id, second.payload_id]):
        with pytest.raises((InvalidValue, Conflict)):
            platform.create_job(LUNG, "name", input_payloads=inputs)
    assert (job,) == platform.jobs.list()


def test_payloads_can_be_deleted_unless_their_job_is_unfinished(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A reusable payload can be deleted at any time, a job's payload after the job has stopped."""
    payload = platform.payloads.create()
    platform.payloads.upload(payload.payload_id, "1", [b"x"])
    platform.payloads.delete(payload.payload_id)
    with pytest.raises(Conflict):
        platform.payloads.delete(job.payload_id)
    platform.jobs.cancel(job.job_id)
    platform.payloads.delete(job.payload_id)
    for payload_id in (payload.payload_id, job.payload_id):
        with pytest.raises(NotFound) as error:
            platform.payloads.details(payload_id)
        assert ClaraCode.NO_SUCH_PAYLOAD == error.value.code


def test_an_upload_to_a_deleted_payload_is_refused(platform: EmulatedPlatform) -> None:
    """The payload may be deleted during the upload."""
    payload = platform.payloads.create()
    with platform.payloads.receive(payload.payload_id, "1") as incoming, pytest.raises(NotFound):
        platform.payloads.delete(payload.payload_id)
        incoming.commit()


def test_an_invalid_id_is_malformed(platform: EmulatedPlatform) -> None:
    """The rule for payload ids is that of all ids."""
    with pytest.raises(MalformedId):
        platform.payloads.details("../jobs")


def test_many_uploads_can_run_concurrently(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """Uploads from many threads, several of each name, result in one complete file for each name."""

    def upload(number: int) -> None:
        platform.payloads.upload(job.payload_id, f"{number % 50}", [f"{number:04}".encode()] * 100)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(upload, range(200)))
    for name in range(50):
        data = read(platform, job.payload_id, f"input/{name}")
        assert (400, name) == (len(data), int(data[:4]) % 50)
        assert data == data[:4] * 100
