"""gRPC calls to the platform. Each call ends within its deadline: with a response, Retriable or Permanent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, cast

import grpc

from dicom_adapter import Retriable, Secret
from dicom_adapter_clara_client.grpc_channel import USER_AGENT, open_channel
from dicom_adapter_clara_client.grpc_settings import ClaraGrpcSettings
from dicom_adapter_clara_client.grpc_upload import OutgoingFile
from dicom_adapter_clara_client.platform_errors import (
    Quoting,
    Refusal,
    invalid_response,
    refused_by_code,
    refused_by_status,
)
from dicom_adapter_clara_client.wire.common_pb2 import RequestHeader, ResponseHeader, Version
from dicom_adapter_clara_client.wire.jobs_pb2_grpc import JobsStub
from dicom_adapter_clara_client.wire.payloads_pb2 import PayloadsUploadRequest, PayloadsUploadResponse
from dicom_adapter_clara_client.wire.payloads_pb2_grpc import PayloadsStub

# NVIDIA's client 0.8.1 sends this API version, and platforms accept it.
HEADER = RequestHeader(api_version=Version(major=0, minor=6, patch=0), user_agent=USER_AGENT)
FAILURES = (grpc.RpcError, grpc.FutureCancelledError)


class GrpcAnswer(Protocol):
    """Response of the platform with a header."""

    @property
    def header(self) -> ResponseHeader: ...


RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT", bound=GrpcAnswer)


class GrpcConnection:
    """gRPC connection to one platform. Thread-safe."""

    def __init__(self, settings: ClaraGrpcSettings) -> None:
        self._channel = open_channel(settings)
        self.jobs = JobsStub(self._channel)
        self.payloads = PayloadsStub(self._channel)
        self._deadline = settings.deadline
        self._upload_deadline = settings.upload_deadline
        self._metadata = tuple((key, str(value)) for key, value in settings.metadata.items())
        self._secrets = tuple(str(value) for value in settings.metadata.values() if isinstance(value, Secret))
        self._is_closed = False

    def close(self) -> None:
        """Cancel running calls and disconnect."""
        self._is_closed = True
        self._channel.close()

    def call(
        self,
        subject: str,
        method: grpc.UnaryUnaryMultiCallable[RequestT, AnswerT],
        request: RequestT,
        *,
        quoting: bool = True,
    ) -> AnswerT:
        """Return the response to one request. Raises Refusal, whose message quotes the platform only with `quoting`."""
        allowed = Quoting(secrets=self._secrets, anything=quoting)
        try:
            answer = method(request, timeout=self._deadline, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise _refused(subject, failure, allowed) from None
        except ValueError:
            self._check_open(subject)
            raise
        return _checked(subject, answer, allowed)

    def stream(
        self,
        subject: str,
        method: grpc.UnaryStreamMultiCallable[RequestT, AnswerT],
        request: RequestT,
        *,
        seconds: float | None = None,
        quoting: bool = True,
    ) -> Iterator[AnswerT]:
        """Yield the responses to one request; closing the iterator cancels the call. Raises Refusal.

        `seconds` is the limit for all responses, instead of the deadline of a call.
        """
        allowed = Quoting(secrets=self._secrets, anything=quoting)
        try:
            answers = method(request, timeout=seconds or self._deadline, metadata=self._metadata)
        except ValueError:
            self._check_open(subject)
            raise
        try:
            for answer in answers:
                yield _checked(subject, answer, allowed)
        except FAILURES as failure:
            raise _refused(subject, failure, allowed) from None
        finally:
            answers.cancel()

    def send(self, subject: str, outgoing: OutgoingFile) -> PayloadsUploadResponse:
        """Send one file. Raises Refusal, or the error of reading the file."""
        allowed = Quoting(secrets=self._secrets)
        requests: Iterator[PayloadsUploadRequest] = outgoing.requests()
        try:
            call = self.payloads.Upload.future(requests, timeout=self._upload_deadline, metadata=self._metadata)
        except ValueError:
            self._check_open(subject)
            raise
        outgoing.set_call(call)
        try:
            answer: PayloadsUploadResponse = call.result()
        except FAILURES as failure:
            if outgoing.failure is not None:
                raise outgoing.failure from None
            raise _refused(subject, failure, allowed) from None
        _checked(subject, answer, allowed)
        if not outgoing.is_whole:
            raise invalid_response(subject, "the platform confirmed the upload before the whole file was sent")
        return answer

    def _check_open(self, subject: str) -> None:
        """Raise Retriable if the connection is closed; gRPC itself would raise ValueError."""
        if self._is_closed:
            raise Retriable(f"{subject}: the submitter is closed") from None


def _checked(subject: str, answer: AnswerT | None, quoting: Quoting) -> AnswerT:
    if answer is None:  # gRPC's types do not show that a successful call may have no response
        raise invalid_response(subject, "the platform ended the call without a response")
    if answer.header.code < 0:
        raise refused_by_code(subject, answer.header.code, answer.header.messages, quoting)
    return answer


def _refused(subject: str, failure: Exception, quoting: Quoting) -> Refusal:
    """Return the error for a failed call. The caller must not chain `failure`, which may quote the request."""
    if isinstance(failure, grpc.FutureCancelledError):
        return refused_by_status(subject, grpc.StatusCode.CANCELLED, "cancelled", quoting)
    call = cast(Any, failure)  # every RpcError of a call is also a grpc.Call
    return refused_by_status(subject, call.code(), call.details() or "", quoting)
