"""Differences between two configurations, as they are shown and applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import importlib_metadata
import pytest
from attrs import evolve
from importlib_metadata import EntryPoint, EntryPoints

from dicom_adapter.api.hookspecs import PROJECT
from dicom_adapter.config import load, plugin_settings
from dicom_adapter.plugins.entry_points import VARIABLE
from dicom_adapter.plugins.registry import discover
from dicom_adapter.service.reload.plan import Change, Plan, compare, to_json
from dicom_adapter.service.reload.snapshot import Snapshot
from dicom_adapter.service.reload.take_snapshot import snapshot
from dicom_adapter.simulation.platform import MemoryPlugin
from dicom_adapter.testing import Plugin

START = '[storage]\npath = "data"\n'
PLATFORM = '[submitters.platform]\ntype = "memory"\n'
LUNG = '[ae-titles.LUNG]\nprocessor = "by-study"\nsettings = { pipeline-lung = "lung" }\n'
UNUSED = EntryPoint(name="unused", value="types", group=PROJECT)  # a module without hooks
BOTH = START + PLATFORM + LUNG

Take = Callable[..., Snapshot]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Return a function that takes a snapshot of a configuration."""

    entry_points = importlib_metadata.entry_points
    monkeypatch.setattr(importlib_metadata, "entry_points", lambda: EntryPoints([*entry_points(), UNUSED]))

    def take(text: str, salt: str = "salt") -> Snapshot:
        plugins = discover(Plugin(MemoryPlugin(), name="memory"), disable=plugin_settings(text).disable)
        loaded = load(text, folder=tmp_path, catalogue=plugins.catalogue())
        assert loaded.config is not None, loaded.problems
        return snapshot(loaded.config, plugins, salt)

    return take


def keys(plan: Plan) -> tuple[list[str], list[str]]:
    """Return the changed keys that can be reloaded, and the changed keys that need a restart.

    Keys of AE titles and submitters are omitted.
    """
    return [change.key for change in plan.settings], [change.key for change in plan.restart]


def test_equivalent_texts_have_no_differences(take: Take) -> None:
    """The texts differ in explicit defaults, comments and the order of tables."""
    written = LUNG + "# a comment\n[dicom]\nport = 11112\nidle-timeout = 60\n" + PLATFORM + "parallel = 4\n" + START
    assert compare(take(BOTH), take(written)).is_empty


@pytest.mark.parametrize(
    ("text", "reloadable"),
    [
        ("[dicom]\nidle-timeout = 5\n", "dicom.idle-timeout"),
        ("[dicom]\nmax-associations-per-peer = 5\n", "dicom.max-associations-per-peer"),
        ("[ledger]\nhistory-days = 5\n", "ledger.history-days"),
        ("[ledger]\nkeep-descriptions = true\n", "ledger.keep-descriptions"),
        ('default-submitter = "platform"\n', "default-submitter"),
    ],
)
def test_settings_without_open_resources_can_be_reloaded(take: Take, text: str, reloadable: str) -> None:
    """A change of these settings needs no other port, file or connection."""
    assert ([reloadable], []) == keys(compare(take(BOTH), take(text + BOTH)))


@pytest.mark.parametrize(
    ("text", "needs_restart"),
    [
        ("[dicom]\nport = 104\n" + BOTH, "dicom.port"),
        ("[dicom]\nreceivers = 2\n" + BOTH, "dicom.receivers"),
        ("[log]\nlevel = 'debug'\n" + BOTH, "log.level"),
        ("[ledger]\nurl = 'sqlite:///other.sqlite'\n" + BOTH, "ledger.url"),
        (BOTH.replace('"data"', '"other"'), "storage.path"),
        (BOTH.replace("[storage]", "[storage]\nbackend = 'files'"), "storage.backend"),
    ],
)
def test_settings_of_open_resources_need_a_restart(take: Take, text: str, needs_restart: str) -> None:
    """Other settings that are not known to be reloadable need a restart, too."""
    assert ([], [needs_restart]) == keys(compare(take(BOTH), take(text)))


def test_a_snapshot_has_defaults_and_settings_of_plugins(take: Take) -> None:
    """The storage backend and the submitter of the AE title are not in the file: they are defaults."""
    assert '"local"' == take(BOTH).service["storage.backend"]
    assert '"lung"' == take(BOTH).ae_titles["LUNG"]["settings.pipeline-lung"]
    assert '"platform"' == take(BOTH).ae_titles["LUNG"]["submitter"]


def test_added_removed_and_changed_ae_titles_are_distinguished(take: Take) -> None:
    """A processor is rebuilt only if a setting that its lane uses has changed."""
    head = '[ae-titles.HEAD]\noverwrite-same-instance = true\n[ae-titles.HEAD.settings]\npipeline-h = "head"\n'
    before = take(START + PLATFORM + LUNG + head)
    after = take(
        START
        + PLATFORM
        + LUNG.replace('"lung"', '"other"')
        + head.replace("true", "false")
        + LUNG.replace("LUNG", "NEW")
    )
    plan = compare(before, after)
    assert (("NEW",), (), {"LUNG", "HEAD"}) == (
        plan.ae_titles.added,
        plan.ae_titles.removed,
        plan.ae_titles.changed.keys(),
    )
    assert (True, False) == (plan.rebuilds("LUNG"), plan.rebuilds("HEAD"))
    assert ("NEW",) == compare(after, before).removed.ae_titles


def test_the_change_of_a_table_shows_only_the_changed_keys() -> None:
    """A table of pipelines has many keys. A secret that did not change does not hide another change."""
    before = '{"lung": {"time-limit": 60.0, "grace": 10.0, "environment": {"KEY": "secret 1"}}, "old": {"grace": 1.0}}'
    after = '{"lung": {"time-limit": 8.0, "grace": 10.0, "environment": {"KEY": "secret 1"}}}'
    shown = "pipelines.lung.time-limit: 60.0 -> 8.0; pipelines.old: removed"
    assert shown == str(Change(key="pipelines", before=before, after=after))
    renewed = after.replace("secret 1", "secret 2")
    assert "pipelines.lung.environment.KEY: another secret" == str(Change(key="pipelines", before=after, after=renewed))


def test_another_secret_is_a_change_and_is_not_shown(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the secret nor its digest is shown. Without the salt, the digest cannot be compared."""
    text = "[http]\ntoken = { env = 'TOKEN' }\n" + BOTH
    monkeypatch.setenv("TOKEN", "0123456789abcdef")
    before, elsewhere = take(text), take(text, salt="other")
    monkeypatch.setenv("TOKEN", "fedcba9876543210")
    after = take(text)
    plan = compare(before, after)
    assert ["http.token: another secret"] == [str(change) for change in plan.settings]
    assert [{"key": "http.token", "secret": True}] == to_json(plan)["settings"]
    assert "0123456789abcdef" not in str(before.to_json())
    assert before.service["http.token"] != elsewhere.service["http.token"]


def test_plugins_that_only_the_host_has_loaded_are_replaced_with_the_host(take: Take) -> None:
    """Plugins that receivers have loaded, the storage backend and the core, stay until a restart."""
    before = take(BOTH)
    after = evolve(
        before,
        plugins={
            **before.plugins,
            "new": "acme 1.0",
            "by-study": "acme 9",
            "local-storage": "acme 9",
        },
    )
    plan = compare(before, after)
    assert (["by-study", "new"], ["local-storage"]) == (
        [change.key for change in plan.plugins],
        [change.key for change in plan.restart],
    )


@pytest.mark.parametrize("name", ["unused", "file-storage"])
def test_plugins_are_disabled_and_enabled_with_a_new_host(take: Take, name: str) -> None:
    """The plugins may be plugins of the core, if receivers have not loaded them."""
    before, after = take(BOTH), take(f"[plugins]\ndisable = ['{name}']\n" + BOTH)
    for plan in (compare(before, after), compare(after, before)):
        assert (["plugins.disable"], []) == keys(plan)
        assert [name] == [change.key for change in plan.plugins]


def test_disabling_a_plugin_that_is_not_loaded_restarts_nothing(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable already excludes the plugin."""
    monkeypatch.setenv(VARIABLE, "local-storage,by-study")
    plan = compare(take(BOTH), take("[plugins]\ndisable = ['unused']\n" + BOTH))
    assert ((["plugins.disable"], []), ()) == (keys(plan), plan.plugins)
