"""The gRPC services of the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

from dicom_adapter_clara_client.emulator.record import CallOutcome
from dicom_adapter_clara_client.wire import clara_pb2, common_pb2, jobs_pb2, payloads_pb2, pipelines_pb2
from dicom_adapter_clara_client.wire.clara_pb2_grpc import ClaraStub
from dicom_adapter_clara_client.wire.codes import ClaraCode

LUNG = 32 * "a"
HEART = 32 * "b"
NOON_SECONDS = 63923860800  # since 0001-01-01
MIB = 1 << 20


def test_a_job_passes_through_all_steps(site: Any) -> None:
    """Create, metadata, upload, start and status work, all without a request header."""
    job = site.create()
    added = site.jobs.AddMetadata(jobs_pb2.JobsAddMetadataRequest(job_id=job.job_id, metadata={"Instances": "1"}))
    stored = site.upload(job.payload_id.value, "dcm/1.dcm", b"ab", b"c")
    started = site.jobs.Start(jobs_pb2.JobsStartRequest(job_id=job.job_id))
    status = site.jobs.Status(jobs_pb2.JobsStatusRequest(job_id=job.job_id))
    assert {"Source": "AE", "Instances": "1"} == dict(added.metadata) == dict(status.metadata)
    assert ("input/dcm/1.dcm", 3, 0) == (stored.details.name, stored.details.size, stored.details.mode)
    assert (jobs_pb2.JOB_STATE_RUNNING, jobs_pb2.JOB_STATUS_HEALTHY, jobs_pb2.JOB_PRIORITY_HIGHER) == (
        started.state,
        started.status,
        started.priority,
    )
    assert (jobs_pb2.JOB_STATE_STOPPED, jobs_pb2.JOB_STATUS_HEALTHY, "ae-lung-1", LUNG, job.payload_id) == (
        status.state,
        status.status,
        status.name,
        status.pipeline_id.value,
        status.payload_id,
    )


def test_times_count_from_the_year_one_and_are_absent_before_the_event(site: Any) -> None:
    """A pending job has only the time of its creation."""
    job = site.create()
    pending = site.jobs.Status(jobs_pb2.JobsStatusRequest(job_id=job.job_id))
    site.jobs.Start(jobs_pb2.JobsStartRequest(job_id=job.job_id))
    stopped = site.jobs.Status(jobs_pb2.JobsStatusRequest(job_id=job.job_id))
    assert (NOON_SECONDS, False, False) == (
        pending.created.value,
        pending.HasField("started"),
        pending.HasField("stopped"),
    )
    assert (NOON_SECONDS, NOON_SECONDS) == (stopped.started.value, stopped.stopped.value)


def test_refusals_are_in_the_response_header(site: Any) -> None:
    """The gRPC status is OK, the code is negative, and the messages give the reason."""
    answer = site.jobs.Create(site.create_request(name="Not A Name"))
    assert ClaraCode.JOB_NAME_INVALID == answer.header.code
    assert "job name 'Not A Name' must be" in answer.header.messages[0]
    assert not answer.HasField("job_id")


def test_refusals_of_server_streams_are_in_the_first_message(site: Any) -> None:
    """A refused list or download is one message with a header."""
    [details] = site.payloads.Details(payloads_pb2.PayloadsDetailsRequest(payload_id=site.identifier("bad")))
    [download] = site.payloads.Download(
        payloads_pb2.PayloadsDownloadRequest(payload_id=site.create().payload_id, name="no")
    )
    assert (ClaraCode.PAYLOAD_ID_MALFORMED, ClaraCode.NO_SUCH_FILE) == (details.header.code, download.header.code)


def test_a_job_without_a_priority_is_refused(site: Any) -> None:
    """NVIDIA's clients never send 0, so 0 means that the priority is missing."""
    answer = site.jobs.Create(jobs_pb2.JobsCreateRequest(pipeline_id=site.identifier(LUNG), name="name"))
    assert ClaraCode.JOB_PRIORITY_INVALID == answer.header.code


def test_an_empty_list_is_one_message_without_a_job(site: Any) -> None:
    """NVIDIA's client reads the header of the first message."""
    [answer] = site.jobs.List(jobs_pb2.JobsListRequest())
    assert (0, False) == (answer.header.code, answer.HasField("job_details"))


def test_jobs_are_listed_by_filter(site: Any) -> None:
    """All conditions must hold; each condition lists alternatives."""
    lung, heart = site.create(LUNG), site.create(HEART)
    site.jobs.Cancel(jobs_pb2.JobsCancelRequest(job_id=lung.job_id, reason="not needed"))

    def listed(**wanted: Any) -> list[str]:
        answers = site.jobs.List(jobs_pb2.JobsListRequest(filter=jobs_pb2.JobsListRequest.JobFilter(**wanted)))
        return [answer.job_details.job_id.value for answer in answers if answer.HasField("job_details")]

    before, noon = (common_pb2.Timestamp(value=NOON_SECONDS + seconds) for seconds in (-1, 0))
    assert [lung.job_id.value, heart.job_id.value] == listed(created_after=before)
    assert [] == listed(created_after=noon)
    assert [lung.job_id.value] == listed(has_state=[jobs_pb2.JOB_STATE_STOPPED, jobs_pb2.JOB_STATE_RUNNING])
    assert [lung.job_id.value] == listed(has_status=[jobs_pb2.JOB_STATUS_CANCELED])
    assert [heart.job_id.value] == listed(pipeline_id=[site.identifier(HEART.upper())])
    assert [] == listed(completed_before=noon)


def test_details_are_one_message_for_each_file(site: Any) -> None:
    """An empty payload is one message without a file."""
    job = site.create()
    request = payloads_pb2.PayloadsDetailsRequest(payload_id=job.payload_id)
    [empty] = site.payloads.Details(request)
    for name in ("b", "a"):
        site.upload(job.payload_id.value, name, b"x")
    full = list(site.payloads.Details(request))
    assert (0, False, job.job_id, payloads_pb2.PAYLOAD_TYPE_PIPELINE) == (
        empty.header.code,
        empty.HasField("file"),
        empty.job_id,
        empty.type,
    )
    assert ["input/a", "input/b"] == [answer.file.name for answer in full]


def test_downloads_come_in_pieces_with_their_details_first(site: Any) -> None:
    """A file larger than one message is downloaded completely."""
    job, data = site.create(), bytes(range(256)) * (10 * MIB // 256)
    site.upload(job.payload_id.value, "big", *(data[start : start + 3 * MIB] for start in range(0, len(data), 3 * MIB)))
    answers = list(
        site.payloads.Download(payloads_pb2.PayloadsDownloadRequest(payload_id=job.payload_id, name="/input/big"))
    )
    assert (len(data), "input/big") == (answers[0].details.size, answers[0].details.name)
    assert (data, 10) == (b"".join(answer.data for answer in answers), len(answers))


def test_an_empty_file_needs_a_message(site: Any) -> None:
    """One message without data stores an empty file; a stream without messages names no payload."""
    job = site.create()
    stored = site.upload(job.payload_id.value, "empty", b"")
    nothing = site.payloads.Upload(iter([]))
    [download] = site.payloads.Download(
        payloads_pb2.PayloadsDownloadRequest(payload_id=job.payload_id, name="input/empty")
    )
    assert (0, ClaraCode.PAYLOAD_ID_MALFORMED) == (stored.header.code, nothing.header.code)
    assert ("input/empty", b"") == (download.details.name, download.data)


def test_sizes_in_upload_messages_are_ignored(site: Any) -> None:
    """NVIDIA's client sends the size of each piece; the stored size is that of the file."""
    job = site.create()
    assert 6 == site.upload(job.payload_id.value, "1", b"abc", b"de", b"f").details.size


def test_every_message_of_an_upload_names_its_file(site: Any) -> None:
    """An upload with a message for another file or payload is refused."""
    job = site.create()
    for message in (
        site.upload_request(job.payload_id.value, "2", b"x"),
        site.upload_request(32 * "0", "1", b"x"),
        payloads_pb2.PayloadsUploadRequest(data=b"x"),
    ):
        answer = site.payloads.Upload(iter([site.upload_request(job.payload_id.value, "1", b"x"), message]))
        assert ClaraCode.FILE_NAME_INVALID == answer.header.code
    assert [] == site.files(job.payload_id.value)


def test_a_cancelled_upload_stores_no_file(site: Any) -> None:
    """A file is stored only at the end of the stream."""
    job, never = site.create(), Event()

    def half() -> Iterator[payloads_pb2.PayloadsUploadRequest]:
        yield site.upload_request(job.payload_id.value, "1", b"half")
        sent.set()
        never.wait(30)

    sent = Event()
    call = site.payloads.Upload.future(half())
    sent.wait(30)
    call.cancel()
    [record] = site.log.wait_for("Payloads.Upload")
    never.set()  # set after the cancellation: otherwise the end of the stream could arrive before it
    assert (CallOutcome.FAILED, []) == (record.outcome, site.files(job.payload_id.value))


def test_reusable_payloads_are_inputs_of_jobs(site: Any) -> None:
    """Create, upload, metadata, use, remove and delete over gRPC."""
    created = site.payloads.Create(payloads_pb2.PayloadsCreateRequest(metadata={"a": "1"}))
    site.upload(created.payload_id.value, "atlas", b"x")
    added = site.payloads.AddMetadata(
        payloads_pb2.PayloadsAddMetadataRequest(payload_id=created.payload_id, metadata={"b": "2"})
    )
    remaining = site.payloads.RemoveMetadata(
        payloads_pb2.PayloadsRemoveMetadataRequest(payload_id=created.payload_id, keys=["a"])
    )
    request = site.create_request()
    request.input_payloads.append(created.payload_id)
    job = site.jobs.Create(request)
    removed = site.payloads.Remove(payloads_pb2.PayloadsRemoveRequest(payload_id=created.payload_id, name="atlas"))
    deleted = site.payloads.Delete(payloads_pb2.PayloadsDeleteRequest(payload_id=created.payload_id))
    assert payloads_pb2.PAYLOAD_TYPE_REUSABLE == created.type
    assert ({"a": "1", "b": "2"}, {"b": "2"}) == (dict(added.metadata), dict(remaining.metadata))
    assert (["input/atlas"], 0, 0) == (site.files(job.payload_id.value), removed.header.code, deleted.header.code)


def test_pipelines_are_registered_in_pieces(site: Any) -> None:
    """Create, details, list, update, metadata and removal over gRPC."""
    pieces = [("p.yaml", "name: lu"), ("P.yaml", "ng\n"), ("q.yaml", "x: 1\n")]
    created = site.pipelines.Create(
        pipelines_pb2.PipelinesCreateRequest(
            definition=pipelines_pb2.PipelineDefinitionFile(path=path, content=content), metadata={"k": "v"}
        )
        for path, content in pieces
    )
    key = created.pipeline_id
    details = list(site.pipelines.Details(pipelines_pb2.PipelinesDetailsRequest(pipeline_id=key)))
    assert [("lung", "p.yaml", "name: lung\n"), ("lung", "q.yaml", "x: 1\n")] == [
        (answer.name, answer.definition.path, answer.definition.content) for answer in details
    ]
    definition = pipelines_pb2.PipelineDefinitionFile(path="p.yaml", content="name: heart")
    site.pipelines.Update(iter([pipelines_pb2.PipelinesUpdateRequest(pipeline_id=key, definition=definition)]))
    site.pipelines.AddMetadata(pipelines_pb2.PipelinesAddMetadataRequest(pipeline_id=key, metadata={"a": "1"}))
    site.pipelines.RemoveMetadata(pipelines_pb2.PipelinesRemoveMetadataRequest(pipeline_id=key, keys=["K"]))
    listed = [answer.details for answer in site.pipelines.List(pipelines_pb2.PipelinesListRequest())]
    assert [("heart", {"a": "1"})] == [(item.name, dict(item.metadata)) for item in listed if item.pipeline_id == key]
    site.pipelines.Remove(pipelines_pb2.PipelinesRemoveRequest(pipeline_id=key))
    assert ClaraCode.NO_SUCH_PIPELINE == site.jobs.Create(site.create_request(key.value)).header.code


def test_a_pipeline_without_a_definition_is_refused(site: Any) -> None:
    """A stream without messages is refused."""
    assert ClaraCode.DEFINITION_MALFORMED == site.pipelines.Create(iter([])).header.code


def test_the_platform_reports_its_version(site: Any) -> None:
    """The version is that of the API, 0.8.1; the label identifies the emulator."""
    version = ClaraStub(site.channel).Version(clara_pb2.ClaraVersionRequest()).version
    assert (0, 8, 1, "emulator") == (version.major, version.minor, version.patch, version.label)
