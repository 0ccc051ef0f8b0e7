"""Selection of plugins: by the version of the hooks, and by `[plugins] disable` and the environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter.api.hookspecs import API_VERSION
from dicom_adapter.cli import app
from dicom_adapter.plugins.entry_points import VARIABLE, version_mismatch, version_of
from dicom_adapter.plugins.registry import discover

NEXT = f"dicom_adapter.v{API_VERSION + 1}"
PROCESSOR = """
from dicom_adapter import JobProcessorBase, hookimpl

class Mine(JobProcessorBase):
    name = "{name}"

    def handle_instance(self, instance): ...

@hookimpl
def dicom_adapter_processors():
    return [Mine]
"""
CONFIGURATION = """
[storage]
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.MINE]
processor = "mine"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the layout that `pip install` creates."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(site: Path, name: str, code: str, *groups: str) -> None:
    """Install a distribution acme-<name> 2.1 that has a plugin with this name in each group, in separate modules."""
    info = site / f"acme_{name}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 2.1\n")
    modules = {group: f"acme_{name}_{version_of(group)}" for group in groups or ("dicom_adapter",)}
    (info / "entry_points.txt").write_text("".join(f"[{g}]\n{name} = {module}\n" for g, module in modules.items()))
    for module in modules.values():
        (site / f"{module}.py").write_text(code)


def problems_of(name: str) -> list[str]:
    return [info.problem for info in discover().infos if info.name == name]


# --- the version of the hooks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "version"),
    [
        ("dicom_adapter", 1),
        ("dicom_adapter.v1", 1),
        ("dicom_adapter.v27", 27),
        ("dicom_adapter.v", None),
        ("dicom_adapter.v1x", None),
        ("dicom_adapters", None),
        ("pytest11", None),
    ],
)
def test_the_entry_point_group_has_the_version_of_the_hooks(group: str, version: int | None) -> None:
    """A group without a number is version 1. Other groups are ignored."""
    assert version == version_of(group)


def test_a_plugin_for_newer_hooks_is_refused_and_not_imported(site: Path) -> None:
    """The plugin may need names that do not exist. The error gives the next step instead of an ImportError.

    Verified to fail when only the group without a number is searched.
    """
    install(site, "newer", "raise SystemExit('imported')", NEXT)
    expected = (
        f"plugin 'newer' of acme-newer 2.1: built for version {API_VERSION + 1} of the hooks, and this dicom-adapter "
        f"has version {API_VERSION}: upgrade dicom-adapter, or install an older version of the plugin"
    )
    plugins = discover()
    assert [expected] == plugins.problems
    assert {"by-study"} <= plugins.catalogue().processors.keys()
    assert f"acme_newer_{API_VERSION + 1}" not in sys.modules


def test_a_plugin_for_older_hooks_is_refused_with_a_hint_to_upgrade_it(site: Path) -> None:
    install(site, "outdated", "raise SystemExit('imported')", "dicom_adapter.v0")
    assert problems_of("outdated") == [version_mismatch("dicom_adapter.v0")]
    assert version_mismatch("dicom_adapter.v0").endswith(
        "upgrade the plugin, or install an older version of dicom-adapter"
    )


def test_the_supported_version_of_a_plugin_for_several_versions_is_loaded(site: Path) -> None:
    """A distribution can support old and new adapters."""
    install(site, "both", PROCESSOR.format(name="both"), NEXT, "dicom_adapter")
    assert [] == discover().problems
    assert "both" in discover().catalogue().processors
    assert f"acme_both_{API_VERSION + 1}" not in sys.modules


# --- what is disabled -----------------------------------------------------------------------------------------------


def test_a_disabled_plugin_is_not_imported_and_is_listed_with_the_reason(site: Path) -> None:
    """The import of such a plugin may already cause damage."""
    install(site, "harmful", "raise SystemExit('imported')")
    plugins = discover(disable=["harmful"])
    assert [] == plugins.problems
    assert "[plugins] disable names it" in [info.disabled for info in plugins.infos if info.name == "harmful"]
    assert "acme_harmful_1" not in sys.modules


@pytest.mark.parametrize(
    ("listed", "loaded"),
    [
        ("", set()),
        ("by-study", {"by-study"}),
        (" by-study , file-storage,", {"by-study", "file-storage"}),
        (None, {"by-study", "local-storage", "file-storage", "extra"}),
    ],
)
def test_the_environment_allows_only_the_plugins_that_it_names(
    site: Path, monkeypatch: pytest.MonkeyPatch, listed: str | None, loaded: set[str]
) -> None:
    """An empty variable allows no plugin, not even the built-in ones. Without the variable, all are allowed."""
    install(site, "extra", PROCESSOR.format(name="extra"))
    if listed is not None:
        monkeypatch.setenv(VARIABLE, listed)
    assert loaded == {info.name for info in discover().infos if not info.disabled}


def test_unknown_plugin_names_are_reported_with_the_installed_ones(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are in the configuration or in the environment. They are not listed as broken plugins."""
    monkeypatch.setenv(VARIABLE, "by-study,by-sutdy")
    plugins = discover(disable=["local-sotrage"])
    there = "(installed: by-study, file-storage, local-storage); correct or remove the name"
    assert [
        f"[plugins] disable names 'local-sotrage', and no such plugin is installed {there}",
        f"the environment variable {VARIABLE} names 'by-sutdy', and no such plugin is installed {there}",
    ] == plugins.problems
    assert [] == plugins.broken


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.stdout, result.stderr


def test_plugins_shows_what_is_disabled_and_why(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named configuration is used, or the default one. A disabled plugin is not an error."""
    install(site, "mine", PROCESSOR.format(name="mine"))
    Path("dicom-adapter.toml").write_text('[plugins]\ndisable = ["mine"]\n')
    status, output, _ = invoke("plugins", "--json")
    [row] = [row for row in json.loads(output) if row["plugin"] == "mine"]
    assert (0, "[plugins] disable names it", "") == (status, row["disabled"], row["problem"])
    Path("other.toml").write_text('[plugins]\ndisable = ["mnie"]\n')
    status, output, errors = invoke("plugins", "--config", "other.toml", "--json")
    [row] = [row for row in json.loads(output) if row["plugin"] == "mine"]
    assert (1, "processor", "") == (status, row["kind"], row["disabled"])
    assert "[plugins] disable names 'mnie', and no such plugin is installed" in errors


def test_check_names_the_disabled_plugin_that_an_ae_title_may_need(
    site: Path, memory_submitter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` fails. Without the line in the configuration it succeeds."""
    monkeypatch.setenv("COLUMNS", "1000")
    install(site, "mine", PROCESSOR.format(name="mine"))
    Path("good.toml").write_text(CONFIGURATION)
    Path("bad.toml").write_text('[plugins]\ndisable = ["mine"]\n' + CONFIGURATION)
    assert 0 == invoke("check", "good.toml")[0]
    status, _, errors = invoke("check", "bad.toml")
    assert (1, 1) == (status, len(errors.splitlines()))
    assert "AE title 'MINE': needs processor 'mine', which is not installed" in errors
    assert "; disabled: plugin 'mine' of acme-mine 2.1, because [plugins] disable names it" in errors


def test_an_unknown_name_in_disable_is_an_error_of_check(site: Path, memory_submitter: None) -> None:
    """The name is not an error of `run`: an uninstalled plugin must not prevent the start of the service."""
    without_mine = CONFIGURATION.replace('[ae-titles.MINE]\nprocessor = "mine"\n', "")
    Path("bad.toml").write_text('[plugins]\ndisable = ["gone"]\n' + without_mine)
    status, _, errors = invoke("check", "bad.toml")
    assert (1, True) == (status, "names 'gone', and no such plugin is installed" in errors)
