"""Commands about a running service whose configuration file was damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from support import STORAGE, jobs_in_ledger, write_study

CONFIGURATION = STORAGE + '[ae-titles.LUNG.settings]\npipeline-a = "pipeline-1"\n'
DAMAGES = {
    "a missing bracket": CONFIGURATION.replace("[ae-titles.LUNG.settings]", "[ae-titles.LUNG.settings"),
    "a missing quote in the data folder": CONFIGURATION.replace('path = "data"', 'path = "data'),
    "an unknown key": CONFIGURATION.replace("pipeline-a", "pipline-a"),
    "a missing data folder": CONFIGURATION.replace('path = "data"\n', "", 1),
    "another data folder": CONFIGURATION.replace('path = "data"', 'path = "elsewhere"', 1),
    "an empty file": "",
    "no file": None,
    "not UTF-8": CONFIGURATION + "# M\udcfcller\n",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedService]:
    """A service that has submitted a job."""
    path = tmp_path_factory.mktemp("damaged") / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    launched = LaunchedService(path, "--port", "0")
    write_study(path.parent / "study")
    sent = CliRunner().invoke(app, ["send", str(path.parent / "study"), "--to", f"LUNG@127.0.0.1:{launched.port()}"])
    assert 0 == sent.exit_code, sent.output
    launched.wait_for("job_submitted")
    yield launched
    launched.kill()


@pytest.fixture
def file(service: LaunchedService) -> Iterator[Path]:
    """The file of the service, which is repaired after the test."""
    yield service.configuration
    service.configuration.write_text(CONFIGURATION, encoding="utf-8")


def damage(file: Path, text: str | None) -> None:
    file.unlink()
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))


def call(file: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "-c", str(file)], env={"COLUMNS": "80"})


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_does_not_disable_the_commands_about_a_running_service(
    service: LaunchedService, file: Path, kind: str
) -> None:
    """All commands show the running service. A command that reads the damaged part warns with the name of the file.

    Verified to fail when only the file is read.
    """
    [job] = jobs_in_ledger(service)
    damage(file, DAMAGES[kind])
    commands = {
        ("status", "--json"): lambda out: json.loads(out)["aeTitles"][0]["aeTitle"] == "LUNG",
        ("jobs", "list"): lambda out: job.job_id in out,
        ("jobs", "show", job.job_id): lambda out: job.name in out,
        ("instances", "list"): lambda out: "LUNG" in out,
        ("ae-titles", "list"): lambda out: "LUNG" in out,
        ("explain", job.job_id): lambda out: job.name in " ".join(out.split()),
        ("audit",): lambda out: "LUNG: 2 received" in out,
    }
    for words, is_right in commands.items():
        result = call(file, *words)
        assert (0, True) == (result.exit_code, is_right(result.stdout)), (words, result.output)
        needs_plugins = words[0] in ("status", "audit")
        if kind != "an unknown key" or needs_plugins:
            assert f"warning: {file}" in result.stderr, (words, result.stderr)
            assert "Traceback" not in result.stderr


def test_an_operator_can_act_while_the_file_is_damaged(service: LaunchedService, file: Path) -> None:
    damage(file, DAMAGES["a missing quote in the data folder"])
    result = call(file, "ae-titles", "restart", "LUNG")
    assert (0, "LUNG will be restarted\n") == (result.exit_code, result.stdout)
    service.wait_for("lane_restarted", ae_title="LUNG")


def test_a_repair_needs_a_valid_file(service: LaunchedService, file: Path) -> None:
    damage(file, DAMAGES["a missing bracket"])
    result = call(file, "audit", "--repair")
    assert 2 == result.exit_code
    assert f"error: {file}: the file is not TOML" in result.stderr


def test_a_stopped_service_is_found_with_the_readable_lines(tmp_path: Path) -> None:
    """The readable line `path` names the data folder, whose ledger has the last configuration.

    Without this line, the command reports an error.
    """
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    stopped = LaunchedService(path, "--port", "0")
    stopped.port()
    assert 0 == stopped.stop()
    damage(path, DAMAGES["a missing bracket"])
    result = call(path, "status", "--json")
    assert (3, "LUNG") == (result.exit_code, json.loads(result.stdout)["aeTitles"][0]["aeTitle"])
    assert f"warning: {path}: the file is not TOML" in result.stderr
    damage(path, DAMAGES["a missing quote in the data folder"])
    result = call(path, "status")
    assert 1 == result.exit_code
    assert f"error: {path}: the file is not TOML" in result.stderr
