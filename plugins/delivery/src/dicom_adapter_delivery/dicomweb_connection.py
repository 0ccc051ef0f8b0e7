"""HTTP calls to a DICOMweb server: store one instance (STOW-RS), and search for it (QIDO-RS).

A call ends in time and uses limited memory, whatever the server sends. httpcore is the lower layer of httpx: it follows
no redirects, keeps no cookies, and reads no proxies or passwords from the environment.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import httpcore

from dicom_adapter import InstanceStorageInfo, Retriable
from dicom_adapter_delivery.dicomweb_messages import DicomwebResponse, StowBody
from dicom_adapter_delivery.dicomweb_network import NETWORK_FAILURES, CallLimit, LimitedNetwork
from dicom_adapter_delivery.dicomweb_settings import TOKEN, DicomwebSettings

LONGEST_BODY_BYTES = 1_000_000  # the response about one instance has a few hundred bytes
LONGEST_TOKEN_BYTES = 16_384  # of the file with the bearer token
LONGEST_QUOTE = 200  # characters of a network error in a message
CONNECTIONS = 1000  # far more than the concurrent calls, which the core limits
DICOM_JSON = "application/dicom+json"

T = TypeVar("T")


class DicomwebConnection:
    """HTTP client of one DICOMweb server, with reused connections. Thread-safe."""

    def __init__(self, settings: DicomwebSettings) -> None:
        """Create the client. Raises Retriable for an unusable certificate file, because it may be replaced."""
        self._settings = settings
        self._url = settings.url.rstrip("/")
        self._limit = CallLimit()
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls(settings),
            max_connections=CONNECTIONS,
            keepalive_expiry=settings.keep_alive,
            network_backend=LimitedNetwork(self._limit),
        )

    def close(self) -> None:
        """Close all connections; running calls fail."""
        self._pool.close()

    def store(self, body: StowBody) -> DicomwebResponse:
        """Send an instance with STOW-RS (PS3.18 section 10.5). Raises Retriable if there is no response."""
        headers = {"Content-Type": body.media_type, "Content-Length": str(body.length)}
        return self._call(
            body.subject, "POST", "/studies", headers, body.pieces(), seconds=self._settings.upload_timeout
        )

    def search_instance(self, subject: str, instance: InstanceStorageInfo) -> DicomwebResponse:
        """Search for an instance with QIDO-RS (PS3.18 section 10.6). Its UIDs must be valid."""
        path = f"/studies/{instance.study_instance_uid}/series/{instance.series_instance_uid}/instances"
        query = urlencode({"SOPInstanceUID": instance.sop_instance_uid})
        return self._call(subject, "GET", f"{path}?{query}", seconds=self._settings.timeout)

    def search_any_study(self, subject: str) -> DicomwebResponse:
        """Search without conditions for one study. The body of the response is not read."""
        return self._call(subject, "GET", "/studies?limit=1", seconds=self._settings.timeout, needs_body=False)

    def _call(
        self,
        subject: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: Iterator[bytes] | None = None,
        *,
        seconds: float,
        needs_body: bool = True,
    ) -> DicomwebResponse:
        sent = [*_FIXED_HEADERS.items(), *self._authorization(subject).items(), *(headers or {}).items()]
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._settings.timeout)
        try:
            with (
                self._limit.of(seconds),
                self._pool.stream(
                    method, f"{self._url}{path}", headers=sent, content=content, extensions={"timeout": timeouts}
                ) as response,
            ):
                return _read(response) if needs_body else _without_body(response)
        except NETWORK_FAILURES as failure:
            # The cause is not chained, because its text may quote headers.
            raise Retriable(f"{subject}: {_words(failure, seconds)}") from None

    def _authorization(self, subject: str) -> Mapping[str, str]:
        settings = self._settings
        if settings.user is not None:
            pair = f"{settings.user}:{settings.password or ''}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        token = _token_in(settings.token_file, subject) if settings.token_file else settings.token
        return {"Authorization": f"Bearer {token}"} if token else {}


_FIXED_HEADERS = {"User-Agent": "dicom-adapter-delivery", "Accept": DICOM_JSON, "Accept-Encoding": "identity"}


def _token_in(path: Path, subject: str) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(LONGEST_TOKEN_BYTES).decode("ascii", "replace").strip()
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise Retriable(f"{subject}: token-file = {str(path)!r} cannot be read ({reason})") from failure
    if not TOKEN.fullmatch(token):
        raise Retriable(f"{subject}: token-file = {str(path)!r} must contain only a bearer token (RFC 6750)")
    return token


def _tls(settings: DicomwebSettings) -> ssl.SSLContext | None:
    if not settings.is_secure:
        return None
    tls, certificate = settings.tls, settings.tls.client_certificate
    context = ssl.create_default_context()
    if tls.ca_file:
        context = _usable("ca-file", tls.ca_file, lambda: ssl.create_default_context(cafile=tls.ca_file))
    if certificate:
        # Without a password argument, OpenSSL would prompt for one on the terminal.
        _usable("client-certificate", certificate, lambda: context.load_cert_chain(certificate, tls.client_key, ""))
    return context


def _usable(name: str, path: Path, load: Callable[[], T]) -> T:
    try:
        return load()
    except OSError as failure:  # ssl.SSLError is an OSError
        reason = _one_line(failure.strerror or type(failure).__name__)
        raise Retriable(f"tls: {name} = {str(path)!r} cannot be used: {reason}") from failure


def _without_body(response: httpcore.Response) -> DicomwebResponse:
    headers = {name.decode("ascii", "replace").lower(): value.decode("latin-1") for name, value in response.headers}
    return DicomwebResponse(status=response.status, headers=headers)


def _read(response: httpcore.Response) -> DicomwebResponse:
    """Return the response with its body, or with the defect of its body."""
    head = _without_body(response)
    if head.headers.get("content-encoding", "identity").lower() != "identity":
        return _with_defect(head, "its body is compressed, which was not requested")
    pieces: list[bytes] = []
    length = 0
    try:
        for piece in response.iter_stream():
            length += len(piece)
            if length > LONGEST_BODY_BYTES:
                return _with_defect(head, f"its body is longer than {LONGEST_BODY_BYTES} bytes")
            pieces.append(piece)
    except NETWORK_FAILURES as failure:
        return _with_defect(head, f"its body is incomplete ({type(failure).__name__})")
    return DicomwebResponse(status=head.status, headers=head.headers, body=b"".join(pieces))


def _with_defect(response: DicomwebResponse, defect: str) -> DicomwebResponse:
    return DicomwebResponse(status=response.status, headers=response.headers, defect=defect)


def _words(failure: Exception, seconds: float) -> str:
    """Describe a failure without quoting the request."""
    kind = type(failure).__name__
    if isinstance(failure, httpcore.TimeoutException):
        return f"the server took too long ({kind}; the limit for the whole call is {seconds:g} s)"
    if isinstance(failure, httpcore.ConnectError):
        return f"no connection to the server ({_one_line(str(failure))})"
    if isinstance(failure, httpcore.RemoteProtocolError):
        return f"the server closed the connection or does not speak HTTP ({_one_line(str(failure))})"
    return f"the connection to the server failed ({kind})"


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * LONGEST_QUOTE]).split())
    return line if len(line) <= LONGEST_QUOTE else line[: LONGEST_QUOTE - 1] + "…"
