"""HTTP calls to the platform: send a request, and return the response or raise Retriable or Permanent.

Whatever the platform sends, a call ends in time, uses limited memory, and does not reveal the token.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Generator, Iterator
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TypeVar

import httpx

from dicom_adapter import Retriable
from dicom_adapter_clara_client.platform_words import one_line
from dicom_adapter_clara_client.rest_errors import LONGEST_HEADER, RestAnswer, refusal
from dicom_adapter_clara_client.rest_request import FileBody, RestRequest
from dicom_adapter_clara_client.rest_settings import ClaraRestSettings
from dicom_adapter_clara_client.rest_transport import FAILURES, Deadline, TimedTransport

USER_AGENT = "dicom-adapter-clara-client"

T = TypeVar("T")


class RestConnection:
    """HTTP client of one platform, with reused connections. Thread-safe."""

    def __init__(self, settings: ClaraRestSettings) -> None:
        """Create the client. Raises Retriable for an unusable certificate file, because it may be replaced."""
        self._settings = settings
        self._endpoint = settings.endpoint.rstrip("/")
        self._deadline = Deadline()
        transport = TimedTransport(self._deadline, _tls(settings), settings.keep_alive, settings.keep_alive_connections)
        self._client = httpx.Client(
            transport=transport,
            timeout=settings.timeout,
            trust_env=False,  # ignore proxies and password files of the environment
            headers=_headers(settings),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # accept no cookies
        )

    def close(self) -> None:
        """Close all connections; running calls fail."""
        self._client.close()

    def send(self, request: RestRequest, *expected: int) -> RestAnswer:
        """Return the response if its status is one of `expected`. Raises Retriable or Permanent otherwise."""
        answer = self.exchange(request)
        if answer.status not in expected:
            raise refusal(request.subject, answer, may_quote=request.may_quote)
        return answer

    def exchange(self, request: RestRequest) -> RestAnswer:
        """Return the response with any status. Raises Retriable if there is no response."""
        is_upload = isinstance(request.body, FileBody)
        seconds = self._settings.upload_timeout if is_upload else self._settings.timeout
        try:
            with self._deadline.within(seconds):
                return self._perform(request)
        except FAILURES as failure:
            # The cause is not chained, because its text may quote headers.
            raise Retriable(f"{request.subject}: {_described(failure, seconds)}") from None

    def _perform(self, request: RestRequest) -> RestAnswer:
        content, headers = _content(request)
        if request.key:
            headers["Idempotency-Key"] = f'"{request.key}"'
        url = self._endpoint + request.path
        with self._client.stream(request.method, url, content=content, headers=headers) as response:
            return self._answer(response, request.longest_answer)

    def download(self, request: RestRequest) -> Generator[bytes, None, None]:
        """Yield a file in pieces; closing the generator ends the call. Raises Retriable or Permanent."""
        seconds = self._settings.download_timeout
        end = time.monotonic() + seconds
        try:
            with self._deadline.until(end):
                response = self._client.send(
                    self._client.build_request("GET", self._endpoint + request.path), stream=True
                )
            try:
                if response.status_code != HTTPStatus.OK:
                    with self._deadline.until(end):
                        answer = self._answer(response, request.longest_answer)
                    raise refusal(request.subject, answer, may_quote=request.may_quote)
                yield from self._pieces(request.subject, response, end)
            finally:
                response.close()
        except FAILURES as failure:
            raise Retriable(f"{request.subject}: {_described(failure, seconds)}") from None

    def _pieces(self, subject: str, response: httpx.Response, end: float) -> Iterator[bytes]:
        if _is_compressed(response):
            raise Retriable(f"{subject}: the response is compressed, which was not requested")
        pieces = response.iter_raw()
        while True:
            with self._deadline.until(end):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    def _answer(self, response: httpx.Response, longest: int) -> RestAnswer:
        body, defect = _read(response, longest)
        secret = self._settings.token or ""
        return RestAnswer(
            status=response.status_code, headers=response.headers, body=body, defect=defect, secret=secret
        )


def _tls(settings: ClaraRestSettings) -> ssl.SSLContext | None:
    if not settings.endpoint.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if settings.ca_file:
        context = _usable("ca-file", settings.ca_file, lambda: ssl.create_default_context(cafile=settings.ca_file))
    certificate = settings.client_certificate
    if certificate:
        # Without a password argument, OpenSSL would ask for a password on the terminal.
        _usable(
            "client-certificate", certificate, lambda: context.load_cert_chain(certificate, settings.client_key, "")
        )
    return context


def _usable(name: str, path: Path, load: Callable[[], T]) -> T:
    try:
        return load()
    except OSError as error:  # ssl.SSLError is an OSError
        reason = error.strerror or type(error).__name__
        raise Retriable(f"{name} = {str(path)!r} cannot be used: {one_line(reason, LONGEST_HEADER)}") from error


def _headers(settings: ClaraRestSettings) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    return headers


def _content(request: RestRequest) -> tuple[bytes | Iterator[bytes] | None, dict[str, str]]:
    if request.body is None:
        return None, {}
    if isinstance(request.body, FileBody):
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(request.body.size_bytes)}
        return request.body.pieces(request.subject), headers
    # Sorted: a repeated request with the same idempotency key must have the same body.
    return json.dumps(request.body, sort_keys=True).encode(), {"Content-Type": "application/json"}


def _is_compressed(response: httpx.Response) -> bool:
    return bool(response.headers.get("content-encoding", "identity").lower() != "identity")


def _read(response: httpx.Response, longest: int) -> tuple[bytes, str]:
    """Return the body and its defect. The status is valid even if the body was lost."""
    if _is_compressed(response):
        return b"", "its body is compressed, which was not requested"
    pieces: list[bytes] = []
    length = 0
    try:
        for piece in response.iter_raw():
            length += len(piece)
            if length > longest:
                return b"", f"its body is longer than {longest} bytes"
            pieces.append(piece)
    except FAILURES as failure:
        return b"", f"its body is incomplete ({type(failure).__name__})"
    return b"".join(pieces), ""


def _described(failure: Exception, seconds: float) -> str:
    """Describe a failure without quoting the request."""
    kind = type(failure).__name__
    if kind.endswith("Timeout"):
        return f"the platform took too long ({kind}, limit {seconds:g} s)"
    if kind == "ConnectError":
        return f"no connection to the platform ({one_line(str(failure), LONGEST_HEADER)})"
    if kind == "RemoteProtocolError":
        return f"the platform closed the connection or does not speak HTTP ({one_line(str(failure), LONGEST_HEADER)})"
    return f"the connection to the platform failed ({kind})"
