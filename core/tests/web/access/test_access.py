"""Tokens with roles, sessions of browsers with CSRF tokens, and the events of all of them."""

from __future__ import annotations

from typing import Any

import pytest

HERE = "http://127.0.0.1"
WRONG = "wrong-0123456789abcdef"


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "read", "change", "of_plugin"),
    [("token", 200, 201, 200), ("anna", 200, 201, 200), ("wall", 200, 403, 403)],
)
def test_the_role_of_a_token_decides_what_it_may_do(
    access_site: Any, bearer: Any, name: str, read: int, change: int, of_plugin: int
) -> None:
    """Routes of plugins need an operator. Handlers get the name of the token.

    Verified to fail when the routes of plugins have no guard.
    """
    client = access_site.connect()
    response = client.get("/things", headers=bearer(name))
    assert (read, name) == (response.status_code, response.text)
    assert change == client.post("/things", headers=bearer(name)).status_code
    assert of_plugin == client.get("/mine/mine-only", headers=bearer(name)).status_code


def test_the_session_of_a_request_shows_its_principal(access_site: Any, bearer: Any) -> None:
    response = access_site.connect().get("/api/session", headers=bearer("wall"))
    assert {"name": "wall", "role": "viewer", "csrfToken": ""} == response.json()


def test_a_local_program_is_an_operator_without_a_token(make_access_site: Any) -> None:
    """There is nothing to sign in to. A token that is sent nevertheless has no effect."""
    client = make_access_site(with_tokens=False).connect()
    assert {"name": "local", "role": "operator", "csrfToken": ""} == client.get("/api/session").json()
    assert 201 == client.post("/things", headers={"Authorization": "Bearer x"}).status_code
    assert 409 == client.post("/api/session", json={"token": WRONG}).status_code
    assert 403 == client.get("/static/style.css", headers={"Host": "evil.example"}).status_code


# --- sessions of browsers ---------------------------------------------------------------------------------------------


def test_a_browser_signs_in_and_out(access_site: Any) -> None:
    browser, headers = access_site.sign_in("anna")
    assert "anna" == browser.get("/things").text
    assert ("anna", headers["X-CSRF-Token"]) == (
        (session := browser.get("/api/session").json())["name"],
        session["csrfToken"],
    )
    cookie = "; ".join(f"{name}={value}" for name, value in dict(browser.cookies).items())
    assert 204 == browser.delete("/api/session", headers=headers).status_code
    assert {} == dict(browser.cookies)
    assert 401 == access_site.connect().get("/things", headers={"Cookie": cookie}).status_code


def test_a_change_by_a_browser_needs_the_csrf_token(access_site: Any) -> None:
    """The token of another session is not accepted. Without this check, a page of a subdomain could make changes.

    Verified to fail when the header is not compared.
    """
    browser, headers = access_site.sign_in("anna")
    _other, others = access_site.sign_in("anna")
    for wrong in ({}, others, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "x"}):
        for method, path in (("POST", "/things"), ("DELETE", "/things"), ("DELETE", "/api/session")):
            response = browser.request(method, path, headers=wrong)
            assert (403, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert 201 == browser.post("/things", headers=headers).status_code


def test_a_browser_of_a_viewer_changes_nothing(access_site: Any) -> None:
    browser, headers = access_site.sign_in("wall")
    assert (200, 403) == (browser.get("/things").status_code, browser.post("/things", headers=headers).status_code)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": f"{HERE}:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_foreign_pages_are_refused_even_with_the_cookie_and_the_csrf_token(
    access_site: Any, headers: dict[str, str]
) -> None:
    """Cookies do not depend on the port, so a page of another server on the same machine would have the cookie."""
    browser, own = access_site.sign_in("anna")
    assert 403 == browser.post("/things", headers={**own, **headers}).status_code
    assert 403 == browser.post("/api/session", json={"token": WRONG}, headers=headers).status_code
    assert 403 == browser.get("/static/style.css", headers=headers).status_code


def test_responses_allow_no_page_of_another_origin_to_read_them(access_site: Any, bearer: Any) -> None:
    """There are no CORS headers, not even for a request that asks for them."""
    headers = {"Origin": HERE, "Access-Control-Request-Method": "POST", **bearer("anna")}
    for method in ("GET", "OPTIONS", "POST"):
        response = access_site.connect().request(method, "/things", headers=headers)
        assert [] == [name for name in response.headers if name.startswith("access-control-")]


def test_the_cookie_is_secure_if_the_page_was_loaded_over_tls(access_site: Any) -> None:
    """A proxy ends TLS. The header Origin of the sign-in shows the scheme that the browser used."""
    for origin, expected in ((None, False), ("http://adapter.example", False), ("https://adapter.example", True)):
        browser = access_site.connect("http://adapter.example")
        headers = {} if origin is None else {"Origin": origin}
        response = browser.post("/api/session", json={"token": "anna-0123456789abcdef"}, headers=headers)
        cookie = response.headers["set-cookie"]
        assert expected is cookie.startswith("__Host-")
        assert (expected, True, True) == ("; Secure" in cookie, "HttpOnly" in cookie, "SameSite=Strict" in cookie)


def test_the_token_in_a_header_counts_before_the_cookie(access_site: Any, bearer: Any) -> None:
    """A change with a token needs no CSRF token: no foreign page can send the header Authorization."""
    browser, _headers = access_site.sign_in("wall")
    assert "anna" == browser.post("/things", headers=bearer("anna")).text
    assert 401 == browser.get("/things", headers=bearer(WRONG)).status_code


@pytest.mark.parametrize("value", ["x\r\nSet-Cookie: a=b", "\u0000", "é", "a" * 5000])
def test_a_token_with_special_characters_is_only_wrong(access_site: Any, value: str) -> None:
    response = access_site.connect().post("/api/session", json={"token": value})
    assert (401, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert "set-cookie" not in response.headers


# --- public paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/static/style.css", 200),
        ("/static/../things", 401),
        ("/static//things", 401),
        ("/static/.hidden", 401),
        ("/staticx", 401),
        ("/sign-in/x", 401),
        ("/things", 401),
    ],
)
def test_only_public_paths_need_no_token(access_site: Any, path: str, status: int) -> None:
    assert status == access_site.connect().get(path).status_code


def test_a_browser_without_a_session_is_redirected_to_the_page_for_signing_in(access_site: Any) -> None:
    """Other clients get 401. The path cannot break out of the header."""
    browser = access_site.connect()
    page = {"Accept": "text/html,*/*"}
    response = browser.get("/jobs/a%0d%0aSet-Cookie:%20x", headers=page, follow_redirects=False)
    assert (303, "/sign-in?next=/jobs/a%0D%0ASet-Cookie%3A%20x") == (response.status_code, response.headers["location"])
    assert 401 == browser.get("/jobs", follow_redirects=False).status_code
    assert 401 == browser.post("/jobs", headers=page, follow_redirects=False).status_code


# --- wrong tokens -----------------------------------------------------------------------------------------------------


def test_wrong_tokens_are_slowed_and_the_right_one_still_works(access_site: Any, bearer: Any) -> None:
    """Attempts by header and by sign-in count together. Requests without a token and sessions do not wait.

    Verified to fail when only sign-ins count.
    """
    browser, _headers = access_site.sign_in("anna")
    client = access_site.connect()
    for _number in range(10):
        assert 401 == client.get("/things", headers=bearer(WRONG)).status_code
        assert 401 == client.post("/api/session", json={"token": WRONG}).status_code
    assert 2.0 == access_site.waits[-1]
    waited = len(access_site.waits)
    assert 200 == client.get("/things", headers=bearer("anna")).status_code
    assert waited + 1 == len(access_site.waits)
    assert (200, 401) == (browser.get("/things").status_code, client.get("/things").status_code)
    assert waited + 1 == len(access_site.waits)


def test_every_sign_in_and_refusal_is_an_event(access_site: Any, bearer: Any, capsys: Any) -> None:
    """Events of wrong tokens become rarer, so that an attack does not fill the ledger. No token is logged."""
    browser, headers = access_site.sign_in("anna")
    browser.delete("/api/session", headers=headers)
    for _number in range(100):
        access_site.connect().get("/things", headers=bearer(WRONG))
    found = [(event.event, event.detail.get("by"), event.detail.get("failures")) for event in access_site.events]
    assert [
        ("signed_in", "anna", None),
        ("signed_out", "anna", None),
        *(("sign_in_refused", None, count) for count in (1, 10, 100)),
    ] == found
    assert {"testclient"} == {event.detail["peer"] for event in access_site.events}
    logged = capsys.readouterr().out
    assert ("http_signed_in" in logged, "http_token_refused" in logged) == (True, True)
    assert WRONG not in logged
    assert "anna-0123456789abcdef" not in logged
