"""`run` replaces its process with the supervisor and passes the loaded configuration to it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.blueprint import Blueprint

CONFIGURATION = """
[storage]
path = "data"

[submitters.platform]
type = "memory"

[ae-titles.LUNG.settings]
pipeline-a = "1"
"""


class Became(BaseException):
    """Raised instead of replacing the process."""


@pytest.fixture
def blocked_signals() -> Iterator[None]:
    """Unblock the signals that `run` blocks: the test process must not pass them to the services of other tests."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("blocked_signals")
def test_the_configuration_is_passed_without_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is started while all disks are full must wait for free space, not end."""
    passed: dict[str, Any] = {}

    def become(_path: str, command: list[str]) -> None:
        descriptor = int(command[-1])
        passed["file"] = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        passed["is_inherited"] = os.get_inheritable(descriptor)
        passed["blueprint"] = Blueprint.from_json(json.loads(os.pread(descriptor, 1 << 20, 0)))
        raise Became

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    with pytest.raises(Became):
        CliRunner().invoke(app, ["run", str(path), "--port", "0", "--stop-with-stdin"], catch_exceptions=False)
    assert passed["file"].startswith("/memfd:")
    assert passed["is_inherited"]
    blueprint = passed["blueprint"]
    assert (CONFIGURATION, 0, True) == (blueprint.configuration, blueprint.port, blueprint.stop_with_stdin)
