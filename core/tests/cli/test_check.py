"""`dicom-adapter check` tries what plugins bring, and lives through what they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, hookimpl
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.cli import app
from dicom_adapter.plugins import registry
from dicom_adapter.plugins.registry import Plugins, installed, load
from dicom_adapter.testing import Adapter, Plugin

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.clara]
type = "moody"
[submitters.other]
type = "fake"
[ae-titles.LUNG]
submitter = "clara"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
[ae-titles.HEAD]
submitter = "other"
processor = "silent"
[ae-titles.LIVER]
submitter = "other"
[ae-titles.LIVER.settings]
pipeline-one = "p1"
"""
SECRET = "token 4711"


class Panic(BaseException):
    """No Exception, as a panic of a library written in Rust."""


class Bad:
    """A submitter that cannot be made, and a processor that cannot tell what it will do."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type]:
        error = self._error

        class Moody(Submitter):  # type: ignore[type-arg] # without settings
            name = "moody"

            def __init__(self, *_arguments: Any) -> None:
                raise error

        Moody.__abstractmethods__ = frozenset()
        return [Moody]

    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        error = self._error

        class Silent(JobProcessorBase[NoSettings]):
            name = "silent"

            @classmethod
            def describe(cls, settings: NoSettings) -> str:
                raise error

            def handle_instance(self, instance: InstanceStorageInfo) -> None: ...

        return [Silent]


ERRORS = pytest.mark.parametrize("error", [ValueError(SECRET), SystemExit(0), Panic()], ids=lambda e: type(e).__name__)


@ERRORS
def test_what_plugins_do_wrong_when_they_are_tried_is_reported_with_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    """Exit 1, no traceback, nothing of the message, which may quote a setting; what works is shown as ever.

    Tried: without trying, `check` finds nothing wrong with the submitter, which `run` then cannot make; with only
    exceptions caught, SystemExit(0) ends `check` as if all were well.
    """

    def discover(*, disable: tuple[str, ...] = ()) -> Plugins:
        return load([*installed(), Plugin(Bad(error), name="bad")])

    monkeypatch.setattr(registry, "discover", discover)
    file = tmp_path / "adapter.toml"
    file.write_text(CONFIGURATION + '[storage]\npath = "data"\n', encoding="utf-8")
    plain = CliRunner().invoke(app, ["check", str(file)])
    found = CliRunner().invoke(app, ["check", "--json", str(file)])

    assert (1, 1) == (plain.exit_code, found.exit_code)
    told = json.loads(found.stdout)
    submitter, processor = told["problems"]
    kind = type(error).__name__
    who = "plugin 'bad' of an unknown distribution :"
    assert submitter.startswith(f"{who} submitter 'clara' cannot be created: {kind} at ")
    assert processor.startswith(f"{who} AE title 'HEAD': its processor cannot describe its settings: {kind} at ")
    assert [f"error: {problem}" for problem in told["problems"]] == plain.stderr.splitlines()
    assert SECRET not in plain.output + found.output
    refused = {entry["aeTitle"]: bool(entry["refused"]) for entry in told["aeTitles"]}
    assert {"LUNG": True, "HEAD": True, "LIVER": False} == refused
    assert not (tmp_path / "data").exists()


@ERRORS
def test_the_host_serves_what_does_not_need_them(make_adapter: MakeAdapter, error: BaseException) -> None:
    """Tried: with only exceptions caught, the host does not start for anybody."""
    adapter = make_adapter(CONFIGURATION, Plugin(Bad(error)))
    assert {"LIVER"} == adapter.host.served.keys()
    assert {"LUNG", "HEAD"} == adapter.host.refused.keys()
