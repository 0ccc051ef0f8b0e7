"""A platform of minimal cost: accepts any job and discards its files.

Usage: `python upload_sink.py grpc` or `python upload_sink.py rest`. The platform answers all calls up to the start of a
job, and reads uploads without parsing them. Its cost is the minimum for a server in Python.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import grpc

from dicom_adapter_clara_client.wire import jobs_pb2, payloads_pb2
from dicom_adapter_clara_client.wire.common_pb2 import Identifier

CALLS_AT_ONCE = 16  # number of threads of the gRPC server
BUFFER_BYTES = 1 << 20  # read from a connection at a time
JOBS = "nvidia.clara.platform.Jobs"
PAYLOADS = "nvidia.clara.platform.Payloads"


def serve_grpc() -> None:
    """Serve until stdin is closed."""
    server = grpc.server(ThreadPoolExecutor(CALLS_AT_ONCE), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                JOBS,
                {
                    "Create": _unary(jobs_pb2.JobsCreateRequest, _created),
                    "AddMetadata": _unary(jobs_pb2.JobsAddMetadataRequest, _same_job),
                    "Start": _unary(jobs_pb2.JobsStartRequest, _started),
                },
            ),
            # Without a deserializer, messages remain bytes.
            grpc.method_handlers_generic_handler(PAYLOADS, {"Upload": grpc.stream_unary_rpc_method_handler(_discard)}),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _print_address(f"127.0.0.1:{port}")
    sys.stdin.read()
    server.stop(None).wait()


def _unary(request: Any, answer: Callable[[Any], Any]) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        lambda asked, _context: answer(asked).SerializeToString(), request_deserializer=request.FromString
    )


def _discard(pieces: Iterator[bytes], _context: Any) -> bytes:
    for _piece in pieces:
        pass
    return payloads_pb2.PayloadsUploadResponse().SerializeToString()


def _created(_request: Any) -> Any:
    return jobs_pb2.JobsCreateResponse(job_id=Identifier(value=uuid4().hex), payload_id=Identifier(value=uuid4().hex))


def _same_job(request: Any) -> Any:
    return jobs_pb2.JobsAddMetadataResponse(job_id=request.job_id)


def _started(_request: Any) -> Any:
    return jobs_pb2.JobsStartResponse(state=jobs_pb2.JOB_STATE_RUNNING)


def serve_rest() -> None:
    """Serve until stdin is closed. The threads end with the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    _print_address(f"http://127.0.0.1:{listener.getsockname()[1]}")
    sys.stdin.read()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _peer = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve_connection, args=(connection,), daemon=True).start()


def _serve_connection(connection: socket.socket) -> None:
    """Answer requests one after another, until the client closes the connection."""
    buffer = bytearray(BUFFER_BYTES)
    with connection:
        while head := _head(connection):
            first, *lines = head[0].decode("latin-1").split("\r\n")
            lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")]
            left = int(lengths[0]) - len(head[1]) if lengths else 0
            while left > 0:
                left -= connection.recv_into(buffer, min(left, BUFFER_BYTES)) or left
            connection.sendall(_answer(*first.split(" ")[:2]))


def _head(connection: socket.socket) -> tuple[bytes, bytes] | None:
    """Read the next request.

    Returns the head and the part of the body that was read, or None at the end of the connection.
    """
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return None
        received += piece
    head, _blank, body = received.partition(b"\r\n\r\n")
    return head, body


def _answer(method: str, path: str) -> bytes:
    if method == "PUT":
        return b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    job_id = path.split("/")[3].partition(":")[0] if path.count("/") > 2 else "1"
    status = "200 OK" if path.endswith("/metadata") else "202 Accepted" if path.endswith(":start") else "201 Created"
    job = {"jobId": job_id, "payloadId": "1", "state": "pending", "status": "healthy", "metadata": {}}
    body = json.dumps(job).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _print_address(where: str) -> None:
    sys.stdout.write(f"{where}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"grpc": serve_grpc, "rest": serve_rest}[sys.argv[1]]()
