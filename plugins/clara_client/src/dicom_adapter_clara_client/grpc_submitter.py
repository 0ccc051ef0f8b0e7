"""The `clara-grpc` submitter: submits jobs to NVIDIA's Clara Deploy Platform.

The host has this class even if no configuration uses it. So the libraries of gRPC, which take 15 MB of memory, are
imported when the submitter is opened. `grpc_platform` describes the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from dicom_adapter import (
    Certificate,
    Job,
    Output,
    PlatformJob,
    PlatformStatus,
    Submitter,
    SubmitterContext,
    Upload,
)
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings, ClaraTls
from dicom_adapter_clara_client.platform_certificates import platform_certificates

if TYPE_CHECKING:
    from dicom_adapter_clara_client.grpc_platform import GrpcPlatform


class ClaraGrpcSubmitter(Submitter[ClaraGrpcSettings]):
    """Submit jobs to one platform over one gRPC connection."""

    name = "clara-grpc"

    def __init__(self, settings: ClaraGrpcSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self.follows_jobs = settings.follow
        self._open_platform: GrpcPlatform | None = None

    def open(self) -> None:
        self._open_platform = self._connect()

    def certificates(self) -> Iterable[Certificate]:
        tls = ClaraTls() if self.settings.tls is True else self.settings.tls
        if not tls:
            return ()
        url = f"https://{self.settings.endpoint}"
        return platform_certificates(url, tls.ca_file, tls.client_certificate, tls.server_name)

    def check_connection(self) -> str:
        platform = self._connect()
        try:
            platform.check_connection()
        finally:
            platform.close()
        return f"{self.settings.endpoint} answers over gRPC"

    def close(self) -> None:
        if self._open_platform is not None:
            self._open_platform.close()

    def create_job(self, job: Job) -> PlatformJob:
        return self._platform.create_job(job)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        self._platform.add_metadata(job, metadata)

    def upload(self, job: Job, upload: Upload) -> None:
        self._platform.upload(job, upload)

    def start(self, job: Job) -> None:
        self._platform.start(job)

    def status(self, job: Job) -> PlatformStatus:
        return self._platform.status(job)

    def cancel(self, job: Job) -> None:
        self._platform.cancel(job)

    def results(self, job: Job) -> Iterable[Output]:
        return self._platform.results(job)

    def clean_up(self, job: Job) -> None:
        self._platform.clean_up(job)

    def _connect(self) -> GrpcPlatform:
        from dicom_adapter_clara_client.grpc_platform import GrpcPlatform

        return GrpcPlatform(self.settings)

    @property
    def _platform(self) -> GrpcPlatform:
        assert self._open_platform is not None, "the submitter is not open"
        return self._open_platform
