"""`dicom-adapter check` tries the addresses of the gRPC APIs."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app

CONFIGURATION = """
[dicom]
port = 0
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "fake"
[ae-titles.CACHE]
processor = "cache"
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that appends lines to the configuration, and returns the problems that `check` finds."""

    def problems(lines: str) -> list[str]:
        (tmp_path / "adapter.toml").write_text(CONFIGURATION + lines, encoding="utf-8")
        result = CliRunner().invoke(app, ["check", "--json", str(tmp_path / "adapter.toml")])
        found: list[str] = json.loads(result.stdout)["problems"]
        return found

    return problems


def test_a_grpc_port_in_use_is_a_problem(check: Callable[[str], list[str]]) -> None:
    """Verified to fail when the processor does not return the address."""
    assert [] == check("") == check("[ae-titles.CACHE.settings.grpc]\nport = 0\n")
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        (problem,) = check(f"[ae-titles.CACHE.settings.grpc]\nport = {port}\n")
    assert problem.startswith(f"AE title 'CACHE': cannot listen on 127.0.0.1:{port}: Address already in use; ")


def test_two_ae_titles_cannot_have_the_same_grpc_port(check: Callable[[str], list[str]]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    (problem,) = check(
        f"settings = {{ grpc = {{ port = {port} }} }}\n"
        f'[ae-titles.SECOND]\nprocessor = "cache"\nsettings = {{ grpc = {{ port = {port} }} }}\n'
    )
    assert problem.startswith(f"AE title 'SECOND': cannot listen on 127.0.0.1:{port}: Address already in use; ")
