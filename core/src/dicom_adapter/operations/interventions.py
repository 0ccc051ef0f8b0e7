"""The changes of instances and results that operators request, with what they need of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from dicom_adapter.config.model import Config
from dicom_adapter.flow.process import quarantine
from dicom_adapter.flow.process.quarantine import Intervention
from dicom_adapter.flow.results.destinations import known_destinations
from dicom_adapter.flow.results.operators import Requeue, ResultChanges
from dicom_adapter.ledger import Ledger
from dicom_adapter.plugins.isolation import make_submitters
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.resources import Resources


def discard_instances(ledger: Ledger, clock: Clock, config: Config, ids: Sequence[int], by: str) -> Intervention:
    """Discard these instances; the lanes of AE titles that are served release them. `by`: the operator."""
    served = [name for name in config.ae_titles if not config.unavailable(name)]
    return quarantine.discard(ledger, clock, ids, by, served)


def requeue_results(
    resources: Resources, config: Config, plugins: Plugins, ids: Sequence[int], by: str, *, force: bool
) -> ResultChanges:
    """Check these results again, and deliver those that pass. `force`: also those that fail. `by`: the operator."""
    requeue = Requeue(
        resources=resources,
        settings={name: table.results for name, table in config.ae_titles.items()},
        known=known_destinations(make_submitters(config, plugins)),
        history=timedelta(days=config.ledger.history_days),
        by=by,
        force=force,
    )
    return requeue.run(ids)
