"""Configurations in the ledger: those with which the service was started, and those that a reload requested.

One configuration is in use. A command requests a reload by inserting another configuration. AE titles and submitters
that a reload removes may have to drain: their names are recorded with the last configuration that contains them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import asdict, field, frozen
from sqlalchemy import Row, delete, select, update

from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.schema import configurations

KEPT_CONFIGURATIONS = 20  # number of rows; older rows are deleted


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


def record_start(transaction: Transaction, text: str, folder: str, settings: Mapping[str, Any], now: datetime) -> int:
    """Record that the service was started with this configuration; return its number. Refuse earlier requests."""
    for earlier in _in_state(transaction, ConfigurationState.REQUESTED):
        mark_refused(transaction, earlier.number, "the service ended before it was applied", now)
    number = _insert(transaction, text, folder, settings, {}, ConfigurationState.REQUESTED, now)
    mark_running(transaction, number, "", now)
    return number


def request(
    transaction: Transaction, text: str, folder: str, settings: Mapping[str, Any], request: ReloadRequest, now: datetime
) -> int:
    """Request that the running service applies another configuration; return its number."""
    return _insert(transaction, text, folder, settings, _request_to_json(request), ConfigurationState.REQUESTED, now)


def mark_running(transaction: Transaction, number: int, reason: str, now: datetime) -> None:
    """Record that this configuration is in use and replaces the earlier one. `reason`: a warning, or ""."""
    is_running = configurations.c.state == ConfigurationState.RUNNING.value
    change = {"state": ConfigurationState.REPLACED.value, "changed_at": now}
    transaction.execute(update(configurations).where(is_running).values(**change))
    _set_state(transaction, number, ConfigurationState.RUNNING, reason, now)
    _delete_old(transaction)


def mark_refused(transaction: Transaction, number: int, reason: str, now: datetime) -> None:
    """Record that this requested configuration was refused."""
    _set_state(transaction, number, ConfigurationState.REFUSED, reason, now)


def get(transaction: Transaction, number: int) -> Configuration | None:
    """Return the configuration with this number, or None."""
    row = transaction.execute(select(configurations).where(configurations.c.number == number)).one_or_none()
    return None if row is None else _configuration(row)


def running(transaction: Transaction) -> Configuration | None:
    """Return the configuration that is in use, or was last in use."""
    return next(iter(_in_state(transaction, ConfigurationState.RUNNING)), None)


def requested(transaction: Transaction) -> Configuration | None:
    """Return the configuration that is requested, or None."""
    return next(iter(_in_state(transaction, ConfigurationState.REQUESTED)), None)


def newest(transaction: Transaction) -> Configuration | None:
    """Return the newest configuration in any state; None if there is none."""
    row = transaction.execute(select(configurations).order_by(configurations.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else _configuration(row)


def all_newest_first(transaction: Transaction) -> list[Configuration]:
    """Return the configurations that are kept, newest first."""
    rows = transaction.execute(select(configurations).order_by(configurations.c.number.desc()))
    return [_configuration(row) for row in rows]


# --- draining -------------------------------------------------------------------------------------------------------


def with_draining(transaction: Transaction) -> list[Configuration]:
    """Return the configurations with draining AE titles or submitters, newest first."""
    newest_first = all_newest_first(transaction)
    return [configuration for configuration in newest_first if configuration.draining != Draining()]


def draining(transaction: Transaction) -> Draining:
    """Return everything that is draining."""
    draining_configurations = with_draining(transaction)
    return Draining(
        ae_titles=[name for configuration in draining_configurations for name in configuration.draining.ae_titles],
        submitters=[name for configuration in draining_configurations for name in configuration.draining.submitters],
    )


def set_draining(transaction: Transaction, number: int, names: Draining) -> None:
    """Record the draining AE titles and submitters of the configuration with this number."""
    has_number = configurations.c.number == number
    transaction.execute(update(configurations).where(has_number).values(leaving=asdict(names)))


def end_drain(transaction: Transaction, names: Draining) -> None:
    """Record that these AE titles and submitters are drained, or configured again."""
    for configuration in with_draining(transaction):
        set_draining(transaction, configuration.number, configuration.draining.without(names))


# --- rows -----------------------------------------------------------------------------------------------------------


def _insert(
    transaction: Transaction,
    text: str,
    folder: str,
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    state: ConfigurationState,
    now: datetime,
) -> int:
    row = {"text": text, "folder": folder, "settings": dict(settings), "wanted": dict(request)}
    rest = {"leaving": asdict(Draining()), "state": state.value, "reason": "", "changed_at": now}
    return inserted_id(transaction.execute(configurations.insert().values(**row, **rest)))


def _set_state(transaction: Transaction, number: int, state: ConfigurationState, reason: str, now: datetime) -> None:
    change = {"state": state.value, "reason": reason, "changed_at": now}
    transaction.execute(update(configurations).where(configurations.c.number == number).values(**change))


def _delete_old(transaction: Transaction) -> None:
    """Delete old configurations, except those with draining AE titles or submitters."""
    numbers = list(
        transaction.execute(select(configurations.c.number).order_by(configurations.c.number.desc())).scalars()
    )
    needed: Collection[int] = {configuration.number for configuration in with_draining(transaction)}
    old = [number for number in numbers[KEPT_CONFIGURATIONS:] if number not in needed]
    transaction.execute(delete(configurations).where(configurations.c.number.in_(old)))


def _in_state(transaction: Transaction, state: ConfigurationState) -> Sequence[Configuration]:
    query = select(configurations).where(configurations.c.state == state.value).order_by(configurations.c.number)
    return [_configuration(row) for row in transaction.execute(query)]


def _configuration(row: Row[Any]) -> Configuration:
    return Configuration(
        number=row.number,
        text=row.text,
        folder=row.folder,
        settings=row.settings,
        request=_request_from_json(row.wanted) if row.wanted else None,
        draining=Draining(**row.leaving),
        state=ConfigurationState(row.state),
        reason=row.reason,
        changed_at=row.changed_at,
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
