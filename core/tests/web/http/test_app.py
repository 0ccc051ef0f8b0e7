"""The HTTP application: routes of the adapter, access control, and the handlers of plugins."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from attrs import frozen
from litestar import get, post
from litestar.params import JSONBody

from dicom_adapter import Refused, Retriable
from dicom_adapter.web.http.health import Health, Reason

TOKEN = "0123456789abcdef"
PATIENT = "PID-4711"
JSON = {"Content-Type": "application/json"}


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


def test_routes_of_a_plugin_are_below_its_name(client_of: Any) -> None:
    """The OpenAPI document describes the plugin's routes together with the adapter's."""
    client = client_of(mine=[order])
    assert {"count": 3} == client.post("/mine/orders", json={"count": 3}).json()
    assert ["/health", "/mine/orders"] == sorted(client.get("/openapi.json").json()["paths"])


def test_health_is_unavailable_when_it_is_red(client_of: Any) -> None:
    """The response has the reasons by name. Green and yellow have status 200."""
    red = Health(health="red", service="running", problems=[Reason(level="red", part="AE title A", reason="stopped")])
    response = client_of(health=red).get("/health")
    assert (503, "AE title A") == (response.status_code, response.json()["problems"][0]["part"])
    assert (200, "green") == ((response := client_of().get("/health")).status_code, response.json()["health"])


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda client: client.get("/nowhere"), 404),
        (lambda client: client.get("/mine/../../etc/passwd"), 404),
        (lambda client: client.put("/health"), 405),
        (lambda client: client.post("/mine/orders", json={"count": "many"}), 400),
        (lambda client: client.post("/mine/orders", content=b"{", headers=JSON), 400),
        (lambda client: client.post("/mine/orders", content=b" " * (2**20 + 1), headers=JSON), 413),
        (lambda client: client.post("/mine/orders", content=iter([b" " * 2**19] * 3), headers=JSON), 413),
    ],
)
def test_every_error_is_problem_json(client_of: Any, request_of: Any, status: int) -> None:
    """The response has the members of RFC 9457, for errors of the server and of handlers."""
    response = request_of(client_of(mine=[order]))
    assert (status, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert (status, {"type", "title", "status", "detail"}) == (
        response.json()["status"],
        response.json().keys() - {"errors"},
    )


@pytest.mark.parametrize(
    ("failure", "status", "detail"),
    [
        (Refused("there is no such study"), 409, "there is no such study"),
        (Retriable("the service stops"), 503, "the service stops"),
        (OSError(errno.EMFILE, PATIENT), 503, "The system has no free file descriptors or memory."),
        (
            KeyError(PATIENT),
            500,
            "This is a bug of the adapter or of a plugin. The log of the adapter shows the location.",
        ),
    ],
)
def test_an_exception_of_a_handler_becomes_problem_json(
    client_of: Any, failure: Exception, status: int, detail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception is logged by type and location. Its message is not logged or returned."""
    response = client_of(mine=[raising(failure)]).get("/mine/fail")
    assert (status, detail) == (response.status_code, response.json()["detail"])
    log = capsys.readouterr().out
    assert (status == 500, False) == ("KeyError" in log, PATIENT in log)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/mine/orders", "/nowhere"])
def test_requests_without_the_required_token_are_unauthorized(client_of: Any, authorization: str, path: str) -> None:
    """The response does not show whether the path exists."""
    client = client_of(token=TOKEN, host="adapter.example", mine=[order])
    response = client.get(path, headers={"Authorization": authorization.encode("latin-1")})
    assert (401, "Bearer") == (response.status_code, response.headers["www-authenticate"])
    assert "application/problem+json" == response.headers["content-type"]


def test_requests_with_the_token_are_accepted(client_of: Any) -> None:
    """The Host header does not matter. The OpenAPI document declares the token."""
    client = client_of(token=TOKEN, host="adapter.example")
    headers = {"Authorization": f"bearer {TOKEN}"}
    assert 200 == client.get("/health", headers=headers).status_code
    document = client.get("/openapi.json", headers=headers).json()
    assert {"type": "http", "scheme": "bearer"} == document["components"]["securitySchemes"]["token"]


def test_a_request_with_another_host_name_is_forbidden(client_of: Any) -> None:
    response = client_of(host="evil.example").get("/health")
    assert (403, "application/problem+json") == (response.status_code, response.headers["content-type"])


@pytest.mark.parametrize("name", ["openapi.json", "Mine", "a b", "../x", "mine"])
def test_routes_that_cannot_be_mounted_affect_no_other_plugin(
    client_of: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid name and an invalid handler are logged."""
    client = client_of(**{name: ["no handler"] if name == "mine" else [order], "other": [order]})
    assert 201 == client.post("/other/orders", json={"count": 1}).status_code
    assert "http_mount_failed" in capsys.readouterr().out
