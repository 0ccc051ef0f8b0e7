"""Interceptor of every gRPC call: applies faults, converts refusals to header codes, and records calls.

A refusal is a response header with a negative code and the gRPC status OK; on a server stream it is in the first
message. A lost connection is emulated by the status UNAVAILABLE, which a client reports in that case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from threading import Event
from typing import Any, NoReturn

import grpc
from attrs import define, field
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallOutcome, CallRecord
from dicom_adapter_clara_client.emulator.rules import ClaraError
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform, utc_now
from dicom_adapter_clara_client.wire.common_pb2 import ResponseHeader

PROTOCOL = "grpc"
IDS = {"job_id": "jobId", "payload_id": "payloadId", "pipeline_id": "pipelineId"}
UNREADABLE = b"\xff\xff\xff\xff"  # not a valid protobuf message
STATUS_OF_HTTP = {  # as in gRPC's documentation; all other HTTP statuses are UNKNOWN
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


@define
class _GrpcCall:
    """One call in progress."""

    name: str  # such as "Jobs.Create"
    many_requests: bool  # whether it is a client stream
    many_answers: bool  # whether it is a server stream
    log: CallLog
    clock: Callable[[], datetime]
    context: grpc.ServicerContext
    ids: dict[str, str] = field(factory=dict)  # jobId, payloadId, pipelineId
    received_bytes: int = 0
    sent_bytes: int = 0
    code: int = 0  # of the response header
    worked: bool = True  # the platform performs the call
    fault: CallFault | None = None
    recorded: bool = False  # in the log

    def watch_requests(self, requests: Iterable[Message]) -> Iterator[Message]:
        for request in requests:
            self.received_bytes += request.ByteSize()
            self._collect_ids(request)
            yield request

    def watch_answers(self, answers: Iterable[Any]) -> Iterator[Any]:
        for answer in answers:
            self.sent_bytes += answer.ByteSize()
            self._collect_ids(answer)
            self.code = self.code or answer.header.code
            yield answer

    def _collect_ids(self, message: Message) -> None:
        """Store the ids from the first message that has them."""
        for name, recorded_name in IDS.items():
            if name in message.DESCRIPTOR.fields_by_name and message.HasField(name):
                self.ids.setdefault(recorded_name, getattr(message, name).value[:64].lower())

    def record(self, outcome: CallOutcome, status: str = "") -> None:
        self.recorded = True
        self.log.add(
            CallRecord(
                time=self.clock(),
                protocol=PROTOCOL,
                call=self.name,
                ids=self.ids,
                received_bytes=self.received_bytes,
                sent_bytes=self.sent_bytes,
                outcome=outcome,
                code=self.code,
                status=status,
                fault=self.fault.kind.value if self.fault else "",
                worked=self.worked,
            )
        )

    def end(self, outcome: CallOutcome, status: str, message: str) -> NoReturn:
        self.record(outcome, status)
        self.context.abort(grpc.StatusCode[status], message)

    def lose(self) -> NoReturn:
        self.end(CallOutcome.LOST, "UNAVAILABLE", "Socket closed")


class GrpcCalls(grpc.ServerInterceptor):
    """Interceptor of all calls of a server."""

    def __init__(
        self, platform: EmulatedPlatform, faults: Faults, log: CallLog, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._platform = platform
        self._faults = faults
        self._log = log
        self._clock = clock
        self._stopping = Event()

    def stop(self) -> None:
        """End the calls that are being delayed."""
        self._stopping.set()

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        serialize = handler.response_serializer

        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            requests = request if handler.request_streaming else iter([request])
            answers = self._answers(handler_call_details.method, handler, requests, context)
            return answers if handler.response_streaming else next(iter(list(answers)))

        return _factory_like(handler)(
            behave,
            request_deserializer=handler.request_deserializer,
            response_serializer=lambda answer: answer if isinstance(answer, bytes) else serialize(answer),
        )

    def _answers(
        self, method: str, handler: Any, requests: Iterable[Message], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        """Yield each response after the next one is known, so that the call is recorded before the last is sent."""
        service, _, name = method.strip("/").rpartition("/")
        call = _GrpcCall(
            name=f"{service.rpartition('.')[2]}.{name}",
            many_requests=handler.request_streaming,
            many_answers=handler.response_streaming,
            log=self._log,
            clock=self._clock,
            context=context,
        )
        refused = _header_only(service, name)
        try:
            remaining = call.watch_requests(requests)
            first = next(remaining, None)
            call.fault = self._faults.take(PROTOCOL, call.name, self._platform.pipeline_of(call.ids))
            answers = self._apply_before(call, refused) or _perform(handler, first, remaining, context, refused)
            answers = _apply_after(call, call.watch_answers(answers))
            pending = next(answers, None)
            for answer in answers:
                yield pending
                pending = answer
            call.record(_outcome(call))
            if pending is not None:
                yield pending
        finally:
            if not call.recorded:
                call.record(CallOutcome.FAILED, "CANCELLED" if not context.is_active() else "UNKNOWN")

    def _apply_before(self, call: _GrpcCall, refused: Callable[[int, Iterable[str]], Any]) -> list[Any] | None:
        """Apply a fault before the work. Return None to continue, or the response; or end the call."""
        fault = call.fault
        if fault is None:
            return None
        if self._stopping.wait(fault.seconds):
            call.worked = False
            call.lose()
        cut_off = fault.kind is CallFaultKind.RESET or (fault.kind is CallFaultKind.TRUNCATE and call.many_requests)
        call.worked = not cut_off and fault.kind not in (CallFaultKind.STATUS, CallFaultKind.CODE)
        if fault.kind is CallFaultKind.STATUS:
            call.end(CallOutcome.FAILED, _status_name(fault.status), "; ".join(fault.messages))
        if cut_off:
            call.lose()
        return [refused(fault.code, fault.messages)] if fault.kind is CallFaultKind.CODE else None


def _perform(
    handler: Any,
    first: Message | None,
    others: Iterator[Message],
    context: grpc.ServicerContext,
    refused: Callable[[int, Iterable[str]], Any],
) -> Iterator[Any]:
    """Yield the responses of the platform."""
    try:
        if handler.response_streaming:
            yield from handler.unary_stream(first, context)
        elif handler.request_streaming:
            yield handler.stream_unary(_chain(first, others), context)
        else:
            yield handler.unary_unary(first, context)
    except ClaraError as error:
        yield refused(error.code, error.messages)


def _chain(first: Message | None, others: Iterator[Message]) -> Iterator[Message]:
    if first is not None:
        yield first
        yield from others


def _apply_after(call: _GrpcCall, answers: Iterator[Any]) -> Iterator[Any]:
    """Apply a fault after the work: yield the responses, changed, or end the call."""
    kind = call.fault.kind if call.fault else CallFaultKind.DELAY
    if kind is CallFaultKind.DROP:
        for _ in answers:
            pass
        call.lose()
    elif kind is CallFaultKind.GARBAGE:
        for _ in answers:
            pass
        yield UNREADABLE
    elif kind is CallFaultKind.TRUNCATE:
        yield from _truncated(call, list(answers))
    else:
        yield from answers


def _truncated(call: _GrpcCall, answers: list[Any]) -> Iterator[Any]:
    """Truncate a response: drop a stream's last message, half of a download's only message, or half of the bytes."""
    if not call.many_answers:
        whole = answers[0].SerializeToString()
        yield whole[: len(whole) // 2]
    elif len(answers) == 1 and call.name == "Payloads.Download":
        answers[0].data = answers[0].data[: len(answers[0].data) // 2]
        yield answers[0]
    else:
        yield from answers[:-1]


def _outcome(call: _GrpcCall) -> CallOutcome:
    if call.fault and call.fault.kind in (CallFaultKind.GARBAGE, CallFaultKind.TRUNCATE):
        return CallOutcome.LOST
    return CallOutcome.REFUSED if call.code < 0 else CallOutcome.DONE


def _header_only(service: str, name: str) -> Callable[[int, Iterable[str]], Any]:
    """Return a factory of responses of a method that have only a header, with a code and messages."""
    method = Default().FindServiceByName(service).methods_by_name[name]
    answer: Any = GetMessageClass(method.output_type)
    return lambda code, messages: answer(header=ResponseHeader(code=code, messages=messages))


def _factory_like(handler: Any) -> Any:
    """Return the factory of handlers of the same kind."""
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler
    return grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler


def _status_name(status: str | int) -> str:
    if isinstance(status, int):
        return STATUS_OF_HTTP.get(status, "UNKNOWN")
    return status if status in grpc.StatusCode.__members__ and status != "OK" else "UNKNOWN"
