"""Step 6 (`results`) of the flow: what happens when a job has succeeded on the platform.

The job engine calls `ResultsStep.collect`, and commits what it returns in the transaction in which the job becomes
succeeded: the rows of the outputs, and a delivery job for each destination. If the process crashes before the commit,
the step is repeated; after the commit, it is never repeated. So each output is collected once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from attrs import define, evolve, field

from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job
from dicom_adapter.config.model import Config
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.flow.collected import Collected
from dicom_adapter.flow.results.collect import Collector, StoredOutput
from dicom_adapter.flow.results.deliver import CommittedResults, enter, is_delivery, log_collected
from dicom_adapter.flow.results.destinations import KnownDestinations
from dicom_adapter.ledger import Transaction
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.runtime.resources import Resources

OnDelivery = Callable[[Sequence[Job], Sequence[str]], None]  # arguments: jobs, and the Study Instance UIDs of each

NO_RESULTS = "the job ended with success, but without any output; expect-results = true requires one"


class ResultsStep:
    """Collects the outputs of jobs. Thread-safe."""

    def __init__(self, resources: Resources, on_delivery: OnDelivery) -> None:
        """`on_delivery` is called with new delivery jobs after they were committed. Call `configure` first."""
        self._resources = resources
        self._config: Config | None = None
        self._known: KnownDestinations = {}
        self._remaining: KnownDestinations = {}  # without the AE titles of the nodes of draining submitters
        self._draining = Draining()
        self._on_delivery = on_delivery

    def configure(self, config: Config, known: KnownDestinations, draining: Draining) -> None:
        """Use this configuration, and these submitters, for jobs that end from now on.

        A draining submitter is not the destination of a sender any more: the operator has removed it, and it would
        never finish its work. Only the jobs of draining AE titles still use it.
        """
        self._config, self._known, self._draining = config, known, draining
        self._remaining = {
            name: evolve(facts, node_ae_title=None) if name in draining.submitters else facts
            for name, facts in known.items()
        }

    def collect(self, row: JobRow, submitter: Submitter[Any]) -> Collected:
        """Store the outputs of a job, and return what is to be committed. Raises the errors of `Collector.collect`."""
        if is_delivery(row.job):  # what a destination makes of results is not delivered again
            return Collected()
        config = self._config
        assert config is not None  # as the constructor requires
        table = config.ae_titles.get(row.job.ae_title)  # None if the AE title is not configured any more
        settings = ResultsConfig() if table is None else table.results
        collector = Collector(self._resources, config.storage, settings)
        outputs = collector.collect(submitter, row.job)
        if settings.expect_results and not outputs:
            return Collected(failure=NO_RESULTS)
        history = timedelta(days=config.ledger.history_days)
        pending = _Pending(
            resources=self._resources,
            collector=collector,
            outputs=outputs,
            settings=settings,
            known=self._known if row.job.ae_title in self._draining.ae_titles else self._remaining,
            history=history,
            on_delivery=self._on_delivery,
        )
        return Collected(commit=pending.commit, committed=pending.committed, abandoned=pending.abandoned)


@define(eq=False, kw_only=True)
class _Pending:
    """Outputs that are stored, until their rows are committed."""

    resources: Resources
    collector: Collector
    outputs: Sequence[StoredOutput]
    settings: ResultsConfig
    known: KnownDestinations
    history: timedelta
    on_delivery: OnDelivery
    entered: tuple[Job, CommittedResults] | None = field(default=None, init=False)

    def commit(self, transaction: Transaction, row: JobRow) -> None:
        if self.outputs:
            now = self.resources.clock.now()
            committed = enter(transaction, row, self.outputs, self.settings, self.known, now, self.history)
            self.entered = row.job, committed

    def committed(self) -> None:
        if self.entered is not None:
            log_collected(*self.entered)
            committed = self.entered[1]
            if committed.jobs:
                self.on_delivery(committed.jobs, committed.studies)

    def abandoned(self) -> None:
        """Delete the outputs if their rows were not committed: the next attempt stores them again.

        If all rows were entered, the transaction may have been committed, so the outputs are kept. An audit finds them
        if they have no rows.
        """
        if self.entered is None:
            self.collector.discard(self.outputs)
