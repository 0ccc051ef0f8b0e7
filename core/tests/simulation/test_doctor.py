"""`dicom-adapter doctor`: problems of a plugin are reported with the next step, and never stop the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.plugins.entry_points import VARIABLE

# The tests replace SETTING by arguments of the setting `ward`, and BODY by statements.
PROCESSOR = """
import os, threading
from dicom_adapter import JobPriority, JobProcessorBase, hookimpl, setting
from attrs import frozen

@frozen(kw_only=True)
class Settings:
    ward: str = setting(SETTING help="The ward.")

class Mine(JobProcessorBase[Settings]):
    name = "mine"

    def handle_instance(self, instance):
        BODY
        self.submit_pipeline_job(f"for {self.settings.ward}", "p", JobPriority.NORMAL, [instance])
        self.remove_instances([instance])

@hookimpl
def dicom_adapter_processors():
    return [Mine]
"""
OBSERVER = """
from dicom_adapter import hookimpl

@hookimpl
def dicom_adapter_job_changed(job):
    raise KeyError("no")

@hookimpl
def dicom_adapter_http(lanes):
    return 7
"""
HEALTHY_PROCESSOR = PROCESSOR.replace("SETTING", 'default="A",')


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in the import path of the doctor's processes, as if its plugins were installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(site: Path, code: str, group: str = "dicom_adapter") -> None:
    """Install the plugin `tried` of acme-tried 2.1."""
    info = site / "acme_tried-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tried\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\ntried = acme_tried_plugin\n")
    (site / "acme_tried_plugin.py").write_text(code)


def consult(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the doctor. Return its exit status, and the trials of the plugin by name."""
    result = CliRunner().invoke(app, ["doctor", "tried", "--json", *arguments])
    [diagnosis] = json.loads(result.stdout)
    assert ("tried", "acme-tried", "2.1") == tuple(diagnosis[key] for key in ("plugin", "distribution", "version"))
    assert diagnosis["ok"] == (result.exit_code == 0)
    return result.exit_code, {trial["trial"]: trial for trial in diagnosis["trials"]}


def test_a_working_plugin_is_reported_with_durations(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor tries a disabled plugin, too. The report has the result of the simulated studies."""
    monkeypatch.setenv(VARIABLE, "")
    install(site, HEALTHY_PROCESSOR.replace("BODY", "pass"))
    status, trials = consult()
    assert (0, ["load", "processor 'mine'", "leaks"]) == (status, list(trials))
    assert "7 jobs; instances: 7 reclaimed; 1:10:00 on the virtual clock" == trials["processor 'mine'"]["observed"]
    assert {"trial", "seconds", "observed", "problem", "notTried"} == trials["load"].keys()
    assert all(trial["seconds"] >= 0 for trial in trials.values())


def test_errors_in_association_changed_are_found(site: Path) -> None:
    """The doctor delivers reports about interrupted associations.

    Verified to fail when all of its associations are released.
    """
    method = (
        "def association_changed(self, association):\n        assert association.is_clean\n\n    def handle_instance("
    )
    install(site, HEALTHY_PROCESSOR.replace("BODY", "pass").replace("def handle_instance(", method))
    status, trials = consult()
    assert (1, True) == (status, "processor_failed: AssertionError" in trials["processor 'mine'"]["problem"])


def test_required_settings_are_read_from_a_configuration(site: Path) -> None:
    """Without required settings, the plugin is not tried: the report has the next step, and the exit status is 1."""
    install(site, PROCESSOR.replace("SETTING", "").replace("BODY", "assert self.settings.ward == 'B'"))
    status, trials = consult()
    assert (1, "", "") == (status, *(trials["processor 'mine'"][name] for name in ("observed", "problem")))
    assert "settings.ward is missing" in trials["processor 'mine'"]["notTried"]
    assert trials["processor 'mine'"]["notTried"].endswith("with --config, or set them with --setting KEY=VALUE")
    assert "tried (acme-tried 2.1): not tried completely" in CliRunner().invoke(app, ["doctor", "tried"]).stdout
    (site / "config.toml").write_text('[ae-titles.X]\nprocessor = "mine"\nsettings = { ward = "B" }\n')
    status, trials = consult("--config", "config.toml")
    assert (0, "7 jobs; instances: 7 reclaimed; 1:10:00 on the virtual clock") == (
        status,
        trials["processor 'mine'"]["observed"],
    )


def test_settings_can_be_given(site: Path) -> None:
    """Given settings replace those of the configuration. Values are TOML, or texts without quotes."""
    install(site, PROCESSOR.replace("SETTING", "").replace("BODY", "assert self.settings.ward == 'B'"))
    (site / "config.toml").write_text('[ae-titles.X]\nprocessor = "mine"\nsettings = { ward = "A" }\n')
    for written in ("ward=B", 'ward="B"', "ward = 'B'"):
        status, trials = consult("--config", "config.toml", "--setting", written)
        assert (0, "ward") == (status, trials["settings"]["observed"])
    status, trials = consult("--setting", "ward=B", "--setting", "wart=C")
    assert (1, "no component of the plugin has the setting wart") == (status, trials["settings"]["problem"])
    status, trials = consult("--setting", "ward=5")
    assert (1, True) == (status, "settings.ward = 5, must be a text" in trials["processor 'mine'"]["notTried"])


@pytest.mark.parametrize(
    "arguments", [["tried", "--setting", "ward"], ["--setting", "ward=B"], ["tried", "--setting", "=B"]]
)
def test_a_setting_needs_a_key_and_one_plugin(arguments: list[str]) -> None:
    assert 2 == CliRunner().invoke(app, ["doctor", *arguments]).exit_code


@pytest.mark.parametrize(
    ("body", "what", "reason"),
    [
        ("raise ValueError('no')", "processor 'mine'", "processor_failed: ValueError at "),
        ("os._exit(7)", "processor 'mine'", "it ended the process with status 7"),
        ("os.abort()", "processor 'mine'", "it ended the process with status -6"),
        ("threading.Event().wait()", "processor 'mine'", "it did not end within 20 s"),
        (
            "threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "leaks",
            "close() has left 7 running threads",
        ),
    ],
)
def test_a_processor_that_crashes_hangs_or_leaks_is_reported(site: Path, body: str, what: str, reason: str) -> None:
    """The problem belongs to the trial in which it occurs.

    Verified to fail when the trial runs in the process of the doctor.
    """
    install(site, HEALTHY_PROCESSOR.replace("BODY", body))
    status, trials = consult(*(["--seconds", "20"] if "wait()" in body else []))
    assert (1, [what]) == (status, [name for name, trial in trials.items() if trial["problem"]])
    assert reason in trials[what]["problem"]


def test_failing_observers_and_invalid_hook_results_are_reported(site: Path) -> None:
    """The observer is notified of jobs of another processor."""
    install(site, OBSERVER)
    status, trials = consult()
    assert (1, ["observer", "dicom_adapter_http"]) == (status, [name for name, it in trials.items() if it["problem"]])
    assert trials["observer"]["problem"].startswith("observer_failed: KeyError at ")
    assert "acme_tried_plugin.py:6 dicom_adapter_job_changed" in trials["observer"]["problem"]


@pytest.mark.parametrize(
    ("code", "group", "reason"),
    [
        ("import nothing_of_the_kind", "dicom_adapter", "No module named 'nothing_of_the_kind'; fix or upgrade it"),
        ("", "dicom_adapter.v0", "built for version 0 of the hooks"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_reported(site: Path, code: str, group: str, reason: str) -> None:
    """The message has the setting that disables the plugin."""
    install(site, code, group)
    status, trials = consult()
    assert (1, ["load"]) == (status, list(trials))
    assert reason in trials["load"]["problem"]
    assert trials["load"]["problem"].endswith('or disable it: [plugins] disable = ["tried"]')


def test_an_unknown_plugin_is_refused() -> None:
    """The message lists the installed plugins."""
    result = CliRunner().invoke(app, ["doctor", "nobody"])
    assert (1, True) == (result.exit_code, "error: there is no plugin 'nobody' (installed: by-study, " in result.stderr)
