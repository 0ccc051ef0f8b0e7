"""What is different between two configurations, as it is shown and acted upon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from dicom_adapter.config import load, plugin_settings
from dicom_adapter.plugins.entry_points import VARIABLE
from dicom_adapter.plugins.registry import discover
from dicom_adapter.service.reload.plan import Plan, compare, to_json
from dicom_adapter.service.reload.snapshot import Snapshot, snapshot

START = '[storage]\npath = "data"\n'
PLATFORM = '[submitters.platform]\ntype = "fake"\nfolder = "platform"\n'
LUNG = '[ae-titles.LUNG.settings]\npipeline-lung = "lung"\n'
BOTH = START + PLATFORM + LUNG

Take = Callable[..., Snapshot]


@pytest.fixture
def take(tmp_path: Path) -> Take:
    """What a configuration says."""

    def take(text: str, salt: str = "salt") -> Snapshot:
        plugins = discover(disable=plugin_settings(text).disable)
        loaded = load(text, folder=tmp_path, catalogue=plugins.catalogue())
        assert loaded.config is not None, loaded.problems
        return snapshot(loaded.config, plugins, salt)

    return take


def keys(plan: Plan) -> tuple[list[str], list[str]]:
    """What can be reloaded of the keys that are no AE title's and no submitter's, and what cannot."""
    return [change.key for change in plan.settings], [change.key for change in plan.restart]


def test_nothing_is_different_when_only_the_writing_is(take: Take) -> None:
    """Defaults that are written out, comments, another order."""
    written = LUNG + "# a comment\n[dicom]\nport = 11112\nidle-timeout = 60\n" + PLATFORM + "parallel = 4\n" + START
    assert compare(take(BOTH), take(written)).is_empty


@pytest.mark.parametrize(
    ("text", "reloadable"),
    [
        ("[dicom]\nidle-timeout = 5\n", "dicom.idle-timeout"),
        ("[dicom]\nmax-associations-per-peer = 5\n", "dicom.max-associations-per-peer"),
        ("[ledger]\nhistory-days = 5\n", "ledger.history-days"),
        ('default-submitter = "platform"\n', "default-submitter"),
    ],
)
def test_limits_are_reloaded(take: Take, text: str, reloadable: str) -> None:
    """Nothing is open with them."""
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
def test_what_is_open_is_not_reloaded(take: Take, text: str, needs_restart: str) -> None:
    """Nor is what nobody has said of that it can be."""
    assert ([], [needs_restart]) == keys(compare(take(BOTH), take(text)))


def test_every_key_of_the_file_can_be_compared(take: Take) -> None:
    """The port too, in a service that was told another one: it is the file that is compared."""
    assert '"local"' == take(BOTH).service["storage.backend"]
    assert '"lung"' == take(BOTH).ae_titles["LUNG"]["settings.pipeline-lung"]
    assert '"platform"' == take(BOTH).ae_titles["LUNG"]["submitter"]


def test_ae_titles_that_come_go_and_change_are_told_apart(take: Take) -> None:
    """Only what its lane works with is a reason for another processor."""
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


def test_another_secret_is_a_change_and_is_not_shown(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither it nor its digest, and without the salt it tells nothing."""
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


def test_plugins_that_the_host_alone_has_loaded_are_exchanged_with_it(take: Take) -> None:
    """What receivers have loaded, the storage backend and the core, stays until a restart."""
    before = take(BOTH)
    after = evolve(
        before,
        plugins={
            **before.plugins,
            "new": "somebodys 1.0",
            "aetitle": "dicom-adapter-aetitle 9",
            "local-storage": "x 9",
        },
    )
    plan = compare(before, after)
    assert (["aetitle", "new"], ["local-storage"]) == (
        [change.key for change in plan.plugins],
        [change.key for change in plan.restart],
    )


@pytest.mark.parametrize("name", ["cache", "file-storage"])
def test_plugins_that_are_disabled_or_enabled_again_come_and_go_with_the_host(take: Take, name: str) -> None:
    """Those of the core too, if receivers have not loaded them."""
    before, after = take(BOTH), take(f"[plugins]\ndisable = ['{name}']\n" + BOTH)
    for plan in (compare(before, after), compare(after, before)):
        assert (["plugins.disable"], []) == keys(plan)
        assert [name] == [change.key for change in plan.plugins]


def test_to_disable_what_is_not_loaded_anyway_restarts_nothing(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has left it out already."""
    monkeypatch.setenv(VARIABLE, "local-storage,aetitle,clara-client")
    plan = compare(take(BOTH), take("[plugins]\ndisable = ['cache']\n" + BOTH))
    assert ((["plugins.disable"], []), ()) == (keys(plan), plan.plugins)
