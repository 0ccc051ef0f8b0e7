"""Calls about the files of a job's payload."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.platform_errors import PermanentRefusal, Refusal, invalid_response
from dicom_adapter_clara_client.platform_results import INPUT, MAX_FILES, ListedFile
from dicom_adapter_clara_client.wire.common_pb2 import Identifier
from dicom_adapter_clara_client.wire.payloads_pb2 import (
    PayloadsDeleteRequest,
    PayloadsDetailsRequest,
    PayloadsDownloadRequest,
)


def is_stored(connection: GrpcConnection, subject: str, payload_id: str, name: str, size_bytes: int) -> bool:
    """Return whether the payload has the complete file. Raises a retriable Refusal if listing the files fails.

    `name` is relative to the input folder, as in an upload. In a list, names are relative to the parent of that folder.
    """
    try:
        for file in list_files(connection, subject, payload_id):
            if file.name.lstrip("/") in (name, f"{INPUT}/{name}"):
                return file.size_bytes == size_bytes
    except PermanentRefusal:
        pass  # the caller raises the error of the upload, which is more helpful
    return False


def list_files(connection: GrpcConnection, subject: str, payload_id: str) -> Iterator[ListedFile]:
    """Yield the files of a payload. Raises Refusal."""
    request = PayloadsDetailsRequest(header=HEADER, payload_id=Identifier(value=payload_id))
    for number, answer in enumerate(connection.stream(subject, connection.payloads.Details, request)):
        if number >= MAX_FILES:
            raise invalid_response(subject, f"the platform lists more than {MAX_FILES} files of one payload")
        if answer.HasField("file"):
            yield ListedFile(name=answer.file.name, size_bytes=answer.file.size)


def download(
    connection: GrpcConnection, subject: str, payload_id: str, file: ListedFile, seconds: float
) -> Generator[bytes, None, None]:
    """Yield a file of a payload in pieces; closing the generator cancels the call. Raises Refusal."""
    request = PayloadsDownloadRequest(header=HEADER, payload_id=Identifier(value=payload_id), name=file.name)
    # The platform's text may quote the name of the file, which may contain a patient's id.
    for answer in connection.stream(subject, connection.payloads.Download, request, seconds=seconds, quoting=False):
        yield answer.data


def delete_payload(connection: GrpcConnection, subject: str, payload_id: str) -> None:
    """Delete a payload with its files; a missing payload is no error. Raises Refusal."""
    request = PayloadsDeleteRequest(header=HEADER, payload_id=Identifier(value=payload_id))
    try:
        connection.call(subject, connection.payloads.Delete, request)
    except Refusal as refusal:
        if not refusal.is_missing:
            raise
