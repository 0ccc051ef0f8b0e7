"""Commands of plugins: a plugin whose commands are unusable is named, and all other commands work."""

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
    """A BaseException, as libraries in other languages raise it."""


def raising() -> Any:
    raise Panic("no")


def hello(name: str) -> None:
    typer.echo(f"hello {name}")


def run(name: str) -> None:
    typer.echo(name)


def make_plugin(hook: Callable[[], Any], name: str) -> Plugin:
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
def test_a_plugin_with_unusable_commands_is_named_and_affects_no_other(
    hook: Callable[[], Any], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help and all other commands work.

    Verified to fail when commands are added without validation.
    """
    monkeypatch.setattr(registry, "LATE_HOOK_SECONDS", 0.2)
    app = typer.Typer()
    app.callback()(lambda: None)
    add_commands(app, load([make_plugin(hook, "bad"), make_plugin(lambda: [hello], "good")]), {"run"})
    warning = capsys.readouterr().err
    assert warning.startswith("warning: plugin 'bad' of an unknown distribution: dicom_adapter_commands failed: ")
    assert reason in warning
    assert 1 == len(warning.splitlines())
    assert "hello" in CliRunner().invoke(app, ["--help"]).stdout
    assert "hello you\n" == CliRunner().invoke(app, ["hello", "you"]).stdout
