"""`dicom-adapter cache …` against a running service."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.testing import make_study, write
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_cache.commands import cache

CONFIGURATION = """
[http]
port = 0
token = { file = "token" }
[storage]
path = "data"
backend = "files"
watermark-percent = 100
reserve = 0
durability = "process"
[submitters.platform]
type = "fake"
folder = "platform"
[ae-titles.CACHE]
processor = "cache"
[ae-titles.CACHE.settings]
settle = 0
pipeline-lung = "pipeline-1"
"""
TOKEN = "0123456789abcdef"


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until `condition` is true."""
    pause = threading.Event()
    for _try in range(600):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("the condition did not become true in time")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs a command in the service's folder."""
    (tmp_path / "service").mkdir()
    monkeypatch.chdir(tmp_path / "service")
    return lambda *arguments: CliRunner().invoke(cache, list(map(str, arguments)))


def test_studies_are_listed_composed_pinned_and_deleted(
    launch_service: LaunchService, command: Callable[..., Any], tmp_path: Path
) -> None:
    """A full session, from the C-STORE until all instances are deleted; the token comes from the configuration."""
    (tmp_path / "service" / "token").write_text(TOKEN + "\n")
    for uid in ("1.1", "1.2"):
        for number, data_set in enumerate(make_study(study_uid=uid, instances=2, patient_name="A^[b]B")):
            (tmp_path / uid).mkdir(exist_ok=True)
            write(data_set, tmp_path / uid / f"{number}.dcm")
    service = launch_service(CONFIGURATION)
    to = f"CACHE@127.0.0.1:{service.port()}"
    sent = CliRunner().invoke(app, ["send", str(tmp_path / "1.1"), str(tmp_path / "1.2"), "--to", to])
    assert 0 == sent.exit_code, sent.output
    url = ("--url", f"http://127.0.0.1:{service.wait_for('http_listening')['port']}", "-c", "adapter.toml")

    def listed() -> set[str]:
        return {study["studyInstanceUid"] for study in json.loads(command("studies", "--json", *url).stdout)["items"]}

    def stored_files() -> list[Path]:
        return list((tmp_path / "service" / "data" / "instances").glob("*/*.dcm"))

    wait_until(lambda: {"1.1", "1.2"} == listed())  # the index is written a moment after the acknowledgement
    assert 4 == len(stored_files())
    assert "A^[b]B" in command("studies", "--patient-name", "a*", *url).stdout
    assert listed() <= set(command("studies", *url).stdout.splitlines()), "each UID is alone on a line"
    assert "No studies." in command("studies", "--modality", "MR", *url).stdout

    assert "1.1 is pinned" in command("pin", "1.1", *url).stdout
    assert "1.1 is not pinned" in command("pin", "1.1", "--undo", *url).stdout

    options = ["--pipeline", "lung", "--name", "both", "--study", "1.1"]
    options += ["--metadata", "Who=me", "--clean-up", "--key", "k"]
    job = json.loads(command("compose", *options, "--json", *url).stdout)
    assert job["jobId"] in command("compose", *options, *url).stdout  # the same --key selects the existing job
    service.wait_for("job_submitted", job_id=job["jobId"])
    wait_until(lambda: 2 == len(stored_files()))

    assert "1.2 is deleted" in command("delete", "1.2", *url).stdout
    wait_until(lambda: not stored_files())
    missing = command("delete", "1.2", *url)
    assert (1, True) == (missing.exit_code, "error: there is no study 1.2" in missing.stderr)
    refused = command("compose", "--pipeline", "other", "--name", "x", "--study", "1.1", *url)
    assert (1, True) == (refused.exit_code, "there is no pipeline 'other' (there are: lung)" in refused.stderr)
    assert 0 == service.stop()


def test_a_service_that_cannot_be_reached_is_an_error(command: Callable[..., Any], tmp_path: Path) -> None:
    """The message names the probable cause."""
    away = command("studies", "--url", "http://127.0.0.1:9")
    assert (1, True) == (away.exit_code, "does not answer" in away.stderr)
    none = command("studies")
    assert (1, True) == (none.exit_code, "; or name the service with --url" in none.stderr)
    without_http = CONFIGURATION[CONFIGURATION.index("[storage]") :]
    (tmp_path / "service" / "dicom-adapter.toml").write_text(without_http)
    refused = command("studies")
    assert (1, True) == (refused.exit_code, "has no table [http]" in refused.stderr)
