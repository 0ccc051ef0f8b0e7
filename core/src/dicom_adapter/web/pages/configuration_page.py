"""The configuration in use, by table, and the configurations before. Secrets are never shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from dicom_adapter.ledger import Transaction, configurations
from dicom_adapter.ledger.configurations import Configuration, ConfigurationState
from dicom_adapter.service.reload.snapshot import SECRET, Snapshot

HIDDEN_SECRET = "secret, not shown"  # noqa: S105 - the text instead of a secret
STATE_TITLES = {ConfigurationState.REQUESTED.value: "being applied", ConfigurationState.RUNNING.value: "in use"}
STATE_TONES = {ConfigurationState.RUNNING.value: "ok"}


@frozen(kw_only=True)
class ConfigurationLine:
    """An earlier configuration, or the one in use."""

    number: int
    state: str  # a state that has a tone
    title: str
    reason: str
    changed_at: datetime


@frozen(kw_only=True)
class ConfigurationContent:
    """The page of the configuration."""

    number: int | None
    since: datetime | None
    tables: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # title, keys with values
    history: Sequence[ConfigurationLine]


def configuration_page(transaction: Transaction) -> ConfigurationContent:
    """Return the page of the configuration."""
    return view_configuration(configurations.running(transaction), configurations.all_newest_first(transaction))


def view_configuration(running: Configuration | None, known: Sequence[Configuration]) -> ConfigurationContent:
    """Return what the page shows."""
    return ConfigurationContent(
        number=None if running is None else running.number,
        since=None if running is None else running.changed_at,
        tables=[] if running is None else list(_tables(Snapshot(**running.settings))),
        history=[
            ConfigurationLine(
                number=one.number,
                state=STATE_TONES.get(one.state.value, one.state.value),
                title=STATE_TITLES.get(one.state.value, one.state.value),
                reason=one.reason,
                changed_at=one.changed_at,
            )
            for one in known
        ],
    )


def _tables(settings: Snapshot) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for name, table in settings.ae_titles.items():
        yield f"AE title {name}", _values(table)
    for name, table in settings.submitters.items():
        yield f"Submitter {name}", _values(table)
    for name, table in _by_table(settings.service).items():
        yield f"[{name}]", _values(table)


def _by_table(service: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the keys of the service by table: `dicom.port` is the key `port` of the table `dicom`."""
    found: dict[str, dict[str, str]] = {}
    for key, value in service.items():
        table, _, rest = key.partition(".")
        found.setdefault(table, {})[rest or key] = value
    return found


def _values(table: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, _shown(value)) for key, value in sorted(table.items())]


def _shown(text: str) -> str:
    """Return a value as the page shows it. `text`: JSON, in which each secret is a digest."""
    return json.dumps(_without_secrets(json.loads(text)), ensure_ascii=False)


def _without_secrets(value: object) -> object:
    if isinstance(value, str):
        return HIDDEN_SECRET if value.startswith(SECRET) else value
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value
