"""Sessions of browsers: their cookies, their CSRF tokens, and their end."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_adapter.web.access.principal import Principal, Role
from dicom_adapter.web.access.sessions import COOKIE, LIFETIME_S, MAX_SESSIONS, SECURE_COOKIE, Sessions, cookie_header

ANNA = Principal(name="anna", role=Role.OPERATOR)


@pytest.fixture
def sessions(monotonic: Any) -> Sessions:
    return Sessions(monotonic)


def cookie(session_id: str, name: str = COOKIE) -> list[bytes]:
    return [f"other=1; {name}={session_id}".encode()]


def test_a_session_is_found_by_its_cookie_until_its_end(sessions: Sessions, monotonic: Any) -> None:
    session_id, session = sessions.begin(ANNA, is_secure=False)
    assert session is sessions.find(cookie(session_id))
    monotonic.now += LIFETIME_S
    assert None is sessions.find(cookie(session_id))


def test_a_session_ends_when_its_user_signs_out(sessions: Sessions) -> None:
    """The other sessions of the same principal continue."""
    first, _session = sessions.begin(ANNA, is_secure=False)
    second, other = sessions.begin(ANNA, is_secure=False)
    sessions.end(cookie(first))
    assert (None, other) == (sessions.find(cookie(first)), sessions.find(cookie(second)))


def test_a_session_over_tls_needs_the_cookie_with_the_prefix(sessions: Sessions) -> None:
    """A page of another host of the domain can set the cookie without the prefix, and an attacker can read it."""
    session_id, session = sessions.begin(ANNA, is_secure=True)
    assert (session, None) == (
        sessions.find(cookie(session_id, SECURE_COOKIE)),
        sessions.find(cookie(session_id)),
    )


@pytest.mark.parametrize("value", [b"", b"dicom-adapter", b"dicom-adapter=", b"dicom-adapter=x", b"\xff=\xfe;;=", b";"])
def test_other_cookies_are_no_session(sessions: Sessions, value: bytes) -> None:
    sessions.begin(ANNA, is_secure=False)
    assert None is sessions.find([value])


def test_the_number_of_sessions_is_bounded(sessions: Sessions) -> None:
    """The oldest session ends."""
    first, _session = sessions.begin(ANNA, is_secure=False)
    for _number in range(MAX_SESSIONS):
        last, _session = sessions.begin(ANNA, is_secure=False)
    assert (True, False) == (sessions.find(cookie(first)) is None, sessions.find(cookie(last)) is None)


def test_a_change_needs_the_csrf_token_of_the_session(sessions: Sessions) -> None:
    _id, session = sessions.begin(ANNA, is_secure=False)
    _id, other = sessions.begin(ANNA, is_secure=False)
    token = session.csrf_token.encode()
    assert session.allows([token])
    refused = [[], [b""], [other.csrf_token.encode()], [token, token], [token + b" "]]
    assert [] == [values for values in refused if session.allows(values)]


def test_scripts_of_pages_and_other_sites_do_not_get_the_cookie() -> None:
    plain, secure = cookie_header("x", is_secure=False), cookie_header("x", is_secure=True)
    assert f"{COOKIE}=x; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict" == plain
    assert f"{SECURE_COOKIE}=x; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure" == secure
    assert "Max-Age=0" in cookie_header("", is_secure=True)
