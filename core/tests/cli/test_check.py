"""`dicom-adapter check` creates the components of plugins and continues after their failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, hookimpl
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.cli import app
from dicom_adapter.plugins import registry
from dicom_adapter.simulation.platform import MemoryPlugin
from dicom_adapter.testing import Adapter, Plugin

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.clara]
type = "failing"
[submitters.other]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
submitter = "clara"
settings = { pipeline-one = "p1" }
[ae-titles.HEAD]
submitter = "other"
processor = "undescribed"
[ae-titles.LIVER]
processor = "by-study"
submitter = "other"
settings = { pipeline-one = "p1" }
"""
SECRET = "token 4711"


class Panic(BaseException):
    """A BaseException, like a panic of a library written in Rust."""


class BadPlugin:
    """A plugin with a submitter that cannot be created, and a processor that cannot describe its settings."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type]:
        error = self._error

        class FailingSubmitter(Submitter):  # type: ignore[type-arg] # without settings
            name = "failing"

            def __init__(self, *_arguments: Any) -> None:
                raise error

        FailingSubmitter.__abstractmethods__ = frozenset()
        return [FailingSubmitter]

    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        error = self._error

        class UndescribedProcessor(JobProcessorBase[NoSettings]):
            name = "undescribed"

            @classmethod
            def describe(cls, settings: NoSettings) -> str:
                raise error

            def handle_instance(self, instance: InstanceStorageInfo) -> None: ...

        return [UndescribedProcessor]


ERRORS = pytest.mark.parametrize("error", [ValueError(SECRET), SystemExit(0), Panic()], ids=lambda e: type(e).__name__)


@ERRORS
def test_check_reports_components_that_cannot_be_created_with_their_plugin(
    monkeypatch: pytest.MonkeyPatch, memory_submitter: None, tmp_path: Path, error: BaseException
) -> None:
    """The exit status is 1. There is no traceback and no message of the error, which may quote a setting.

    Verified to fail when `check` does not create submitters, or catches only `Exception` (then SystemExit(0) looks like
    success).
    """
    monkeypatch.setattr(registry, "discover", partial(registry.discover, Plugin(BadPlugin(error), name="bad")))
    file = tmp_path / "adapter.toml"
    file.write_text(
        CONFIGURATION + '[storage]\npath = "data"\nwatermark-percent = 100\nreserve = 0\n[dicom]\nport = 0\n',
        encoding="utf-8",
    )
    plain = CliRunner().invoke(app, ["check", str(file)])
    as_json = CliRunner().invoke(app, ["check", "--json", str(file)])

    assert (1, 1) == (plain.exit_code, as_json.exit_code)
    report = json.loads(as_json.stdout)
    submitter, processor = report["problems"]
    kind = type(error).__name__
    plugin = "plugin 'bad' of an unknown distribution:"
    assert submitter.startswith(f"{plugin} submitter 'clara' cannot be created: {kind} at ")
    assert processor.startswith(f"{plugin} AE title 'HEAD': its processor cannot describe its settings: {kind} at ")
    assert [f"error: {file}: {problem}" for problem in report["problems"]] == plain.stderr.splitlines()
    assert SECRET not in plain.output + as_json.output
    refused = {entry["aeTitle"]: bool(entry["refused"]) for entry in report["aeTitles"]}
    assert {"LUNG": True, "HEAD": True, "LIVER": False} == refused
    assert not (tmp_path / "data").exists()


def test_check_warns_if_results_cannot_be_sent_to_any_sender(memory_submitter: None, tmp_path: Path) -> None:
    """A submitter with the AE title of a node is enough: the senders are not known before they send.

    Verified to fail when `check` does not list the notices about `to-sender`.
    """
    text = """
        [storage]
        path = "data"
        [submitters.other]
        type = "memory"
        [ae-titles.LIVER]
        processor = "by-study"
        settings = { pipeline-one = "p1" }
        results = { to-sender = true }
    """
    file = tmp_path / "adapter.toml"
    warnings = []
    for settings in (text, text.replace('"memory"', '"memory"\n ae-title = "CT1"')):
        file.write_text(settings, encoding="utf-8")
        report = json.loads(CliRunner().invoke(app, ["check", "--json", "--file-only", str(file)]).stdout)
        assert report["ok"]
        warnings.append(report["warnings"])
    [[warning], none] = warnings
    assert warning.startswith("AE title 'LIVER': to-sender = true has no effect, because no submitter sends to a DICOM")
    assert [] == none


@ERRORS
def test_the_host_serves_ae_titles_that_do_not_need_the_failing_plugin(
    make_adapter: MakeAdapter, error: BaseException
) -> None:
    """Verified to fail when the host catches only `Exception` (then it does not start)."""
    adapter = make_adapter(CONFIGURATION, Plugin(BadPlugin(error)))
    assert {"LIVER"} == adapter.host.served.keys()
    assert {"LUNG", "HEAD"} == adapter.host.refused.keys()


class CommittingPlugin(MemoryPlugin):
    """The submitters in memory, and one that follows its deliveries."""

    @hookimpl
    def dicom_adapter_submitters(self) -> list[type[Submitter[NoSettings]]]:
        class Committing(self.followed):  # type: ignore[name-defined] # a class of this object
            name = "committing"
            platform_has_jobs = False

        return [self.submitter, self.followed, Committing]


def test_a_destination_that_runs_pipelines_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its delivery jobs would be faulted. A submitter that follows its deliveries is a destination.

    Verified to fail when the destinations are not examined, or when only `follows_jobs` counts.
    """
    monkeypatch.setattr(registry, "discover", partial(registry.discover, Plugin(CommittingPlugin(), name="memory")))
    file = tmp_path / "adapter.toml"
    types = {"pacs": "memory", "gpu": "memory-followed", "committing": "committing"}
    tables = "".join(f'[submitters.{name}]\ntype = "{of_type}"\n' for name, of_type in types.items())
    of_ae_title = '[ae-titles.LUNG]\nprocessor = "by-study"\nsubmitter = "gpu"\nsettings = { pipeline-one = "p1" }\n'
    text = (
        '[storage]\npath = "data"\n'
        + tables
        + of_ae_title
        + '[ae-titles.LUNG.results]\nto = ["pacs", "gpu", "committing"]\n'
    )
    file.write_text(text, encoding="utf-8")
    checked = CliRunner().invoke(app, ["check", "--json", "--file-only", str(file)])
    assert 0 == checked.exit_code, checked.output
    (warning,) = json.loads(checked.stdout)["warnings"]
    assert (
        "AE title 'LUNG': results.to names submitter 'gpu' of type 'memory-followed', which runs pipelines" in warning
    )
    assert "for example of type 'dicom', 'dicomweb' or 'folder'" in warning


PIPELINES = """
[storage]
path = "data"
[submitters.gpu]
type = "memory"
[submitters.other]
type = "memory-followed"
[ae-titles.LUNG]
processor = "by-study"
submitter = "gpu"
[ae-titles.LUNG.settings]
pipeline-one = "lung"
pipeline-two = "lnug"
pipeline-three = { id = "anything", submitter = "other" }
pipeline-four = { id = "heart", submitter = "gpu" }
"""
UNKNOWN = [
    f"submitter 'gpu' has no pipeline '{name}'{hint} (there are: lung): its jobs would be faulted; correct the id, or "
    "configure the pipeline at the submitter"
    for name, hint in (("lnug", "; did you mean 'lung'?"), ("heart", ""))
]


class PipelinesPlugin(MemoryPlugin):
    """The submitters in memory; `memory` knows its pipelines."""

    def __init__(self, pipelines: Any) -> None:
        super().__init__()
        self.submitter.pipeline_ids = lambda _self: pipelines  # type: ignore[method-assign] # of this object's class


def test_pipelines_that_a_submitter_does_not_have_are_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A submitter that does not know its pipelines may have any.

    Verified to fail when the pipelines are not compared.
    """
    plugin = Plugin(PipelinesPlugin({"lung"}), name="memory")
    monkeypatch.setattr(registry, "discover", partial(registry.discover, plugin))
    file = tmp_path / "adapter.toml"
    file.write_text(PIPELINES, encoding="utf-8")
    checked = CliRunner().invoke(app, ["check", "--json", "--file-only", str(file)])
    assert (1, [f"AE title 'LUNG': {problem}" for problem in UNKNOWN]) == (
        checked.exit_code,
        json.loads(checked.stdout)["problems"],
    )


def test_a_submitter_that_lists_no_pipelines_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugin = Plugin(PipelinesPlugin(7), name="memory")
    monkeypatch.setattr(registry, "discover", partial(registry.discover, plugin))
    file = tmp_path / "adapter.toml"
    file.write_text(PIPELINES, encoding="utf-8")
    (problem,) = json.loads(CliRunner().invoke(app, ["check", "--json", "--file-only", str(file)]).stdout)["problems"]
    assert problem.endswith("submitter 'gpu' cannot list its pipelines: pipeline_ids() must return strings, or None")


@pytest.mark.parametrize(("pipelines", "expected"), [({"lung"}, UNKNOWN), (None, []), (7, [])])
def test_the_host_serves_ae_titles_with_unknown_pipelines(
    make_adapter: MakeAdapter, pipelines: Any, expected: list[str]
) -> None:
    """The log has a notice. Instances are received: their jobs can be retried when the configuration is correct."""
    text = PIPELINES.replace('"memory"', '"listing"').replace('[storage]\npath = "data"\n', "")

    class ListingPlugin:
        @hookimpl
        def dicom_adapter_submitters(self) -> list[type[Submitter[NoSettings]]]:
            class Listing(MemoryPlugin().submitter):  # type: ignore[misc] # a class of this object
                name = "listing"

                def pipeline_ids(self) -> Any:
                    return pipelines

            return [Listing]

    adapter = make_adapter(text, Plugin(ListingPlugin(), name="listing"))
    assert {"LUNG": expected} == adapter.host.notices
