"""A web page in a browser on this machine cannot use the API: host names, origins and content types."""

from __future__ import annotations

from typing import Any

import pytest
from litestar import delete, post
from litestar.params import JSONBody

from dicom_adapter.web.http.web_pages import is_local

TOKEN = "0123456789abcdef"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
HERE = "http://127.0.0.1"


@post("/jobs")
async def compose(data: JSONBody[dict[str, int]]) -> dict[str, int]:
    return data


@post("/empty")
async def post_nothing() -> None: ...


@delete("/all")
async def clear() -> None: ...


HANDLERS = [compose, post_nothing, clear]
ROUTES = [
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("POST", "/mine/jobs"),
    ("POST", "/mine/empty"),
    ("DELETE", "/mine/all"),
    ("OPTIONS", "/mine/jobs"),
]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8042", True),
        ("LOCALHOST", True),
        ("localhost:", True),
        ("127.0.0.1:8042", True),
        ("127.9.9.9", True),
        ("[::1]:8042", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
        ("[", False),
        ("[::1]evil.example", False),
        ("[::1", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("localhost:80@evil.example", False),
        ("localhost:evil.example", False),
        ("localhost:80:80", False),
        ("user@localhost", False),
        ("localhost/evil", False),
        ("localhost, evil.example", False),
        ("127.0.0.1\n", False),
        ("localhost\xe9", False),
    ],
)
def test_without_a_token_only_local_host_names_are_accepted(host: str, expected: bool) -> None:
    """The check prevents DNS rebinding: the browser of an attacked user sends the attacker's host name.

    Verified to fail when the text before the first colon is compared.
    """
    assert expected is is_local(host.encode("latin-1"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:8443"},
        {"Origin": f"{HERE}:8043"},
        {"Origin": f"{HERE}.evil.example"},
        {"Origin": f"{HERE}, http://evil.example"},
        {"Origin": "file://"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "new-value"},
        {"Origin": HERE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_requests_of_foreign_web_pages_are_forbidden(
    client_of: Any, token: str | None, headers: dict[str, str]
) -> None:
    """Browsers send these headers, and no page can change them. All routes are protected, with or without a token.

    Verified to fail without the check of either header.
    """
    client = client_of(token=token, mine=HANDLERS)
    for method, path in ROUTES:
        body = {"json": {"a": 1}} if path == "/mine/jobs" else {}
        response = client.request(method, path, headers={**headers, **(AUTHORIZED if token else {})}, **body)
        assert (403, "application/problem+json") == (response.status_code, response.headers["content-type"])


def test_a_second_origin_does_not_hide_a_foreign_one(client_of: Any) -> None:
    """Every `Origin` header is checked."""
    headers = [("Origin", "http://evil.example"), ("Origin", HERE)]
    assert 403 == client_of(mine=HANDLERS).post("/mine/empty", headers=headers).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": HERE},
        {"Origin": f"{HERE}:80"},
        {"Origin": HERE, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_requests_of_programs_and_of_pages_of_this_server_are_accepted(client_of: Any, headers: dict[str, str]) -> None:
    """`none` is a request that the user entered in the browser."""
    assert 201 == client_of(mine=HANDLERS).post("/mine/jobs", json={"a": 1}, headers=headers).status_code


def test_a_page_of_this_server_behind_a_proxy_with_tls_is_accepted(client_of: Any) -> None:
    """The proxy changes the scheme, and keeps the Host header."""
    client = client_of(token=TOKEN, host="adapter.example", mine=HANDLERS)
    headers = {"Origin": "https://Adapter.example", **AUTHORIZED}
    assert 201 == client.post("/mine/jobs", json={"a": 1}, headers=headers).status_code


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json, text/plain",
        "text/x+json",
        "\xe9",
    ],
)
def test_only_json_is_accepted(client_of: Any, content_type: str | None) -> None:
    """Browsers send some other types to any server without its consent (simple requests of the Fetch standard).

    Verified to fail when one of the types is accepted.
    """
    client = client_of(mine=HANDLERS)
    headers = {} if content_type is None else {"Content-Type": content_type.encode("latin-1")}
    for path in ("/mine/jobs", "/mine/empty"):
        for body in (b'{"a": 1}', iter([b'{"a": 1}'])):  # the second body is sent in chunks
            response = client.post(path, content=body, headers=headers)
            assert (415, "application/problem+json") == (response.status_code, response.headers["content-type"])
            assert "application/json" == response.headers["accept"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON ; charset=utf-8", "application/x.y+json"]
)
def test_json_is_accepted_with_parameters_and_as_a_suffix(client_of: Any, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert 201 == client_of(mine=HANDLERS).post("/mine/jobs", content=b'{"a": 1}', headers=headers).status_code


def test_a_request_without_a_body_needs_no_content_type(client_of: Any) -> None:
    client = client_of(mine=HANDLERS)
    assert (201, 204) == (client.post("/mine/empty").status_code, client.delete("/mine/all").status_code)
