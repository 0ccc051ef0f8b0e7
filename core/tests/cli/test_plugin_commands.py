"""Commands that plugins bring: whatever they are, the adapter's own work, and who brings them is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dicom_adapter import hookimpl
from dicom_adapter.cli.plugin_commands import add_commands
from dicom_adapter.plugins import registry
from dicom_adapter.plugins.registry import load
from dicom_adapter.testing import Plugin


class Panic(BaseException):
    """As libraries written in other languages raise it."""


def raising() -> Any:
    raise Panic("no")


def hello(name: str) -> None:
    typer.echo(f"hello {name}")


def run(name: str) -> None:
    typer.echo(name)


def bringing(hook: Callable[[], Any], name: str) -> Plugin:
    return Plugin(SimpleNamespace(dicom_adapter_commands=hookimpl(hook)), name=name)


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (raising, "Panic: no"),
        (lambda: time.sleep(60), "it did not return within 0.2 seconds"),
        (lambda: None, "TypeError: 'NoneType' object is not iterable"),
        (lambda: [hello, 7], "AttributeError: "),
        (lambda: [run], "there is a command `run` already; the plugin must use another name"),
        (lambda: iter(lambda: hello, None), "TypeError: it returned more than 1000 results"),
    ],
)
def test_a_plugin_whose_commands_cannot_be_used_is_named_and_costs_no_other(
    hook: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help and all other commands go on. Tried: adding them as they come."""
    monkeypatch.setattr(registry, "LATE_HOOK_SECONDS", 0.2)
    app = typer.Typer()
    app.callback()(lambda: None)
    add_commands(app, load([bringing(hook, "bad"), bringing(lambda: [hello], "good")]), {"run"})
    said = capsys.readouterr().err
    assert said.startswith("warning: plugin 'bad' of an unknown distribution : dicom_adapter_commands failed: ")
    assert reason in said
    assert 1 == len(said.splitlines())
    assert "hello" in CliRunner().invoke(app, ["--help"]).stdout
    assert "hello you\n" == CliRunner().invoke(app, ["hello", "you"]).stdout
