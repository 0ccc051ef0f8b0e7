"""The `dicomweb` submitter: sends the instances of a job to a DICOMweb server with STOW-RS (PS3.18 section 10.5).

step                      what happens                                   why a repetition is harmless
create_job, add_metadata  nothing: a DICOMweb server knows no jobs
upload                    one store transaction with one instance        the server replaces the instance, or reports
                                                                         that it already has it
start, status, cancel     nothing: each stored instance is delivered

One instance in each request gives each instance its own outcome, and limits the size of a request.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from dicom_adapter import (
    Certificate,
    InstanceStorageInfo,
    Job,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    SubmitterContext,
    Upload,
    certificate_of_server,
    certificates_in_file,
)
from dicom_adapter_delivery.dicomweb_messages import DicomwebResponse, StowBody
from dicom_adapter_delivery.dicomweb_outcome import (
    StowJudgement,
    contains_instance,
    judge_store,
    refusal,
)
from dicom_adapter_delivery.dicomweb_settings import DicomwebSettings
from dicom_adapter_delivery.tls_files import FileVersions, file_versions

if TYPE_CHECKING:
    from dicom_adapter_delivery.dicomweb_connection import DicomwebConnection

log = structlog.get_logger("dicom_adapter_delivery")

HTTPS_PORT = 443
UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # PS3.5 section 9.1: safe in a path
JSON_TYPES = frozenset({"application/dicom+json", "application/json"})
# Statuses with which a server refuses a search that it does not offer, or that the user may not make.
NO_SEARCH = frozenset({400, 403, 404, 405, 406, 410, 501})
# Statuses with which a server may refuse a store transaction without instances because of its content.
EMPTY_REFUSED = frozenset({400, 409, 411, 415, 422})


class DicomwebSubmitter(Submitter[DicomwebSettings]):
    """Send the instances of jobs to one DICOMweb server over reused connections."""

    name = "dicomweb"
    platform_has_jobs = False

    def __init__(self, settings: DicomwebSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self._reused_connection: DicomwebConnection | None = None
        self._versions: FileVersions = ()  # of the TLS files of the reused connection
        self._calls: Counter[DicomwebConnection] = Counter()  # number of uploads that use each connection
        self._is_open = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Allow calls. The first call opens the connection, so that a failure to open it is reported with a job."""
        self._is_open = True

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            closing = {*self._calls, *([self._reused_connection] if self._reused_connection else [])}
            self._reused_connection = None
        for connection in closing:
            connection.close()

    def create_job(self, job: Job) -> PlatformJob:
        return PlatformJob(job_id=job.run_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Do nothing: a DICOMweb server has no place for the metadata of a job."""

    def upload(self, job: Job, upload: Upload) -> None:
        subject = f"job {job.job_id}: upload of instance {upload.instance.instance_id}"
        with self._connection() as connection:
            with upload.open() as source:
                response = connection.store(StowBody(subject=subject, source=source, size_bytes=upload.size_bytes))
            judgement = judge_store(subject, response, upload.instance.sop_instance_uid)
            if not judgement.is_delivered:
                self._look_up(connection, subject, upload.instance, judgement)
        if judgement.words:
            log.info(
                "instance_delivered_with_status",
                submitter=self.context.name,
                job_id=job.job_id,
                sop_instance_uid=upload.instance.sop_instance_uid,
                status=judgement.words,
            )

    def _connect(self) -> DicomwebConnection:
        # Imported only when needed: the host has this class even if no configuration uses it, and httpcore takes 3 MB.
        from dicom_adapter_delivery.dicomweb_connection import DicomwebConnection

        return DicomwebConnection(self.settings)

    @contextmanager
    def _connection(self) -> Iterator[DicomwebConnection]:
        """Context manager: return the connection with the present TLS files.

        After the files were renewed, the connection with the old ones is closed when no upload uses it any more.
        """
        tls = self.settings.tls
        with self._lock:
            if not self._is_open:
                raise Retriable("the submitter is closed")
            versions = file_versions((tls.ca_file, tls.client_certificate, tls.client_key))
            replaced = None
            if self._reused_connection is None or versions != self._versions:
                replaced = self._reused_connection
                self._reused_connection, self._versions = self._connect(), versions
            connection = self._reused_connection
            self._calls[connection] += 1
        try:
            if replaced is not None:
                self._close_if_replaced(replaced)
            yield connection
        finally:
            with self._lock:
                self._calls[connection] -= 1
            self._close_if_replaced(connection)

    def _close_if_replaced(self, connection: DicomwebConnection) -> None:
        with self._lock:
            if self._calls[connection]:
                return
            del self._calls[connection]
            if connection is self._reused_connection:
                return
        connection.close()

    def _look_up(
        self, connection: DicomwebConnection, subject: str, instance: InstanceStorageInfo, judgement: StowJudgement
    ) -> None:
        """Search for an instance whose outcome is unclear. Raises Retriable or Permanent if it was not found."""
        found, words = None, "it could not be searched for"
        if _has_valid_uids(instance):
            found = contains_instance(connection.search_instance(subject, instance), instance.sop_instance_uid)
            words = "the server does not answer a search for it" if found is None else "the server does not find it"
        if found:
            return
        message = f"{subject}: {judgement.words}; {words}; {judgement.hint}"
        raise Retriable(message) if judgement.is_retriable else Permanent(message)

    def start(self, job: Job) -> None:
        """Do nothing: the instances are delivered."""

    def status(self, job: Job) -> PlatformStatus:  # noqa: ARG002 - every started job is delivered
        return PlatformStatus(state="delivered", finished=True)

    def cancel(self, job: Job) -> None:
        """Do nothing: instances that the server has stored stay there."""

    def certificates(self) -> Iterable[Certificate]:
        return self._certificates() if self.settings.is_secure else ()

    def _certificates(self) -> Iterator[Certificate]:
        yield from certificates_in_file(self.settings.tls.client_certificate, "client-certificate")
        yield from certificates_in_file(self.settings.tls.ca_file, "authority in ca-file", is_authority=True)
        address = urlsplit(self.settings.url)
        if address.hostname:
            yield from certificate_of_server(address.hostname, address.port or HTTPS_PORT)

    def check_connection(self) -> str:
        connection = self._connect()
        try:
            return self._check(connection)
        finally:
            connection.close()

    def _check(self, connection: DicomwebConnection) -> str:
        """Search for any study. If the server offers no search, send a store transaction without instances."""
        subject = "search for a study"
        response = connection.search_any_study(subject)
        if response.status in NO_SEARCH:
            return self._check_storing(connection)
        if not 200 <= response.status < 300:
            raise refusal(subject, response)
        if response.status != HTTPStatus.NO_CONTENT and response.media_type not in JSON_TYPES:
            raise Permanent(
                f"{subject}: the server answered {response.status} without DICOM JSON; "
                "check that url leads to the DICOMweb server itself"
            )
        return f"{self.settings.url} answers"

    def _check_storing(self, connection: DicomwebConnection) -> str:
        subject = "store no instance"
        response = connection.store(StowBody(subject=subject))
        if not self._accepts_storing(response):
            raise refusal(subject, response)
        return f"{self.settings.url} accepts store transactions; it offers no search"

    @staticmethod
    def _accepts_storing(response: DicomwebResponse) -> bool:
        return 200 <= response.status < 300 or response.status in EMPTY_REFUSED


def _has_valid_uids(instance: InstanceStorageInfo) -> bool:
    uids = (instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
    return all(UID.fullmatch(uid) for uid in uids)
