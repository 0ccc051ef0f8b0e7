"""What the HTTP server answers, to whom, and what a plugin's handlers may do in it."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen
from litestar import get, post
from litestar.params import JSONBody

from dicom_adapter import Refused, Retriable
from dicom_adapter.host.http.guard import is_local
from dicom_adapter.host.http.health import Health, Reason

TOKEN = "0123456789abcdef"
PATIENT = "PID-4711"


@frozen
class Order:
    count: int


@post("/orders")
async def order(data: JSONBody[Order]) -> Order:
    return data


def raising(failure: Exception) -> Any:
    @get("/fail", sync_to_thread=True)
    def fail() -> None:
        raise failure

    return fail


def test_what_a_plugin_brings_lies_below_its_name(client_of: Any) -> None:
    """And is described in the OpenAPI document, beside the adapter's own."""
    client = client_of(mine=[order])
    assert {"count": 3} == client.post("/mine/orders", json={"count": 3}).json()
    assert ["/health", "/mine/orders"] == sorted(client.get("/openapi.json").json()["paths"])


def test_health_is_unavailable_when_it_is_red(client_of: Any) -> None:
    """With the reasons by name; green and yellow are fine."""
    red = Health(health="red", service="running", problems=[Reason(level="red", part="AE title A", reason="stopped")])
    answer = client_of(health=red).get("/health")
    assert (503, "AE title A") == (answer.status_code, answer.json()["problems"][0]["part"])
    assert (200, "green") == ((answer := client_of().get("/health")).status_code, answer.json()["health"])


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda client: client.get("/nowhere"), 404),
        (lambda client: client.get("/mine/../../etc/passwd"), 404),
        (lambda client: client.put("/health"), 405),
        (lambda client: client.post("/mine/orders", json={"count": "many"}), 400),
        (lambda client: client.post("/mine/orders", content=b"{"), 400),
        (lambda client: client.post("/mine/orders", content=b" " * (2**20 + 1)), 413),
        (lambda client: client.post("/mine/orders", content=iter([b" " * 2**19] * 3)), 413),
    ],
)
def test_every_error_is_a_problem(client_of: Any, request_of: Any, status: int) -> None:
    """With the members of RFC 9457, whoever has found the fault."""
    answer = request_of(client_of(mine=[order]))
    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert (status, {"type", "title", "status", "detail"}) == (
        answer.json()["status"],
        answer.json().keys() - {"errors"},
    )


@pytest.mark.parametrize(
    ("failure", "status", "detail"),
    [
        (Refused("there is no such study"), 409, "there is no such study"),
        (Retriable("the service stops"), 503, "the service stops"),
        (
            KeyError(PATIENT),
            500,
            "This is a bug of the adapter or of a plugin. The log of the adapter shows the location.",
        ),
    ],
)
def test_what_a_handler_raises_becomes_a_problem(
    client_of: Any, failure: Exception, status: int, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody meant to happen is logged by kind and place, and its message goes nowhere."""
    answer = client_of(mine=[raising(failure)]).get("/mine/fail")
    assert (status, detail) == (answer.status_code, answer.json()["detail"])
    said = capsys.readouterr().out
    assert (status == 500, False) == ("KeyError" in said, PATIENT in said)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/mine/orders", "/nowhere"])
def test_with_a_token_nothing_is_answered_without_it(client_of: Any, authorization: str, path: str) -> None:
    """Not even whether there is such a path."""
    client = client_of(token=TOKEN, host="adapter.example", mine=[order])
    answer = client.get(path, headers={"Authorization": authorization.encode("latin-1")})
    assert (401, "Bearer") == (answer.status_code, answer.headers["www-authenticate"])
    assert "application/problem+json" == answer.headers["content-type"]


def test_the_token_opens(client_of: Any) -> None:
    """Whatever name the server was called by; the document says that a token is needed."""
    client = client_of(token=TOKEN, host="adapter.example")
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert 200 == client.get("/health", headers=headers).status_code
    document = client.get("/openapi.json", headers=headers).json()
    assert {"type": "http", "scheme": "bearer"} == document["components"]["securitySchemes"]["token"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8042", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8042", True),
        ("127.9.9.9", True),
        ("[::1]:8042", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1", False),
        ("", False),
        ("[", False),
    ],
)
def test_without_a_token_a_web_page_cannot_get_in_by_a_name_of_its_own(host: str, expected: bool) -> None:
    """DNS rebinding: the browser says by which name it came."""
    assert expected is is_local(host.encode())


def test_a_foreign_name_is_refused(client_of: Any) -> None:
    """With a problem, before anything else is looked at."""
    answer = client_of(host="evil.example").get("/health")
    assert (403, "application/problem+json") == (answer.status_code, answer.headers["content-type"])


@pytest.mark.parametrize("name", ["openapi.json", "Mine", "a b", "../x", "mine"])
def test_what_cannot_be_mounted_costs_no_other_plugin(
    client_of: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that is no path of its own, or what is no handler, is logged."""
    client = client_of(**{name: ["no handler"] if name == "mine" else [order], "other": [order]})
    assert 201 == client.post("/other/orders", json={"count": 1}).status_code
    assert "http_mount_failed" in capsys.readouterr().out
