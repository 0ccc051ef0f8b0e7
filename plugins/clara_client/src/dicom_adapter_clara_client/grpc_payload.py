"""What the platform has of a job's files."""

from __future__ import annotations

from dicom_adapter_clara_client.grpc_calls import HEADER, GrpcConnection
from dicom_adapter_clara_client.platform_errors import PermanentRefusal
from dicom_adapter_clara_client.wire.common_pb2 import Identifier
from dicom_adapter_clara_client.wire.payloads_pb2 import PayloadsDetailsRequest

INPUT = "input"  # names count from here in an upload, from the folder above in a list


def is_stored(connection: GrpcConnection, subject: str, payload_id: str, name: str, size_bytes: int) -> bool:
    """Whether the file is in the payload, and whole, as far as the platform tells. Raises Refusal when it may later."""
    request = PayloadsDetailsRequest(header=HEADER, payload_id=Identifier(value=payload_id))
    try:
        for answer in connection.stream(subject, connection.payloads.Details, request):
            if answer.HasField("file") and answer.file.name.lstrip("/") in (name, f"{INPUT}/{name}"):
                return bool(answer.file.size == size_bytes)
    except PermanentRefusal:
        pass  # what the upload itself was told says more
    return False
