"""What the ledger knows of the configurations that the service was given: each by its text, and what became of it.

One of them runs. Another one may be asked for, which is how a command has the service reload. What a configuration had
and the next one has no longer may have to leave in order: it is written with the configuration that says how.
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

KEPT = 20  # of those that run no longer


class State(str, Enum):
    """What became of a configuration."""

    ASKED = "asked"
    RUNNING = "running"
    REPLACED = "replaced"
    REFUSED = "refused"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen(kw_only=True)
class Leaving:
    """What is configured no longer, and stays until nothing of it is left to do."""

    ae_titles: tuple[str, ...] = field(default=(), converter=_names)
    submitters: tuple[str, ...] = field(default=(), converter=_names)

    def without(self, other: Leaving) -> Leaving:
        """What is left when these have gone, or come back."""
        return Leaving(
            ae_titles=[name for name in self.ae_titles if name not in other.ae_titles],
            submitters=[name for name in self.submitters if name not in other.submitters],
        )


@frozen(kw_only=True)
class Wanted:
    """What the service is to do for a configuration."""

    replaces: int  # the one that it was compared with
    restart_host: bool = False  # plugins have changed, which are loaded once by a process
    leaving: Leaving = Leaving()  # of the one that it replaces


@frozen(kw_only=True)
class Configuration:
    """One configuration."""

    number: int
    text: str = field(repr=False)
    folder: str  # that relative paths start from
    settings: Mapping[str, Any] = field(repr=False)  # what it says; see `reload.snapshot`
    wanted: Wanted | None  # None: the service was started with it
    leaving: Leaving
    state: State
    reason: str  # why it was refused, or what was not as it should be
    changed_at: datetime  # when it came into its state, UTC


def begin(transaction: Transaction, text: str, folder: str, settings: Mapping[str, Any], now: datetime) -> int:
    """The service has been started with this one; returns its number. What was asked of an earlier one is over."""
    for asked in _those(transaction, State.ASKED):
        refuse(transaction, asked.number, "the service ended before it was applied", now)
    number = _insert(transaction, text, folder, settings, {}, State.ASKED, now)
    run(transaction, number, "", now)
    return number


def ask(
    transaction: Transaction, text: str, folder: str, settings: Mapping[str, Any], wanted: Wanted, now: datetime
) -> int:
    """Have the service that runs take another one; returns its number."""
    return _insert(transaction, text, folder, settings, asdict(wanted), State.ASKED, now)


def run(transaction: Transaction, number: int, reason: str, now: datetime) -> None:
    """This one runs from now on. `reason`: what is not as it should be."""
    is_running = configurations.c.state == State.RUNNING.value
    change = {"state": State.REPLACED.value, "changed_at": now}
    transaction.execute(update(configurations).where(is_running).values(**change))
    _settle(transaction, number, State.RUNNING, reason, now)
    _forget(transaction)


def refuse(transaction: Transaction, number: int, reason: str, now: datetime) -> None:
    """This one was asked for, and does not run."""
    _settle(transaction, number, State.REFUSED, reason, now)


def get(transaction: Transaction, number: int) -> Configuration | None:
    """The configuration with this number."""
    row = transaction.execute(select(configurations).where(configurations.c.number == number)).one_or_none()
    return None if row is None else _configuration(row)


def running(transaction: Transaction) -> Configuration | None:
    """The one that runs, or ran last."""
    return next(iter(_those(transaction, State.RUNNING)), None)


def asked(transaction: Transaction) -> Configuration | None:
    """The one that is asked for."""
    return next(iter(_those(transaction, State.ASKED)), None)


def newest(transaction: Transaction) -> Configuration | None:
    """The last one that was given or asked for."""
    row = transaction.execute(select(configurations).order_by(configurations.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else _configuration(row)


# --- what leaves ----------------------------------------------------------------------------------------------------


def departures(transaction: Transaction) -> list[Configuration]:
    """The configurations of which something has yet to leave, newest first."""
    rows = transaction.execute(select(configurations).order_by(configurations.c.number.desc()))
    found = [_configuration(row) for row in rows]
    return [configuration for configuration in found if configuration.leaving != Leaving()]


def leaving(transaction: Transaction) -> Leaving:
    """All that has yet to leave."""
    found = departures(transaction)
    return Leaving(
        ae_titles=[name for configuration in found for name in configuration.leaving.ae_titles],
        submitters=[name for configuration in found for name in configuration.leaving.submitters],
    )


def let_leave(transaction: Transaction, number: int, what: Leaving) -> None:
    """Have this leave that the configuration with this number has."""
    _set_leaving(transaction, number, what)


def has_left(transaction: Transaction, what: Leaving) -> None:
    """Nothing of this is left to do, or it has come back."""
    for configuration in departures(transaction):
        _set_leaving(transaction, configuration.number, configuration.leaving.without(what))


def _set_leaving(transaction: Transaction, number: int, what: Leaving) -> None:
    of_it = configurations.c.number == number
    transaction.execute(update(configurations).where(of_it).values(leaving=asdict(what)))


# --- rows -----------------------------------------------------------------------------------------------------------


def _insert(
    transaction: Transaction,
    text: str,
    folder: str,
    settings: Mapping[str, Any],
    wanted: Mapping[str, Any],
    state: State,
    now: datetime,
) -> int:
    row = {"text": text, "folder": folder, "settings": dict(settings), "wanted": dict(wanted)}
    rest = {"leaving": asdict(Leaving()), "state": state.value, "reason": "", "changed_at": now}
    return inserted_id(transaction.execute(configurations.insert().values(**row, **rest)))


def _settle(transaction: Transaction, number: int, state: State, reason: str, now: datetime) -> None:
    change = {"state": state.value, "reason": reason, "changed_at": now}
    transaction.execute(update(configurations).where(configurations.c.number == number).values(**change))


def _forget(transaction: Transaction) -> None:
    """Keep the last ones, and those of which something has yet to leave."""
    numbers = list(
        transaction.execute(select(configurations.c.number).order_by(configurations.c.number.desc())).scalars()
    )
    needed: Collection[int] = {configuration.number for configuration in departures(transaction)}
    old = [number for number in numbers[KEPT:] if number not in needed]
    transaction.execute(delete(configurations).where(configurations.c.number.in_(old)))


def _those(transaction: Transaction, state: State) -> Sequence[Configuration]:
    query = select(configurations).where(configurations.c.state == state.value).order_by(configurations.c.number)
    return [_configuration(row) for row in transaction.execute(query)]


def _configuration(row: Row[Any]) -> Configuration:
    wanted = dict(row.wanted)
    return Configuration(
        number=row.number,
        text=row.text,
        folder=row.folder,
        settings=row.settings,
        wanted=Wanted(**{**wanted, "leaving": Leaving(**wanted["leaving"])}) if wanted else None,
        leaving=Leaving(**row.leaving),
        state=State(row.state),
        reason=row.reason,
        changed_at=row.changed_at,
    )
