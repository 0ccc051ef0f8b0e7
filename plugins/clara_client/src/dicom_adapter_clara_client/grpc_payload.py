"""Query of a job's files on the platform."""

from __future__ import annotations

from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.platform_errors import PermanentRefusal
from dicom_adapter_clara_client.wire.common_pb2 import Identifier
from dicom_adapter_clara_client.wire.payloads_pb2 import PayloadsDetailsRequest

INPUT = "input"  # names are relative to this folder in an upload, and to its parent in a list


def is_stored(connection: GrpcConnection, subject: str, payload_id: str, name: str, size_bytes: int) -> bool:
    """Return whether the payload has the complete file. Raises a retriable Refusal if the files are not listed."""
    request = PayloadsDetailsRequest(header=HEADER, payload_id=Identifier(value=payload_id))
    try:
        for answer in connection.stream(subject, connection.payloads.Details, request):
            if answer.HasField("file") and answer.file.name.lstrip("/") in (name, f"{INPUT}/{name}"):
                return bool(answer.file.size == size_bytes)
    except PermanentRefusal:
        pass  # the caller raises the error of the upload, which is more helpful
    return False
