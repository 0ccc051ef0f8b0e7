"""Sessions of browsers, in the memory of the host: a restart of the HTTP server ends all of them.

A browser sends the cookie of a session with every request to this server, also with a request that a page of another
site has caused. So each change needs the session's CSRF token in a header, too, which only pages of this server have.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie

from attrs import field, frozen

from dicom_adapter.web.access.principal import Principal

LIFETIME_S = 12 * 3600.0  # a session ends after this time, even if it is used
MAX_SESSIONS = 1000  # number of sessions; above it, the oldest session ends
ID_BYTES = 32
COOKIE = "dicom-adapter"
# With this prefix, browsers accept the cookie only over TLS, from this host, and for all paths (RFC 6265bis 4.1.3.2).
SECURE_COOKIE = f"__Host-{COOKIE}"


@frozen(kw_only=True)
class Session:
    """A browser that has signed in."""

    principal: Principal
    csrf_token: str = field(repr=False)  # value of the header X-CSRF-Token
    expires_at: float  # monotonic time
    is_secure: bool  # the browser signed in over TLS

    def allows(self, csrf_tokens: Sequence[bytes]) -> bool:
        """Return whether the values of the header X-CSRF-Token allow a change."""
        return len(csrf_tokens) == 1 and hmac.compare_digest(csrf_tokens[0], self.csrf_token.encode())


class Sessions:
    """All sessions. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # by digest of the id, the oldest first

    def begin(self, principal: Principal, *, is_secure: bool) -> tuple[str, Session]:
        """Begin a session; return its id, which is the value of the cookie, and the session."""
        session_id = secrets.token_urlsafe(ID_BYTES)
        session = Session(
            principal=principal,
            csrf_token=secrets.token_urlsafe(ID_BYTES),
            expires_at=self._monotonic() + LIFETIME_S,
            is_secure=is_secure,
        )
        with self._lock:
            self._sessions[_digest(session_id)] = session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return session_id, session

    def find(self, cookie_headers: Sequence[bytes]) -> Session | None:
        """Return the session of a request, from the values of its header Cookie; None if it has no valid session."""
        session_id, is_secure = session_id_in(cookie_headers)
        with self._lock:
            session = self._sessions.get(_digest(session_id))
            if session is not None and session.expires_at <= self._monotonic():
                del self._sessions[_digest(session_id)]
                session = None
        return session if session is not None and session.is_secure is is_secure else None

    def end(self, cookie_headers: Sequence[bytes]) -> None:
        """End the session of a request, if it has one."""
        session_id, _is_secure = session_id_in(cookie_headers)
        with self._lock:
            self._sessions.pop(_digest(session_id), None)


def session_id_in(cookie_headers: Sequence[bytes]) -> tuple[str, bool]:
    """Return the id of a session in a request, and whether the cookie is one for TLS. The id is "" if there is none."""
    try:
        cookies = SimpleCookie(b"; ".join(cookie_headers).decode("latin-1"))
    except CookieError:
        return "", False
    if SECURE_COOKIE in cookies:
        return cookies[SECURE_COOKIE].value, True
    return (cookies[COOKIE].value, False) if COOKIE in cookies else ("", False)


def cookie_header(session_id: str, *, is_secure: bool) -> str:
    """Return the header Set-Cookie that begins a session; with an empty id, the header that deletes the cookie."""
    lifetime = int(LIFETIME_S) if session_id else 0
    name, secure = (SECURE_COOKIE, "; Secure") if is_secure else (COOKIE, "")
    return f"{name}={session_id}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Strict{secure}"


def _digest(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode("utf-8", "replace")).digest()
