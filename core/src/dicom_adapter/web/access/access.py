"""Identify the principal of a request: a client with a token, a browser that has signed in, or a local program.

Every sign-in, sign-out and wrong token is an event of the ledger with the name or the address, and a line of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus

import structlog
from attrs import field, frozen

from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.clock import Clock, SystemClock
from dicom_adapter.web.access.headers import Headers
from dicom_adapter.web.access.principal import LOCAL, Principal
from dicom_adapter.web.access.sessions import Session, Sessions
from dicom_adapter.web.access.throttle import Throttle, TooManyAttempts
from dicom_adapter.web.access.tokens import Tokens

log = structlog.get_logger("dicom_adapter.http")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110 section 9.2.1: these change nothing
RETRY_AFTER = b"2"  # seconds
NO_AE_TITLE = ""  # AE title of events that concern no AE title


@frozen(kw_only=True)
class AccessRefusal:
    """The response to a request without access."""

    status: HTTPStatus
    detail: str
    headers: Mapping[bytes, bytes] = field(factory=dict)


class AccessRefused(Exception):
    """A request has no access."""

    def __init__(self, refusal: AccessRefusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


NO_TOKEN = AccessRefusal(
    status=HTTPStatus.UNAUTHORIZED,
    detail="The request needs the token of the server, in the header Authorization: Bearer <token>.",
    headers={b"www-authenticate": b"Bearer"},
)
NO_CSRF_TOKEN = AccessRefusal(
    status=HTTPStatus.FORBIDDEN,
    detail="A change by a signed-in browser needs the session's token in the header X-CSRF-Token.",
)
SLOWED = AccessRefusal(
    status=HTTPStatus.TOO_MANY_REQUESTS,
    detail="Too many wrong tokens came from this address. Try again in a few seconds.",
    headers={b"retry-after": RETRY_AFTER},
)


@frozen(kw_only=True)
class Requester:
    """The principal of a request, and its session if the request is from a signed-in browser."""

    principal: Principal
    session: Session | None = None


def _ignore(_event: Event) -> None: ...


class Access:
    """Access to the server, as the table [http] configures it. The event loop of the server uses it."""

    def __init__(
        self,
        config: HttpConfig,
        record: Callable[[Event], None] = _ignore,
        *,
        clock: Clock | None = None,
        throttle: Throttle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`record` queues an event to be written to the ledger; it returns at once."""
        self._tokens = Tokens(config)
        self._record = record
        self._clock = clock or SystemClock()
        self._throttle = throttle or Throttle()
        self._sleep = sleep
        self.sessions = Sessions()

    @property
    def needs_token(self) -> bool:
        """True if clients need a token; otherwise only local programs have access."""
        return bool(self._tokens)

    async def identify(self, headers: Headers, peer: str, method: str) -> Requester:
        """Return the principal of a request, and its session. Raises AccessRefused."""
        if not self.needs_token:
            return Requester(principal=LOCAL)
        if headers[b"authorization"]:
            return Requester(principal=await self.check(_bearer(headers[b"authorization"]), peer))
        session = self.sessions.find(headers[b"cookie"]) if headers[b"cookie"] else None
        if session is None:
            raise AccessRefused(NO_TOKEN)
        if method not in SAFE_METHODS and not session.allows(headers[b"x-csrf-token"]):
            raise AccessRefused(NO_CSRF_TOKEN)
        return Requester(principal=session.principal, session=session)

    async def check(self, token: bytes, peer: str) -> Principal:
        """Return the principal of a token; slow down addresses that send wrong ones. Raises AccessRefused."""
        try:
            with self._throttle.attempt(peer) as seconds:
                if seconds:
                    await self._sleep(seconds)
                principal = self._tokens.find(token) if token else None
                failures = self._throttle.fail(peer) if principal is None else 0
        except TooManyAttempts:
            raise AccessRefused(SLOWED) from None
        if principal is None:
            self._report_wrong_token(peer, failures)
            raise AccessRefused(NO_TOKEN)
        return principal

    async def sign_in(self, token: str, peer: str, *, is_secure: bool) -> tuple[str, Session]:
        """Begin the session of a browser. Return the value of its cookie and the session. Raises AccessRefused."""
        principal = await self.check(token.encode("utf-8", "replace"), peer)
        log.info("http_signed_in", by=principal.name, role=principal.role.value, peer=peer)
        self._event("signed_in", {"by": principal.name, "role": principal.role.value, "peer": peer})
        return self.sessions.begin(principal, is_secure=is_secure)

    def sign_out(self, session: Session, cookie_headers: Sequence[bytes], peer: str) -> None:
        """End the session of a browser."""
        self.sessions.end(cookie_headers)
        log.info("http_signed_out", by=session.principal.name, peer=peer)
        self._event("signed_out", {"by": session.principal.name, "peer": peer})

    def _report_wrong_token(self, peer: str, failures: int) -> None:
        """Log the failure. The 1st, 10th, 100th … failure of an address is an event, so that events stay few."""
        log.warning("http_token_refused", peer=peer, failures=failures)
        if failures == 10 ** (len(str(failures)) - 1):
            self._event("sign_in_refused", {"peer": peer, "failures": failures})

    def _event(self, name: str, detail: Mapping[str, object]) -> None:
        self._record(Event(at=self._clock.now(), event=name, ae_title=NO_AE_TITLE, detail=detail))


def _bearer(authorization: Sequence[bytes]) -> bytes:
    """Return the token in the header Authorization; b"" if it has another form."""
    if len(authorization) != 1:
        return b""
    scheme, _, given = authorization[0].partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""
