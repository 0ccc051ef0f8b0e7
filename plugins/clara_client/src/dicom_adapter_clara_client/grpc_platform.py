"""The calls of the `clara-grpc` submitter to NVIDIA's Clara Deploy Platform.

    step          call                 why a repetition is harmless
    create_job    Jobs.Create          the submitter first searches for the job by its key (Jobs.List)
    add_metadata  Jobs.AddMetadata     the submitter sends only entries that are missing (Jobs.Status)
    upload        Payloads.Upload      the platform replaces the file, or has it already (Payloads.Details)
    start         Jobs.Start           a job that is not pending was started already (Jobs.Status)
    status        Jobs.Status          it changes nothing
    cancel        Jobs.Cancel          a stopped job does not change
    results       Payloads.Details     it changes nothing; each result is read with Payloads.Download
    clean_up      Payloads.Delete      a missing payload is no error; only with `delete-payloads`

After a refusal, `add_metadata`, `upload`, `start` and `cancel` check whether the step was done already: the platform's
code for that case is not published.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping

from dicom_adapter import (
    Job,
    JobPriority,
    Output,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Upload,
)
from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.grpc_job import GrpcJob, check_same, checked_id, query_job, subject_of
from dicom_adapter_clara_client.grpc_payload import delete_payload, download, is_stored, list_files
from dicom_adapter_clara_client.grpc_search import find_job, list_newest
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.grpc_upload import OutgoingFile
from dicom_adapter_clara_client.platform_errors import PermanentRefusal, Refusal, invalid_response
from dicom_adapter_clara_client.platform_metadata import (
    fitting_metadata,
    in_requests,
    metadata_of_creation,
    missing_metadata,
)
from dicom_adapter_clara_client.platform_names import job_name, upload_name
from dicom_adapter_clara_client.platform_results import ListedFile, results_of
from dicom_adapter_clara_client.wire import jobs_pb2
from dicom_adapter_clara_client.wire.common_pb2 import Identifier

PRIORITIES = {
    JobPriority.LOWER: jobs_pb2.JOB_PRIORITY_LOWER,
    JobPriority.NORMAL: jobs_pb2.JOB_PRIORITY_NORMAL,
    JobPriority.HIGHER: jobs_pb2.JOB_PRIORITY_HIGHER,
    JobPriority.IMMEDIATE: jobs_pb2.JOB_PRIORITY_IMMEDIATE,
}


class GrpcPlatform:
    """Submits jobs to one platform over one gRPC connection. The steps of a job are those of `Submitter`."""

    def __init__(self, settings: ClaraGrpcSettings) -> None:
        self._settings = settings
        self._connection = GrpcConnection(settings)

    def close(self) -> None:
        self._connection.close()

    def check_connection(self) -> None:
        """Call the platform without changing anything. Raises the errors of `Submitter`."""
        list_newest(self._connection, "list the newest jobs")

    def create_job(self, job: Job) -> PlatformJob:
        subject = subject_of(job, "create")
        platform_job = find_job(self._connection, subject, job) if job.repeated else None
        return platform_job or self._create(job, subject)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        subject = subject_of(job, "metadata")
        present = self._query(job, subject).metadata if job.repeated else metadata_of_creation(job)
        for portion in in_requests(missing_metadata(fitting_metadata(metadata), present)):
            self._add_missing(job, subject, portion)

    def upload(self, job: Job, upload: Upload) -> None:
        subject = f"{subject_of(job, 'upload')} of instance {upload.instance.instance_id}"
        name = upload_name(upload)
        try:
            self._upload(job, upload, name, subject)
        except Refusal as refusal:
            if not refusal.from_platform or refusal.is_missing:
                raise
            if not is_stored(self._connection, subject, job.platform_payload_id, name, upload.size_bytes):
                raise

    def start(self, job: Job) -> None:
        subject = subject_of(job, "start")
        if job.repeated and self._is_started(job, subject):
            return
        try:
            self._start(job, subject)
        except Refusal as refusal:
            if not refusal.from_platform or refusal.is_missing or not self._is_started(job, subject):
                raise

    def status(self, job: Job) -> PlatformStatus:
        try:
            platform_job = self._query(job, subject_of(job, "status"))
        except PermanentRefusal as refusal:
            if refusal.is_missing:
                raise
            # The job exists even if the platform refuses to report it: an operator may fix that, so polling continues.
            raise Retriable(str(refusal)) from refusal
        return platform_job.platform_status

    def cancel(self, job: Job) -> None:
        if not job.platform_job_id:
            return  # the job was never created: there is nothing to stop
        subject = subject_of(job, "cancel")
        try:
            self._cancel(job, subject)
        except Refusal as refusal:
            if refusal.is_missing:
                return
            if not refusal.from_platform or self._query(job, subject).state != "stopped":
                raise

    def results(self, job: Job) -> Iterable[Output]:
        connection, payload_id = self._connection, job.platform_payload_id

        def pieces(subject: str, file: ListedFile) -> Generator[bytes, None, None]:
            return download(connection, subject, payload_id, file, self._settings.download_deadline)

        subject = subject_of(job, "results")
        listed = list_files(connection, subject, payload_id)
        return results_of(subject, listed, self._settings.result_files, pieces)

    def clean_up(self, job: Job) -> None:
        if self._settings.delete_payloads and job.platform_payload_id:
            delete_payload(self._connection, subject_of(job, "clean up"), job.platform_payload_id)

    # --- one call each ----------------------------------------------------------------------------------------------

    def _create(self, job: Job, subject: str) -> PlatformJob:
        request = jobs_pb2.JobsCreateRequest(
            header=HEADER,
            pipeline_id=Identifier(value=job.pipeline_id),
            name=job_name(job.name),
            priority=PRIORITIES[job.priority],
            metadata=metadata_of_creation(job),
        )
        answer = self._connection.call(subject, self._connection.jobs.Create, request)
        return PlatformJob(
            job_id=checked_id(subject, answer.job_id, "job"),
            payload_id=checked_id(subject, answer.payload_id, "payload"),
        )

    def _add(self, job: Job, subject: str, metadata: Mapping[str, str]) -> None:
        request = jobs_pb2.JobsAddMetadataRequest(header=HEADER, job_id=_platform_id(job), metadata=metadata)
        # The platform's text may quote a value, which may be patient data.
        answer = self._connection.call(subject, self._connection.jobs.AddMetadata, request, quoting=False)
        check_same(subject, answer.job_id, job.platform_job_id)

    def _upload(self, job: Job, upload: Upload, name: str, subject: str) -> None:
        with upload.open() as source:
            outgoing = OutgoingFile(
                subject=subject,
                header=HEADER,
                payload_id=job.platform_payload_id,
                name=name,
                size_bytes=upload.size_bytes,
                chunk_bytes=self._settings.chunk_size,
                source=source,
            )
            answer = self._connection.send(subject, outgoing)
        if answer.details.size not in (0, upload.size_bytes):  # 0: the platform omits the size, or the file is empty
            raise invalid_response(subject, f"the platform stored {answer.details.size} bytes of the file")

    def _start(self, job: Job, subject: str) -> None:
        request = jobs_pb2.JobsStartRequest(header=HEADER, job_id=_platform_id(job))
        answer = self._connection.call(subject, self._connection.jobs.Start, request)
        if answer.state == jobs_pb2.JOB_STATE_UNKNOWN:
            raise invalid_response(subject, "the platform answered without a job state")

    def _cancel(self, job: Job, subject: str) -> None:
        request = jobs_pb2.JobsCancelRequest(
            header=HEADER, job_id=_platform_id(job), reason="cancelled in dicom-adapter"
        )
        answer = self._connection.call(subject, self._connection.jobs.Cancel, request)
        check_same(subject, answer.job_id, job.platform_job_id)

    def _query(self, job: Job, subject: str) -> GrpcJob:
        return query_job(self._connection, subject, job.platform_job_id)

    # --- work that is done already ----------------------------------------------------------------------------------

    def _add_missing(self, job: Job, subject: str, metadata: Mapping[str, str]) -> None:
        try:
            self._add(job, subject, metadata)
        except Refusal as refusal:
            if not refusal.from_platform or refusal.is_missing:
                raise
            missing = missing_metadata(metadata, self._query(job, subject).metadata)
            if len(missing) == len(metadata):
                raise
        else:
            return
        if missing:
            self._add(job, subject, missing)

    def _is_started(self, job: Job, subject: str) -> bool:
        """Return whether the job was started. Raises Permanent if it was stopped before its start."""
        platform_job = self._query(job, subject)
        if platform_job.was_stopped_before_start:
            raise Permanent(
                f"{subject}: the job was stopped on the platform ({platform_job.status}) before it was started"
            )
        return platform_job.state != "pending"


def _platform_id(job: Job) -> Identifier:
    return Identifier(value=job.platform_job_id)
