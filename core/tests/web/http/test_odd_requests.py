"""Requests that are invalid, or legal but rare, get the right status of the class 4xx, and never status 500."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from litestar import Request, get, post
from litestar.params import JSONBody, PathParameter, QueryParameter

from dicom_adapter.web.http.strict_requests import MAX_DEPTH

TOKEN = "0123456789abcdef"
JSON = {"Content-Type": "application/json"}
BUG = "http_request_failed"


@post("/free")
async def free(data: JSONBody[Any]) -> Any:
    return data


@get("/things/{uid:str}")
async def thing(
    uid: Annotated[str, PathParameter()],
    page_size: Annotated[int, QueryParameter(name="pageSize")] = 3,
    tag: Annotated[list[str] | None, QueryParameter()] = None,
) -> dict[str, Any]:
    return {"uid": uid, "size": page_size, "tags": tag}


@get("/raw")
async def raw(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return dict(request.query_params)


HANDLERS = [free, thing, raw]


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


@pytest.mark.parametrize(
    "body",
    [
        nested(MAX_DEPTH + 1),
        nested(MAX_DEPTH + 1, '{"a":', "}"),
        nested(1000),
        nested(100_000),
        nested(100_000, '{"a":[', "]}"),
        "[" * 2**19,
    ],
)
def test_deeply_nested_json_is_refused(client_of: Any, body: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The parser recurses, and so do handlers. The limit is far above the depth of any request.

    Verified to fail with the parser's own limit.
    """
    response = client_of(mine=HANDLERS).post("/mine/free", content=body, headers=JSON)
    assert (400, "application/problem+json") == (response.status_code, response.headers["content-type"])
    assert BUG not in capsys.readouterr().out


@pytest.mark.parametrize("body", [nested(MAX_DEPTH), nested(MAX_DEPTH, '{"a":', "}"), "[" + "[1]," * 9999 + "[1]]"])
def test_json_up_to_the_maximum_depth_is_accepted(client_of: Any, body: str) -> None:
    assert 201 == client_of(mine=HANDLERS).post("/mine/free", content=body, headers=JSON).status_code


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"1e999", b"9" * 5000, b"NaN"]
)
def test_invalid_json_is_a_bad_request(client_of: Any, body: bytes) -> None:
    assert 400 == client_of(mine=HANDLERS).post("/mine/free", content=body, headers=JSON).status_code


@pytest.mark.parametrize(
    "query",
    [
        "pagesize=1",
        "page_size=1",
        "pageSize=1&pageSzie=2",
        "pageSize=1&pageSize=2",
        "tag=a&tags=b",
        "uid=1",
        "limt",
        "=1",
    ],
)
def test_a_query_parameter_that_does_not_exist_is_refused(client_of: Any, query: str) -> None:
    """Otherwise a misspelt criterion of a search would match everything. A value cannot be repeated, a list can.

    Verified to fail without the check.
    """
    response = client_of(mine=HANDLERS).get(f"/mine/things/1?{query}")
    assert (400, "query") == (response.status_code, response.json()["errors"][0]["source"])
    assert 400 == client_of().get(f"/health?{query}").status_code


def test_the_refusal_of_a_query_parameter_names_those_that_exist(client_of: Any) -> None:
    response = client_of(mine=HANDLERS).get("/mine/things/1?pagesize=1")
    assert ("Unknown or repeated query parameters; this resource has: pageSize, tag", ["pagesize"]) == (
        response.json()["detail"],
        [error["key"] for error in response.json()["errors"]],
    )


def test_declared_query_parameters_are_accepted(client_of: Any) -> None:
    """A handler that reads the request itself decides which query parameters it accepts."""
    client = client_of(mine=HANDLERS)
    expected = {"uid": "1", "size": 5, "tags": ["a", "b"]}
    assert expected == client.get("/mine/things/1?pageSize=5&tag=a&tag=b").json()
    assert {"any": "thing"} == client.get("/mine/raw?any=thing").json()


@pytest.mark.parametrize("path", ["1%0A", "%0A1", "1%0D%0A", "a%00b", "%7F", "%C2%85", "%FF", "%C3", "1%1B"])
def test_control_characters_and_invalid_utf8_in_a_path_are_refused(client_of: Any, path: str) -> None:
    """`$` in the pattern of a parameter matches before a trailing newline.

    Verified to fail without the check.
    """
    assert 400 == client_of(mine=HANDLERS).get(f"/mine/things/{path}").status_code


@pytest.mark.parametrize(("value", "status"), [("%FF", 400), ("%C3", 400), ("%C3%A9", 200), ("%0A", 200)])
def test_a_query_must_be_utf8(client_of: Any, value: str, status: int) -> None:
    """Otherwise a search would look for replacement characters. Handlers decide which characters they accept."""
    assert status == client_of(mine=HANDLERS).get(f"/mine/things/1?tag={value}").status_code


@pytest.mark.parametrize("path", ["a%20b", "%C3%A9", "%E6%97%A5", "a+b"])
def test_other_characters_in_a_path_are_accepted(client_of: Any, path: str) -> None:
    client = client_of(mine=HANDLERS)
    assert 200 == client.get(f"/mine/things/{path}?tag={path}").status_code


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "TRACE", "FOO"])
def test_other_methods_are_not_allowed(client_of: Any, method: str) -> None:
    """The response names the allowed methods."""
    response = client_of(mine=HANDLERS).request(method, "/health")
    assert (405, "GET, OPTIONS") == (response.status_code, response.headers["allow"])


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_unknown_paths_are_not_found(client_of: Any, method: str) -> None:
    assert 404 == client_of(mine=HANDLERS).request(method, "/nowhere").status_code
