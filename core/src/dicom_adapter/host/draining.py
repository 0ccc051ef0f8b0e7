"""What a reload removes may leave in order: it stays in the host until nothing of it is left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from attrs import evolve, frozen

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config import load
from dicom_adapter.config.model import AeTitleConfig, Config, SubmitterConfig
from dicom_adapter.flow.reclaim.quota import describe_unconfigured
from dicom_adapter.ledger import Ledger, Transaction, configurations, instances, jobs
from dicom_adapter.ledger.configurations import Leaving
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.host")

LOOK_EVERY = timedelta(seconds=1)


@frozen(kw_only=True)
class Departure:
    """A configuration that was in force, and what has yet to leave of it."""

    config: Config
    leaving: Leaving


def departures(ledger: Ledger, catalogue: Catalogue) -> list[Departure]:
    """What the ledger has of them, newest first. What cannot be read any more is held instead."""
    with ledger.read() as transaction:
        found = configurations.departures(transaction)
    read = [(each, load(each.text, folder=Path(each.folder), catalogue=catalogue).config) for each in found]
    for each, config in read:
        if config is None:
            log.error("leaving_held", ae_titles=each.leaving.ae_titles, submitters=each.leaving.submitters)
    return [Departure(config=config, leaving=each.leaving) for each, config in read if config is not None]


def with_leaving(config: Config, departures: Sequence[Departure]) -> tuple[Config, Leaving]:
    """The configuration together with what leaves, as far as it has not come back; and what that is."""
    ae_titles: dict[str, AeTitleConfig] = {}
    submitters: dict[str, SubmitterConfig] = {}
    for old, leaving in ((departure.config, departure.leaving) for departure in departures):
        mine = {name: old.ae_titles[name] for name in leaving.ae_titles if name in old.ae_titles}
        for name in mine.keys() - config.ae_titles.keys() - ae_titles.keys():
            ae_titles[name] = evolve(mine[name], submitter=old.submitter_for(name))
        needed = {*leaving.submitters, *(table.submitter or "" for table in ae_titles.values())}
        for name in needed & old.submitters.keys() - config.submitters.keys() - submitters.keys():
            submitters[name] = old.submitters[name]
    names = Leaving(ae_titles=sorted(ae_titles), submitters=sorted(submitters))
    if names == Leaving():
        return config, names
    return evolve(
        config,
        ae_titles={**config.ae_titles, **ae_titles},
        submitters={**config.submitters, **submitters},
        default_submitter=_default(config),
    ), names


def _default(config: Config) -> str | None:
    """The only submitter is the default one: it has to stay so beside one that leaves."""
    return config.default_submitter or (next(iter(config.submitters)) if len(config.submitters) == 1 else None)


class Farewell:
    """Sees what leaves to its end. A part of the host."""

    def __init__(self, config: Config, leaving: Leaving, ledger: Ledger, clock: Clock) -> None:
        """`config`: with what leaves."""
        self._config = config
        self._leaving = leaving
        self._ledger = ledger
        self._clock = clock

    def step(self) -> datetime | None:
        """Look what has come to its end."""
        if self._leaving == Leaving():
            return None
        with self._ledger.read() as transaction:
            gone = self._at_an_end(transaction)
        if gone != Leaving():
            self._leaving = self._leaving.without(gone)
            configured = self._config.ae_titles.keys() - gone.ae_titles
            with self._ledger.write() as transaction:
                configurations.has_left(transaction, gone)
                describe_unconfigured(transaction, configured, self._clock.now())
        for name in gone.ae_titles:
            log.info("ae_title_left", ae_title=name)
        for name in gone.submitters:
            log.info("submitter_left", submitter=name)
        return self._clock.now() + LOOK_EVERY

    def _at_an_end(self, transaction: Transaction) -> Leaving:
        """An AE title whose instances are all in jobs that are done, and a submitter that has nothing more to do."""
        unfinished: Mapping[str, object] = jobs.oldest_unfinished(transaction)
        ae_titles = [
            name
            for name in self._leaving.ae_titles
            if name not in unfinished and not instances.pending_after(transaction, 0, 1, name)
        ]
        used = {self._config.submitter_for(name) for name in self._leaving.ae_titles if name not in ae_titles}
        busy = jobs.count_unfinished(transaction).keys() | used
        return Leaving(ae_titles=ae_titles, submitters=[name for name in self._leaving.submitters if name not in busy])
