"""Configurations in the ledger: those with which the service was started, and those that a reload requested.

One configuration is in use. A command requests a reload by inserting another configuration. AE titles and submitters
that a reload removes may have to drain: their names are recorded with the last configuration that contains them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import asdict, field, frozen

from dicom_adapter.ledger.driver import AnyTransaction, execute, execute_many
from dicom_adapter.ledger.microseconds import to_datetime, to_microseconds

KEPT_CONFIGURATIONS = 20  # number of rows; older rows are deleted

_SELECT = "SELECT number, text, folder, settings, wanted, leaving, state, reason, changed_at FROM configurations"
_INSERT = (
    "INSERT INTO configurations (text, folder, settings, wanted, leaving, state, reason, changed_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE = "UPDATE configurations SET state = ?, changed_at = ? WHERE state = ?"
_SET_STATE = "UPDATE configurations SET state = ?, reason = ?, changed_at = ? WHERE number = ?"
_SET_DRAINING = "UPDATE configurations SET leaving = ? WHERE number = ?"
_DELETE = "DELETE FROM configurations WHERE number = ?"


class ConfigurationState(str, Enum):
    """The state of a configuration."""

    REQUESTED = "asked"  # the value in the database since the first version
    RUNNING = "running"
    REPLACED = "replaced"
    REFUSED = "refused"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen(kw_only=True)
class Draining:
    """Names of AE titles and submitters that a reload removed and that are draining."""

    ae_titles: tuple[str, ...] = field(default=(), converter=_names)
    submitters: tuple[str, ...] = field(default=(), converter=_names)

    def without(self, other: Draining) -> Draining:
        """Return the names that are not in `other`."""
        return Draining(
            ae_titles=[name for name in self.ae_titles if name not in other.ae_titles],
            submitters=[name for name in self.submitters if name not in other.submitters],
        )


@frozen(kw_only=True)
class ReloadRequest:
    """The way in which the service applies a requested configuration."""

    replaces: int  # the number of the configuration with which the new one was compared
    restart_host: bool = False  # True if plugins have changed: a process loads plugins only once
    draining: Draining = Draining()  # AE titles and submitters of the replaced configuration


@frozen(kw_only=True)
class Configuration:
    """The text of a configuration file, with its state. `config.Config` is the parsed form of the text."""

    number: int
    text: str = field(repr=False)
    folder: str  # the base of relative paths
    settings: Mapping[str, Any] = field(repr=False)  # parsed values, secrets as digests; see `reload.snapshot`
    request: ReloadRequest | None  # None if the service was started with this configuration
    draining: Draining
    state: ConfigurationState
    reason: str  # why the configuration was refused, or a warning
    changed_at: datetime  # UTC; time of the last change of `state`


def record_start(
    transaction: AnyTransaction, text: str, folder: str, settings: Mapping[str, Any], now: datetime
) -> int:
    """Record that the service was started with this configuration; return its number. Refuse earlier requests."""
    for earlier in _in_state(transaction, ConfigurationState.REQUESTED):
        mark_refused(transaction, earlier.number, "the service ended before it was applied", now)
    number = _insert(transaction, text, folder, settings, {}, ConfigurationState.REQUESTED, now)
    mark_running(transaction, number, "", now)
    return number


def request(
    transaction: AnyTransaction,
    text: str,
    folder: str,
    settings: Mapping[str, Any],
    request: ReloadRequest,
    now: datetime,
) -> int:
    """Request that the running service applies another configuration; return its number."""
    return _insert(transaction, text, folder, settings, _request_to_json(request), ConfigurationState.REQUESTED, now)


def mark_running(transaction: AnyTransaction, number: int, reason: str, now: datetime) -> None:
    """Record that this configuration is in use and replaces the earlier one. `reason`: a warning, or ""."""
    replaced, running = ConfigurationState.REPLACED.value, ConfigurationState.RUNNING.value
    execute(transaction, _REPLACE, [replaced, to_microseconds(now), running])
    _set_state(transaction, number, ConfigurationState.RUNNING, reason, now)
    _delete_old(transaction)


def mark_refused(transaction: AnyTransaction, number: int, reason: str, now: datetime) -> None:
    """Record that this requested configuration was refused."""
    _set_state(transaction, number, ConfigurationState.REFUSED, reason, now)


def get(transaction: AnyTransaction, number: int) -> Configuration | None:
    """Return the configuration with this number, or None."""
    return next(iter(_select(transaction, "WHERE number = ?", [number])), None)


def running(transaction: AnyTransaction) -> Configuration | None:
    """Return the configuration that is in use, or was last in use."""
    return next(iter(_in_state(transaction, ConfigurationState.RUNNING)), None)


def requested(transaction: AnyTransaction) -> Configuration | None:
    """Return the configuration that is requested, or None."""
    return next(iter(_in_state(transaction, ConfigurationState.REQUESTED)), None)


def newest(transaction: AnyTransaction) -> Configuration | None:
    """Return the newest configuration in any state; None if there is none."""
    return next(iter(_select(transaction, "ORDER BY number DESC LIMIT 1")), None)


def all_newest_first(transaction: AnyTransaction) -> list[Configuration]:
    """Return the configurations that are kept, newest first."""
    return _select(transaction, "ORDER BY number DESC")


# --- draining -------------------------------------------------------------------------------------------------------


def with_draining(transaction: AnyTransaction) -> list[Configuration]:
    """Return the configurations with draining AE titles or submitters, newest first."""
    newest_first = all_newest_first(transaction)
    return [configuration for configuration in newest_first if configuration.draining != Draining()]


def draining(transaction: AnyTransaction) -> Draining:
    """Return everything that is draining."""
    draining_configurations = with_draining(transaction)
    return Draining(
        ae_titles=[name for configuration in draining_configurations for name in configuration.draining.ae_titles],
        submitters=[name for configuration in draining_configurations for name in configuration.draining.submitters],
    )


def set_draining(transaction: AnyTransaction, number: int, names: Draining) -> None:
    """Record the draining AE titles and submitters of the configuration with this number."""
    execute(transaction, _SET_DRAINING, [json.dumps(asdict(names)), number])


def end_drain(transaction: AnyTransaction, names: Draining) -> None:
    """Record that these AE titles and submitters are drained, or configured again."""
    for configuration in with_draining(transaction):
        set_draining(transaction, configuration.number, configuration.draining.without(names))


# --- rows -----------------------------------------------------------------------------------------------------------


def _insert(
    transaction: AnyTransaction,
    text: str,
    folder: str,
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    state: ConfigurationState,
    now: datetime,
) -> int:
    values = [text, folder, *map(json.dumps, (dict(settings), dict(request), asdict(Draining())))]
    number = execute(transaction, _INSERT, [*values, state.value, "", to_microseconds(now)]).lastrowid
    assert number is not None  # the statement has inserted a row
    return number


def _set_state(transaction: AnyTransaction, number: int, state: ConfigurationState, reason: str, now: datetime) -> None:
    execute(transaction, _SET_STATE, [state.value, reason, to_microseconds(now), number])


def _delete_old(transaction: AnyTransaction) -> None:
    """Delete old configurations, except those with draining AE titles or submitters."""
    old = [(one.number,) for one in all_newest_first(transaction)[KEPT_CONFIGURATIONS:] if one.draining == Draining()]
    execute_many(transaction, _DELETE, old)


def _in_state(transaction: AnyTransaction, state: ConfigurationState) -> list[Configuration]:
    return _select(transaction, "WHERE state = ? ORDER BY number", [state.value])


def _select(transaction: AnyTransaction, condition: str, values: Sequence[object] = ()) -> list[Configuration]:
    return [_configuration(row) for row in execute(transaction, f"{_SELECT} {condition}", values)]


def _configuration(row: tuple[Any, ...]) -> Configuration:
    number, text, folder, settings, wanted, leaving, state, reason, changed_at = row
    request = json.loads(wanted)
    return Configuration(
        number=number,
        text=text,
        folder=folder,
        settings=json.loads(settings),
        request=_request_from_json(request) if request else None,
        draining=Draining(**json.loads(leaving)),
        state=ConfigurationState(state),
        reason=reason,
        changed_at=to_datetime(changed_at),
    )


def _request_to_json(request: ReloadRequest) -> dict[str, Any]:
    """Return the value of the column `wanted`. Columns and keys keep the names that they had in the first version."""
    return {
        "replaces": request.replaces,
        "restart_host": request.restart_host,
        "leaving": asdict(request.draining),
    }


def _request_from_json(found: Mapping[str, Any]) -> ReloadRequest:
    return ReloadRequest(
        replaces=found["replaces"], restart_host=found["restart_host"], draining=Draining(**found["leaving"])
    )
