"""Checks of every gRPC call before its method runs: the token, and the messages of the request."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

MESSAGE_S = 10.0  # time limit for the arrival of a call's message, which has 1 MiB at most

Continue = Callable[[grpc.HandlerCallDetails], Any]


class TokenCheck(grpc.ServerInterceptor):
    """Interceptor that accepts only calls with the token. The comparison takes constant time."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        # gRPC calls a handler of a stream before the first message arrives, so no thread waits for a message.
        self._refusal: Any = grpc.stream_stream_rpc_method_handler(_refuse)

    def intercept_service(self, continuation: Continue, details: grpc.HandlerCallDetails) -> Any:
        values = [value for name, value in details.invocation_metadata if name == "authorization"]
        given = str(values[0]).encode() if len(values) == 1 else b""
        return continuation(details) if hmac.compare_digest(given, self._expected) else self._refusal


def _refuse(_requests: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, "the metadata must have authorization: Bearer <token>")


class MessageCheck(grpc.ServerInterceptor):
    """Interceptor that refuses messages that cannot be decoded, and ends calls whose message does not arrive.

    Without this check, gRPC reports such a message as an error of the server, and a thread waits without a limit for a
    message that does not arrive.
    """

    def intercept_service(self, continuation: Continue, details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)
        return None if handler is None else _checked(handler)


def _checked(handler: Any) -> Any:
    """Return a handler that receives the messages as bytes, decodes them, and calls `handler`."""

    def decode(message: bytes, context: grpc.ServicerContext) -> Any:
        try:
            return handler.request_deserializer(message)
        except DecodeError:
            _abort(context, "the message cannot be decoded: its bytes are not a message of this method")

    def respond(messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        if handler.request_streaming:
            method = handler.stream_stream or handler.stream_unary
            return method((decode(message, context) for message in messages), context)
        method = handler.unary_stream or handler.unary_unary
        return method(decode(_only_message(messages, context), context), context)

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(respond, None, handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(respond, None, handler.response_serializer)


def _only_message(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """Return the only message of a call. The call is cancelled if the message does not arrive in time."""
    timer = threading.Timer(MESSAGE_S, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        return next(messages)
    except StopIteration:
        _abort(context, "the call has no message")
    finally:
        timer.cancel()


def _abort(context: grpc.ServicerContext, text: str) -> NoReturn:
    context.set_trailing_metadata((("problem", "invalid"),))
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
    raise AssertionError  # `abort` has raised
