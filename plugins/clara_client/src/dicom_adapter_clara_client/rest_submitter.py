"""The `clara-rest` submitter: submits jobs to a platform with the API of `docs/clara-rest-openapi.yaml`.

step          request                                    why a repetition is harmless
create_job    POST /v1/jobs                              it has an idempotency key, `Job.run_id`
add_metadata  POST …/metadata, then PUT …/metadata/{key} POST adds all or nothing; PUT replaces
upload        PUT …/files/input/dcm/{name}               PUT replaces
start         POST …:start                               it has its own key, see below
status        GET /v1/jobs/{id}                          it changes nothing
cancel        POST …:cancel                              a stopped job does not change
results       GET /v1/payloads/{id}                      it changes nothing; each result is read with GET …/files/{name}
clean_up      DELETE /v1/payloads/{id}                   a missing payload is no error; only with `delete-payloads`

When the platform no longer knows the key of an earlier `start`, it refuses to start a job that is not pending. Then
`start` queries the job: it succeeds unless the job is pending or was stopped before it was started.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from dicom_adapter import (
    Certificate,
    Job,
    Output,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    SubmitterContext,
    Upload,
)
from dicom_adapter_clara_client.platform_certificates import platform_certificates
from dicom_adapter_clara_client.platform_metadata import (
    fitting_metadata,
    is_of_job,
    metadata_of_creation,
    missing_metadata,
)
from dicom_adapter_clara_client.platform_names import job_name, upload_name
from dicom_adapter_clara_client.platform_results import ListedFile, results_of
from dicom_adapter_clara_client.rest_errors import RestAnswer, conflicts, problem_of, refusal
from dicom_adapter_clara_client.rest_job import RestJob, check_metadata, job_of, page_of
from dicom_adapter_clara_client.rest_payload import file_request, files_of, is_missing_payload, payload_request
from dicom_adapter_clara_client.rest_request import FileBody, RestRequest
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings

if TYPE_CHECKING:
    from dicom_adapter_clara_client.rest_connection import RestConnection

OK, CREATED, ACCEPTED, NO_CONTENT = HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT
KEY_LIFETIME = timedelta(hours=23)  # the platform keeps a key for 24 hours: for a younger job, it still knows the key
CLOCK_MARGIN = timedelta(hours=1)  # maximum difference between the adapter's and the platform's clock
PAGE_SIZE = 20  # jobs; a page with all metadata is shorter than LONGEST_ANSWER_BYTES
MAX_PAGES = 500  # of a list that is searched for a job
JOB_NOT_FOUND = "job-not-found"  # a problem type, see docs/clara-rest-openapi.yaml


class ClaraRestSubmitter(Submitter[ClaraRestSettings]):
    """Submit jobs to one platform over reused HTTP connections."""

    name = "clara-rest"

    def __init__(self, settings: ClaraRestSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self.follows_jobs = settings.follow
        self._reused_connection: RestConnection | None = None
        self._is_open = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Allow calls. The first call opens the connection, so that a failure to open it is reported with a job."""
        self._is_open = True

    def certificates(self) -> Iterable[Certificate]:
        settings = self.settings
        if not settings.endpoint.startswith("https:"):
            return ()
        return platform_certificates(settings.endpoint, settings.ca_file, settings.client_certificate)

    def check_connection(self) -> str:
        query = {"createdAfter": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", "pageSize": 1}
        path = f"/v1/jobs?{urlencode(query)}"
        connection = self._connect()
        try:
            subject = "list the newest jobs"
            page_of(subject, connection.send(RestRequest(subject=subject, method="GET", path=path), OK))
        finally:
            connection.close()
        return f"{self.settings.endpoint} answers"

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            if self._reused_connection is not None:
                self._reused_connection.close()
                self._reused_connection = None

    def create_job(self, job: Job) -> PlatformJob:
        subject = _subject(job, "create")
        created = self._find(job, subject) if job.repeated and _age(job) > KEY_LIFETIME else None
        if created is None:
            body = {
                "pipelineId": job.pipeline_id,
                "name": job_name(job.name),
                "priority": job.priority.value,
                "metadata": metadata_of_creation(job),
            }
            request = RestRequest(subject=subject, method="POST", path="/v1/jobs", key=job.run_id, body=body)
            created = job_of(subject, self._connection.send(request, CREATED))
        return PlatformJob(job_id=created.job_id, payload_id=created.payload_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        missing = missing_metadata(fitting_metadata(metadata), metadata_of_creation(job))
        # One POST adds all values. If an earlier attempt may have sent it, or if the platform's job has one of the
        # metadata keys already, each value is sent with PUT.
        if missing and (job.repeated or not self._add_all(job, missing)):
            for key, value in missing.items():
                self._put_metadata(job, key, value)

    def upload(self, job: Job, upload: Upload) -> None:
        subject = f"{_subject(job, 'upload')} of instance {upload.instance.instance_id}"
        path = f"/v1/payloads/{job.platform_payload_id}/files/input/{quote(upload_name(upload))}"
        with upload.open() as source:
            body = FileBody(source=source, size_bytes=upload.size_bytes)
            request = RestRequest(subject=subject, method="PUT", path=path, body=body)
            self._connection.send(request, CREATED, NO_CONTENT)

    def start(self, job: Job) -> None:
        subject = _subject(job, "start")
        path, key = f"{_path(job)}:start", f"{job.run_id}-start"
        request = RestRequest(subject=subject, method="POST", path=path, key=key, body={"variables": {}})
        answer = self._connection.exchange(request)
        if conflicts(answer):
            self._check_started(job, subject, answer)
        elif answer.status == ACCEPTED:
            job_of(subject, answer, job.platform_job_id)
        else:
            raise refusal(subject, answer)

    def status(self, job: Job) -> PlatformStatus:
        subject = _subject(job, "status")
        answer = self._connection.exchange(RestRequest(subject=subject, method="GET", path=_path(job)))
        if answer.status != OK:
            error = refusal(subject, answer)
            # Unless the job is missing, an operator may fix the reason of the refusal: polling continues.
            raise error if _is_missing_job(answer) else Retriable(str(error))
        platform_job = job_of(subject, answer, job.platform_job_id)
        return platform_job.platform_status

    def cancel(self, job: Job) -> None:
        subject = _subject(job, "cancel")
        platform_job_id = job.platform_job_id or self._created_id(job, subject)
        if not platform_job_id:
            return  # the job was never created: there is nothing to stop
        path, body = f"/v1/jobs/{platform_job_id}:cancel", {"reason": "cancelled in dicom-adapter"}
        answer = self._connection.exchange(RestRequest(subject=subject, method="POST", path=path, body=body))
        if _is_missing_job(answer):
            return
        if answer.status != OK:
            raise refusal(subject, answer)
        job_of(subject, answer, platform_job_id)

    def results(self, job: Job) -> Iterable[Output]:
        connection, payload_id = self._connection, job.platform_payload_id

        def pieces(subject: str, file: ListedFile) -> Generator[bytes, None, None]:
            return connection.download(file_request(subject, payload_id, file))

        subject = _subject(job, "results")
        listed = files_of(subject, connection.send(payload_request(subject, "GET", payload_id), OK))
        return results_of(subject, listed, self.settings.result_files, pieces)

    def clean_up(self, job: Job) -> None:
        if not self.settings.delete_payloads or not job.platform_payload_id:
            return
        subject = _subject(job, "clean up")
        answer = self._connection.exchange(payload_request(subject, "DELETE", job.platform_payload_id))
        if answer.status != NO_CONTENT and not is_missing_payload(answer):
            raise refusal(subject, answer)

    @property
    def _connection(self) -> RestConnection:
        with self._lock:
            if not self._is_open:
                raise RuntimeError("the submitter is not open")
            if self._reused_connection is None:
                self._reused_connection = self._connect()
            return self._reused_connection

    def _connect(self) -> RestConnection:
        # Imported only when needed: the host has this class even if no configuration uses it, and httpx takes 8 MB.
        from dicom_adapter_clara_client.rest_connection import RestConnection

        return RestConnection(self.settings)

    def _add_all(self, job: Job, metadata: Mapping[str, str]) -> bool:
        """Add metadata in one call. Return False, without any addition, if one of the keys is already present."""
        subject = _subject(job, "metadata")
        path, body = f"{_path(job)}/metadata", {"metadata": dict(metadata)}
        # The detail of a refusal may quote a value, which may be patient data.
        answer = self._connection.exchange(
            RestRequest(subject=subject, method="POST", path=path, body=body, may_quote=False)
        )
        if conflicts(answer):
            return False
        if answer.status != OK:
            raise refusal(subject, answer, may_quote=False)
        check_metadata(subject, answer)
        return True

    def _put_metadata(self, job: Job, key: str, value: str) -> None:
        subject = _subject(job, "metadata")
        path = f"{_path(job)}/metadata/{quote(key, safe='')}"
        request = RestRequest(subject=subject, method="PUT", path=path, body={"value": value}, may_quote=False)
        self._connection.send(request, CREATED, NO_CONTENT)

    def _check_started(self, job: Job, subject: str, conflict_answer: RestAnswer) -> None:
        """Raise an error unless the job was started already, by an earlier attempt of this call."""
        platform_job = self._query(job, subject)
        if platform_job.state == "pending":
            raise refusal(subject, conflict_answer)
        if platform_job.was_stopped_before_start:
            raise Permanent(
                f"{subject}: the job was stopped on the platform ({platform_job.status}) before it was started"
            )

    def _created_id(self, job: Job, subject: str) -> str:
        """Return the platform's id of a job whose creation had no response; "" if it was not created.

        The search is a precaution: before dicom-adapter calls `cancel` for a job without the platform's id, it repeats
        `create_job` to get the id.
        """
        platform_job = self._find(job, subject) if job.repeated else None
        return platform_job.job_id if platform_job else ""

    def _find(self, job: Job, subject: str) -> RestJob | None:
        """Return the platform's job that was created for `job`, or None."""
        since = (job.created_at - CLOCK_MARGIN).astimezone(timezone.utc)
        query = {"pipelineId": job.pipeline_id, "createdAfter": f"{since:%Y-%m-%dT%H:%M:%SZ}", "pageSize": PAGE_SIZE}
        for _ in range(MAX_PAGES):
            answer = self._connection.send(
                RestRequest(subject=subject, method="GET", path=f"/v1/jobs?{urlencode(query)}", may_quote=False), OK
            )
            page = page_of(subject, answer)
            platform_job = next((created for created in page.jobs if is_of_job(created.metadata, job)), None)
            if platform_job or not page.next_token:
                return platform_job
            query["pageToken"] = page.next_token
        raise Retriable(
            f"{subject}: the platform has too many jobs to find the one that an earlier attempt may have created"
        )

    def _query(self, job: Job, subject: str) -> RestJob:
        answer = self._connection.send(RestRequest(subject=subject, method="GET", path=_path(job)), OK)
        return job_of(subject, answer, job.platform_job_id)


def _is_missing_job(answer: RestAnswer) -> bool:
    """Return whether the platform itself reports a missing job; any proxy may respond with 404."""
    return answer.status == HTTPStatus.NOT_FOUND and problem_of(answer).name == JOB_NOT_FOUND


def _age(job: Job) -> timedelta:
    return datetime.now(timezone.utc) - job.created_at


def _path(job: Job) -> str:
    return f"/v1/jobs/{job.platform_job_id}"


def _subject(job: Job, step: str) -> str:
    return f"job {job.job_id}: {step}"
