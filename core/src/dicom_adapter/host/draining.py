"""Draining: AE titles and submitters that a reload removed stay in the host until their work is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from attrs import evolve, frozen

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config import load
from dicom_adapter.config.model import AeTitleConfig, Config, SubmitterConfig
from dicom_adapter.config.references import referenced_submitters
from dicom_adapter.flow.reclaim.quota import describe_unconfigured
from dicom_adapter.ledger import Ledger, Transaction, clean_ups, configurations, instances, jobs
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.host")

CHECK_EVERY = timedelta(seconds=1)


@frozen(kw_only=True)
class PreviousConfig:
    """A parsed configuration that a reload replaced, with the names of its draining AE titles and submitters."""

    config: Config
    draining: Draining


def previous_configs(ledger: Ledger, catalogue: Catalogue) -> list[PreviousConfig]:
    """Return the previous configurations with draining AE titles or submitters, newest first.

    A configuration that cannot be parsed any more is omitted: the instances of its AE titles are held.
    """
    with ledger.read() as transaction:
        stored = configurations.with_draining(transaction)
    loaded = [
        (previous, load(previous.text, folder=Path(previous.folder), catalogue=catalogue).config) for previous in stored
    ]
    for previous, config in loaded:
        if config is None:
            log.error("drain_failed", ae_titles=previous.draining.ae_titles, submitters=previous.draining.submitters)
    return [
        PreviousConfig(config=config, draining=previous.draining) for previous, config in loaded if config is not None
    ]


def with_draining(config: Config, previous: Sequence[PreviousConfig]) -> tuple[Config, Draining]:
    """Return the configuration extended by all draining AE titles and submitters, and their names.

    An AE title or submitter that `config` contains is not draining.
    """
    ae_titles: dict[str, AeTitleConfig] = {}
    submitters: dict[str, SubmitterConfig] = {}
    for old, draining in ((entry.config, entry.draining) for entry in previous):
        removed = {name: old.ae_titles[name] for name in draining.ae_titles if name in old.ae_titles}
        for name in removed.keys() - config.ae_titles.keys() - ae_titles.keys():
            ae_titles[name] = evolve(removed[name], submitter=old.submitter_for(name))
        needed = {*draining.submitters, *(table.submitter or "" for table in ae_titles.values())}
        needed |= {name for table in ae_titles.values() for name in referenced_submitters(table)}
        for name in needed & old.submitters.keys() - config.submitters.keys() - submitters.keys():
            submitters[name] = old.submitters[name]
    names = Draining(ae_titles=sorted(ae_titles), submitters=sorted(submitters))
    if names == Draining():
        return config, names
    return evolve(
        config,
        ae_titles={**config.ae_titles, **ae_titles},
        submitters={**config.submitters, **submitters},
        default_submitter=_default_submitter(config),
    ), names


def _default_submitter(config: Config) -> str | None:
    """Return the default submitter. A single configured submitter is the default, even if other submitters drain."""
    return config.default_submitter or (next(iter(config.submitters)) if len(config.submitters) == 1 else None)


class Drain:
    """A part of the host that watches the draining AE titles and submitters, and records the end of each drain."""

    def __init__(self, config: Config, draining: Draining, resources: Resources) -> None:
        """Watch `draining`. `config` is extended by the draining AE titles and submitters."""
        self._config = config
        self._draining = draining
        self._ledger, self._clock, self._enter_until = resources.ledger, resources.clock, resources.enter_until

    def step(self) -> datetime | None:
        """Record and log the AE titles and submitters that are drained by now. Return the time of the next check."""
        if self._draining == Draining():
            return None
        self._enter_until(self._clock.now())  # stored instances without a row are pending, too
        with self._ledger.read() as transaction:
            drained = self._drained(transaction)
        if drained != Draining():
            self._draining = self._draining.without(drained)
            configured = self._config.ae_titles.keys() - drained.ae_titles
            with self._ledger.write() as transaction:
                configurations.end_drain(transaction, drained)
                describe_unconfigured(transaction, configured, self._clock.now())
        for name in drained.ae_titles:
            log.info("ae_title_drained", ae_title=name)
        for name in drained.submitters:
            log.info("submitter_drained", submitter=name)
        return self._clock.now() + CHECK_EVERY

    def _drained(self, transaction: Transaction) -> Draining:
        """Return the AE titles without pending instances and unfinished jobs, and the submitters without work."""
        unfinished: Mapping[str, object] = jobs.oldest_unfinished(transaction)
        ae_titles = [
            name
            for name in self._draining.ae_titles
            if name not in unfinished and not instances.pending_after(transaction, 0, 1, name)
        ]
        left = [name for name in self._draining.ae_titles if name not in ae_titles]
        used = {submitter for name in left for submitter in self._config.submitters_of(name)}
        busy = jobs.count_unfinished(transaction).keys() | clean_ups.submitters(transaction) | used
        return Draining(
            ae_titles=ae_titles, submitters=[name for name in self._draining.submitters if name not in busy]
        )
