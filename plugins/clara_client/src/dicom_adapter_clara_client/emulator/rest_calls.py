"""The steps of a REST call: check the token, apply faults, check the idempotency key, work, record, respond."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from attrs import define, evolve, field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dicom_adapter_clara_client.emulator.faults import CallFault, CallFaultKind, Faults
from dicom_adapter_clara_client.emulator.record import CallLog, CallOutcome, CallRecord
from dicom_adapter_clara_client.emulator.rest_faults import (
    LostAnswer,
    TruncatedAnswer,
    problem_of_code_fault,
    problem_of_status_fault,
)
from dicom_adapter_clara_client.emulator.rest_keys import parse_key
from dicom_adapter_clara_client.emulator.rest_operations import Operation
from dicom_adapter_clara_client.emulator.rest_problems import (
    MEDIA_TYPE,
    MEDIA_TYPE_WRONG,
    TOO_LARGE,
    UNAUTHORIZED,
    ProblemAnswer,
    problem_of,
)
from dicom_adapter_clara_client.emulator.rest_reply import Reply
from dicom_adapter_clara_client.emulator.rest_request import LARGEST_BODY_BYTES, OperationRequest, json_body
from dicom_adapter_clara_client.emulator.rules import ClaraError
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform

PROTOCOL = "rest"
UPLOAD = "Payloads.Upload"
CUT_OFF = "aborted by the client"  # status in the record of the call
IDS = {"job": "jobId", "payload": "payloadId", "pipeline": "pipelineId"}


@define
class RestCall:
    """One call in progress."""

    name: str
    request: Request
    parsed: OperationRequest
    body: AsyncIterator[bytes]
    received_bytes: int = 0
    worked: bool = True  # the platform performs the call
    fault: CallFault | None = None
    ids: dict[str, str] = field(factory=dict)

    def has(self, *kinds: CallFaultKind) -> bool:
        """Return whether a fault of one of these kinds is applied to the call."""
        return self.fault is not None and self.fault.kind in kinds

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the rest of the body. Raises ClientDisconnect if the client disconnects."""
        async for piece in self.body:
            self.received_bytes += len(piece)
            if piece:
                yield piece


Work = Callable[[RestCall], Awaitable[Response]]


class RestCalls:
    """Handler of calls, from the request to the response."""

    def __init__(
        self, platform: EmulatedPlatform, faults: Faults, log: CallLog, token: str | None, clock: Callable[[], datetime]
    ) -> None:
        self.platform = platform
        self._faults = faults
        self._log = log
        self._token = token
        self._clock = clock

    def endpoint(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """Return the Starlette endpoint of an operation with a small body."""

        async def work(call: RestCall) -> Response:
            key = parse_key(call.parsed.headers.get("idempotency-key")) if operation.has_key else ""
            return response_of(await run_in_threadpool(self._act, operation, call.parsed, key))

        async def endpoint(request: Request) -> Response:
            return await self.perform(operation.name, request, work, has_json=True)

        return endpoint

    async def perform(self, name: str, request: Request, work: Work, *, has_json: bool = False) -> Response:
        """Perform a call and return its response. The call is recorded before the response is sent."""
        call = RestCall(name, request, _parse(request), request.stream())
        call.ids.update(
            {IDS[part]: value[:64].lower() for part, value in call.parsed.path_parameters.items() if part in IDS}
        )
        try:
            return await self._perform(call, work, has_json)
        except ClientDisconnect:
            self._record(call, CallOutcome.FAILED, status=CUT_OFF)
            return Response()  # the client is disconnected
        except _Reset:
            self._record(call, CallOutcome.LOST)
            return LostAnswer()

    async def _perform(self, call: RestCall, work: Work, has_json: bool) -> Response:
        try:
            self._authorize(call)
            if has_json:
                await _read_json(call)
            await self._apply_fault(call)
            return self._answered(call, await work(call))
        except (ClaraError, ProblemAnswer) as refusal:
            async for _piece in call.pieces():
                pass  # a client that is still sending would not read the response
            return self._refused(call, refusal if isinstance(refusal, ProblemAnswer) else problem_of(refusal))

    def _act(self, operation: Operation, request: OperationRequest, key: str) -> Reply:
        if not key:
            return operation.act(self.platform, request)
        return self.platform.keys.answer(key, request.fingerprint(), lambda: operation.act(self.platform, request))

    def _authorize(self, call: RestCall) -> None:
        if self._token is None:
            return
        authorization = call.parsed.headers.get("authorization", "")
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            call.worked = False
            raise ProblemAnswer(UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})

    async def _apply_fault(self, call: RestCall) -> None:
        """Take the fault of this call, if there is one, and apply it before the work.

        `_answered` applies the faults of responses after the work.
        """
        named = call.parsed.body.get("pipelineId")
        if isinstance(named, str):
            call.ids.setdefault("pipelineId", named[:64].lower())
        call.fault = self._faults.take(PROTOCOL, call.name, self.platform.pipeline_of(call.ids))
        if call.fault is None:
            return
        call.worked = not call.has(CallFaultKind.STATUS, CallFaultKind.CODE, CallFaultKind.RESET)
        await asyncio.sleep(call.fault.seconds)
        if call.has(CallFaultKind.STATUS):
            raise problem_of_status_fault(call.fault)
        if call.has(CallFaultKind.CODE):
            raise problem_of_code_fault(call.fault)
        if call.has(CallFaultKind.RESET):
            raise _Reset
        if call.has(CallFaultKind.TRUNCATE) and call.name == UPLOAD:
            call.worked = False
            async for _piece in call.pieces():
                raise _Reset  # after the first piece

    def _answered(self, call: RestCall, response: Response) -> Response:
        sent = int(response.headers.get("content-length", 0))
        if call.has(CallFaultKind.DROP, CallFaultKind.TRUNCATE, CallFaultKind.GARBAGE):
            self._record(call, CallOutcome.LOST)
            return (
                TruncatedAnswer(response)
                if call.has(CallFaultKind.TRUNCATE)
                else LostAnswer(response, garbage=call.has(CallFaultKind.GARBAGE))
            )
        self._collect_ids(call, response)
        self._record(call, CallOutcome.DONE, sent_bytes=sent)
        return response

    def _collect_ids(self, call: RestCall, response: Response) -> None:
        if response.media_type == "application/json":
            document = json.loads(bytes(response.body))
            call.ids.update({name: document[name] for name in IDS.values() if isinstance(document.get(name), str)})

    def _refused(self, call: RestCall, problem: ProblemAnswer) -> Response:
        if call.has(CallFaultKind.DROP, CallFaultKind.GARBAGE, CallFaultKind.TRUNCATE) and call.worked:
            return self._answered(call, problem_response(problem, call.parsed.path))
        outcome = CallOutcome.REFUSED if problem.code is not None else CallOutcome.FAILED
        self._record(call, outcome, code=problem.code or 0, status=str(problem.status))
        return problem_response(problem, call.parsed.path)

    def _record(
        self, call: RestCall, outcome: CallOutcome, *, sent_bytes: int = 0, code: int = 0, status: str = ""
    ) -> None:
        self._log.add(
            CallRecord(
                time=self._clock(),
                protocol=PROTOCOL,
                call=call.name,
                ids=dict(call.ids),
                received_bytes=call.received_bytes,
                sent_bytes=sent_bytes,
                outcome=outcome,
                code=code,
                status=status,
                fault=call.fault.kind.value if call.fault else "",
                worked=call.worked,
            )
        )


class _Reset(Exception):
    """Raised to reset the connection."""


def _parse(request: Request) -> OperationRequest:
    return OperationRequest(
        method=request.method,
        path=request.url.path,
        path_parameters=request.path_params,
        query=request.query_params.multi_items(),
        headers=dict(request.headers),
    )


async def _read_json(call: RestCall) -> None:
    pieces = []
    async for piece in call.pieces():
        if call.received_bytes > LARGEST_BODY_BYTES:
            raise ProblemAnswer(TOO_LARGE, f"the body must have at most {LARGEST_BODY_BYTES} bytes")
        pieces.append(piece)
    data = b"".join(pieces)
    media_type = call.request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if data.strip() and media_type != "application/json":
        raise ProblemAnswer(MEDIA_TYPE_WRONG)
    call.parsed = evolve(call.parsed, body=json_body(data))


def response_of(reply: Reply) -> Response:
    """Return the Starlette response of a reply."""
    if reply.body is None:
        return Response(status_code=reply.status, headers=dict(reply.headers))
    if isinstance(reply.body, str):
        return Response(reply.body, reply.status, dict(reply.headers), "text/plain")
    return Response(json.dumps(dict(reply.body)), reply.status, dict(reply.headers), "application/json")


def problem_response(problem: ProblemAnswer, path: str) -> Response:
    """Return the Starlette response of a problem."""
    return Response(json.dumps(problem.document(path)), problem.status, problem.headers, MEDIA_TYPE)
