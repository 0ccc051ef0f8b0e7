"""Client of a running service's REST API. Address and token come from the configuration file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import tomli

from dicom_adapter import Refused, find_configuration

TIMEOUT_S = 60.0  # for one request
DEFAULT_PORT = 8042  # of [http]


class NotServed(Refused):
    """The service does not answer, or refuses the request."""


class Client:
    """Client of the REST API. Every method raises NotServed with the service's message."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Proxies in environment variables are ignored: the service is on this machine or in the same network.
        self._http = httpx.Client(base_url=f"{url}/cache", headers=headers, timeout=TIMEOUT_S, trust_env=False)
        self._url = url

    def get(self, path: str, **query: Any) -> Any:
        """Return a resource (GET)."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any, key: str | None) -> Any:
        """Send a JSON body (POST), and return the response."""
        return self._call("POST", path, json=body, headers={} if key is None else {"Idempotency-Key": key})

    def put(self, path: str, **query: Any) -> Any:
        """Send PUT for a resource, and return the response."""
        return self._call("PUT", path, params={name: value for name, value in query.items() if value is not None})

    def delete(self, path: str, **query: Any) -> Any:
        """Delete a resource (DELETE), and return the response."""
        return self._call("DELETE", path, params={name: value for name, value in query.items() if value is not None})

    def _call(self, method: str, path: str, **more: Any) -> Any:
        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError as failure:
            raise NotServed(
                f"{self._url} does not answer ({failure}): check that the service runs and has the table [http]"
            ) from None
        if answer.is_success:
            return answer.json() if answer.content else None
        raise NotServed(_describe(answer))

    def close(self) -> None:
        self._http.close()


def address(named: Path | None, url: str | None) -> tuple[str, str | None]:
    """Return the URL of the configured service and the token that it requires."""
    try:
        config = find_configuration(named)
    except Refused as refusal:
        if url is None:
            raise NotServed(f"{refusal}; or name the service with --url") from None
        return url.rstrip("/"), os.environ.get("DICOM_ADAPTER_TOKEN")
    table = _http_table(config) if url is None or config.exists() else {}
    token = os.environ.get("DICOM_ADAPTER_TOKEN") or _token(table.get("token"), config.parent)
    if url is not None:
        return url.rstrip("/"), token
    bind = str(table.get("bind", "127.0.0.1"))
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bind, f"[{bind}]" if ":" in bind else bind)  # noqa: S104 - not used to bind
    return f"http://{host}:{table.get('port', DEFAULT_PORT)}", token


def _http_table(config: Path) -> dict[str, Any]:
    try:
        document = tomli.loads(config.read_text(encoding="utf-8"))
    except OSError as failure:
        raise NotServed(f"{config}: {failure.strerror}; name the configuration with --config, or --url") from None
    except ValueError as failure:
        raise NotServed(f"{config}: {failure}") from None
    table = document.get("http")
    if not isinstance(table, dict):
        raise NotServed(f"{config} has no table [http]: without it the service has no REST API")
    return table


def _token(source: Any, folder: Path) -> str | None:
    """Return the token from the environment variable or file that `token` of the table [http] names, or None."""
    if not isinstance(source, dict):
        return None
    if "env" in source:
        return os.environ.get(str(source["env"]))
    try:
        return (folder / Path(str(source.get("file"))).expanduser()).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as failure:
        raise NotServed(f"the token cannot be read: {failure.strerror}; set DICOM_ADAPTER_TOKEN instead") from None


def _describe(answer: httpx.Response) -> str:
    """Describe an error response in one line."""
    try:
        problem = answer.json()
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code} {answer.reason_phrase}"
    about = {name: value for name, value in problem.items() if name in ("missing", "studies", "errors", "aeTitles")}
    return f"{detail} {about}" if about else detail
