"""Take a snapshot of a configuration. The supervisor does not import this module: it loads no plugin."""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import attrs

from dicom_adapter.api.settings import PREFIX, PipelineReference, Secret
from dicom_adapter.config.model import Config
from dicom_adapter.config.tables import DERIVED
from dicom_adapter.plugins.registry import STORAGE, Plugins
from dicom_adapter.service.reload.snapshot import SECRET, Snapshot

TABLES = ("ae_titles", "submitters")


def snapshot(config: Config, plugins: Plugins, salt: str) -> Snapshot:
    """Return the snapshot of this configuration."""
    ae_titles = {
        name: {**_flat(table, salt), "submitter": json.dumps(config.submitter_for(name))}
        for name, table in config.ae_titles.items()
    }
    return Snapshot(
        salt=salt,
        service=_flat(config, salt, without=TABLES),
        submitters={name: _flat(table, salt) for name, table in config.submitters.items()},
        ae_titles=ae_titles,
        plugins={info.name: f"{info.distribution} {info.version}" for info in plugins.infos if not info.disabled},
        storage_plugin=plugins.provider(STORAGE, config.storage.backend) or "",
    )


def _flat(table: Any, salt: str, without: tuple[str, ...] = ()) -> dict[str, str]:
    return {key: json.dumps(_plain(value, salt)) for key, value in _keys(table, without)}


def _keys(table: Any, without: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a table and its subtables, as in the file, with their values. Omit keys without a value."""
    for field in attrs.fields(type(table)):
        value, name = getattr(table, field.name), field.name.replace("_", "-")
        if value is None or field.name in without:
            continue
        if field.metadata.get(PREFIX) is not None:
            yield from ((f"{field.metadata[PREFIX]}{key}", item) for key, item in value.items())
        elif attrs.has(type(value)):
            # The settings of a plugin are a derived field: in the file, their keys are in the table itself.
            parent = "" if field.metadata.get(DERIVED) else f"{name}."
            yield from ((f"{parent}{key}", item) for key, item in _keys(value))
        elif field.metadata.get(DERIVED):
            continue  # not a key of the file
        else:
            yield name, value


def _plain(value: Any, salt: str) -> Any:
    if isinstance(value, Secret):
        return SECRET + hmac.digest(salt.encode(), value.encode(), "sha256").hex()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PipelineReference) and value.submitter is None:
        return value.id
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if attrs.has(type(value)):
        return {key: _plain(item, salt) for key, item in _keys(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, salt) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item, salt) for item in value]
    return str(value)
