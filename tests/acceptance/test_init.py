"""`dicom-adapter init`: the written configuration is accepted, and a service runs with it."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.cli import app
from dicom_adapter.config import load
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import discover

SECONDS = 60  # time limit of each wait, for a busy machine
EVERYTHING = [
    *["--ae-title", "LUNG", "--ae-title", "HEAD 2", "--port", "4242", "--pacs", "PACS@10.0.0.5:104"],
    *["--data", "/var/lib/dicom-adapter"],
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_ADAPTER_CONFIG", raising=False)


def call(*arguments: str, status: int = 0, typed: str = "") -> Result:
    result = CliRunner().invoke(app, ["init", *arguments], input=typed)
    assert status == result.exit_code, result.output
    return result


def accepted(path: Path) -> Config:
    """Return the configuration in a file that `check` accepts."""
    checked = CliRunner().invoke(app, ["check", "--file-only", str(path)])
    assert 0 == checked.exit_code, checked.output
    catalogue: Catalogue = discover().catalogue()
    config = load(path.read_text(encoding="utf-8"), folder=path.parent, catalogue=catalogue).config
    assert config is not None
    return config


# --- options ----------------------------------------------------------------------------------------------------------


def test_without_options_the_example_pipeline_is_configured(tmp_path: Path) -> None:
    """The command is that of the installed Python. There is no PACS; the lines that add one are comments."""
    output = call().stdout
    config = accepted(tmp_path / "dicom-adapter.toml")
    [pipeline] = config.submitters["pipelines"].settings.pipelines.values()
    expected = (sys.executable, "-m", "dicom_adapter_pipelines.example", "{input}", "{output}")
    assert (expected, 11112, tmp_path / "data") == (pipeline.command, config.dicom.port, config.storage.path)
    assert (["DICOM-ADAPTER"], ["pipelines"]) == (list(config.ae_titles), list(config.submitters))
    assert "  dicom-adapter check --connect\n  dicom-adapter run\n" in output
    assert "--to DICOM-ADAPTER@127.0.0.1:11112\n" in output


def test_options_replace_all_questions(tmp_path: Path) -> None:
    """Each option is in the configuration. AE titles with a space, and a path, are quoted."""
    output = call("site.toml", *EVERYTHING, "--command", "/opt/lung/run --in {input} --out {output} 'a b'").stdout
    config = accepted(tmp_path / "site.toml")
    pacs = config.submitters["pacs"].settings
    assert ("10.0.0.5", 104, "PACS") == (pacs.host, pacs.port, pacs.ae_title)
    words = ("/opt/lung/run", "--in", "{input}", "--out", "{output}", "a b")
    assert words == config.submitters["pipelines"].settings.pipelines["run"].command
    assert (["LUNG", "HEAD 2"], 4242) == (list(config.ae_titles), config.dicom.port)
    for table in config.ae_titles.values():
        assert ("pacs",) == table.results.to
        assert "run" == table.settings.pipelines["run"].id
    assert Path("/var/lib/dicom-adapter") == config.storage.path
    assert "  dicom-adapter check site.toml --connect\n  dicom-adapter run site.toml\n" in output
    assert "  dicom-adapter results list -c site.toml\n" in output


def test_an_image_is_run_as_a_container(tmp_path: Path) -> None:
    """The pipeline's id is the name of the image without registry and tag."""
    call("--image", "registry.example:5000/ai/Lung_Nodules:1.2")
    config = accepted(tmp_path / "dicom-adapter.toml")
    pipelines = config.submitters["pipelines"]
    assert "container" == pipelines.type
    assert "registry.example:5000/ai/Lung_Nodules:1.2" == pipelines.settings.pipelines["lung-nodules"].image


@pytest.mark.parametrize("options", ["", "--pacs PACS@pacs:104"])
def test_the_comments_are_a_valid_configuration_too(tmp_path: Path, options: str) -> None:
    """A user who removes the `#` before a line of TOML gets a configuration that is accepted."""
    call(*options.split())
    path = tmp_path / "dicom-adapter.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"^# (?=\[[\w.\"-]+\]$|[\w-]+ = )", "", text, flags=re.MULTILINE), encoding="utf-8")
    config = accepted(path)
    assert ("pacs",) == config.ae_titles["DICOM-ADAPTER"].results.to
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--pacs", "10.0.0.5:104"], "is not of the form AET@HOST:PORT"),
        (["--ae-title", "MUCH-TOO-LONG-AE-TITLE"], "must be 1 to 16 printable ASCII characters"),
        (["--ae-title", "A", "--ae-title", "A "], "an AE title is named twice"),
        (["--command", "run 'x"], "a quotation mark or an escape is not complete"),
        (["--command", " "], "must begin with a program"),
        (["--image", "--privileged"], "must be the name of an image"),
        (["--command", "run", "--image", "lung"], "a pipeline is a command or an image"),
        (["--port", "0"], "Invalid value for '--port'"),
        (["--data", "a\nb"], "must be a path without control characters"),
    ],
)
def test_a_wrong_option_writes_nothing(tmp_path: Path, arguments: list[str], expected: str) -> None:
    """The message has the rule, and the exit status is 2."""
    assert expected in " ".join(call(*arguments, status=2).stderr.replace("│", "").split())
    assert [] == list(tmp_path.iterdir())


def test_a_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    """Without --force the exit status is 1, and the file is not changed."""
    path = tmp_path / "dicom-adapter.toml"
    path.write_text("precious", encoding="utf-8")
    assert "exists and was not changed; name another file, or replace it with --force" in call(status=1).stderr
    assert "precious" == path.read_text(encoding="utf-8")
    call("--force")
    accepted(path)
    assert [path] == list(tmp_path.iterdir())


def test_the_environment_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that `init` shows then need no argument."""
    monkeypatch.setenv("DICOM_ADAPTER_CONFIG", str(tmp_path / "named.toml"))
    assert "  dicom-adapter run\n" in call().stdout
    accepted(tmp_path / "named.toml")


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    stderr = call("missing/adapter.toml", status=1).stderr
    assert "error: missing/adapter.toml: No such file or directory; nothing was written" in stderr
    assert [] == list(tmp_path.iterdir())


# --- questions in a terminal ------------------------------------------------------------------------------------------


class Terminal:
    """The command in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._mine, theirs = pty.openpty()
        program = [sys.executable, "-m", "dicom_adapter", "init", *arguments]
        environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
        self.process = subprocess.Popen(
            program, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self.shown = ""

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and type the answer."""
        self.read_until(question)
        self.shown = ""
        os.write(self._mine, f"{text}\n".encode())

    def read_until(self, text: str) -> str:
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert select.select([self._mine], [], [], deadline - time.monotonic())[0], self.shown
            self.shown += os.read(self._mine, 4096).decode()
        return self.shown

    def end_input(self) -> None:
        os.write(self._mine, b"\x04")

    def close(self) -> int:
        status = self.process.wait(SECONDS)
        os.close(self._mine)
        return status


def test_a_terminal_is_asked_for_everything(tmp_path: Path) -> None:
    """An invalid answer is explained, and the question is repeated."""
    terminal = Terminal()
    terminal.answer("separated by commas [DICOM-ADAPTER]:", "LUNG, HEAD")
    terminal.answer("TCP port for DICOM [11112]:", "http")
    terminal.read_until("'http' must be a number from 1 to 65535")
    terminal.answer("TCP port for DICOM [11112]:", "4242")
    terminal.answer("or none for the example [none]:", "command")
    terminal.answer("Command and arguments:", "/opt/lung/run {input} {output}")
    terminal.answer("AET@HOST:PORT, or none [none]:", "PACS@pacs.example:104")
    terminal.answer("Data folder [data]:", "")
    terminal.read_until("dicom-adapter results list")
    assert 0 == terminal.close()
    config = accepted(tmp_path / "dicom-adapter.toml")
    assert (["LUNG", "HEAD"], 4242) == (list(config.ae_titles), config.dicom.port)
    assert "pacs.example" == config.submitters["pacs"].settings.host


def test_only_what_is_not_given_is_asked_for(tmp_path: Path) -> None:
    """The end of the input (Ctrl-D) writes nothing."""
    terminal = Terminal(*EVERYTHING)
    shown = terminal.read_until("for the example [none]:")
    assert "AE titles" not in shown
    terminal.answer("for the example", "image")
    terminal.read_until("Name of the image:")
    terminal.end_input()
    terminal.read_until("Aborted")
    assert 0 != terminal.close()
    assert [] == list(tmp_path.iterdir())


def test_yes_asks_nothing_in_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal("--yes")
    terminal.read_until("is written. Next:")
    terminal.read_until("results list")
    assert 0 == terminal.close()
    accepted(tmp_path / "dicom-adapter.toml")
