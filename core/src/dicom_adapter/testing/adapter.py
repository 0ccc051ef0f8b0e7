"""The adapter of a test: configured by TOML, with methods to send instances and to compare jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import tomli
from pydicom.dataset import Dataset

from dicom_adapter.api.errors import ConfigurationError
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.api.values import AssociationStatus, Job
from dicom_adapter.config import Config, load, plugin_settings
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.net.results import SendResult
from dicom_adapter.plugins.registry import discover
from dicom_adapter.simulation.adapter import Plugin, SimulatedAdapter
from dicom_adapter.simulation.clock import VirtualClock
from dicom_adapter.simulation.platform import MemoryPlugin, Platform
from dicom_adapter.testing.description import describe
from dicom_adapter.testing.expectation import ActualJob, ExpectedJob, find_differences
from dicom_adapter.testing.job_list import JobList
from dicom_adapter.testing.loopback import Loopback

T = TypeVar("T")

STORAGE = """
[storage]
backend = "memory"
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
"""
SUBMITTER = """
[submitters.memory]
type = "memory"
"""


class Adapter(SimulatedAdapter):
    """A complete adapter in the test process. Only `advance` and the arguments `at` and `by` move its virtual clock."""

    def __init__(self, folder: Path, configuration: str, plugins: Sequence[Plugin] = ()) -> None:
        """Start an adapter.

        `configuration` is TOML. If it has no tables [storage] or [submitters], a backend or submitter in memory is
        used. Raises ConfigurationError with all problems of the configuration.
        """
        memory = MemoryPlugin()
        self.platform: Platform = memory.platform  # platform of the submitter `memory`
        self.refused: list[StoreResult] = []  # results of `receive` for instances that were not stored
        self._folder = folder
        self._loopback: Loopback | None = None
        found = discover(*plugins, Plugin(memory, name="memory"), disable=plugin_settings(configuration).disable)
        clock = VirtualClock()
        self.started_at = clock.now()
        super().__init__(_load(folder, configuration, found.catalogue()), found, clock)

    @property
    def elapsed(self) -> float:
        """Seconds since the adapter's start."""
        return (self.clock.now() - self.started_at).total_seconds()

    # --- actions ----------------------------------------------------------------------------------------------

    def receive(
        self,
        *data_sets: Dataset,
        ae_title: str | None = None,
        calling_ae_title: str = "TEST-SCU",
        at: float | None = None,
        association_id: str = "",
        status: AssociationStatus = AssociationStatus.RELEASED,
        failed: Mapping[str, int] | None = None,
        cut_off: int = 0,
        studies: Collection[str] = (),
    ) -> list[StoreResult]:
        """Receive instances in one association, then end the association; deliver everything to the processor.

        `ae_title` may be omitted if only one AE title is configured. `at` is the time in seconds since the start; by
        default, the current time. `status`: how the association ends; with `AssociationStatus.OPEN` it remains open,
        and a later call with its `association_id` continues it. `failed`: number of C-STOREs that fail in addition, by
        status, such as {"OUT_OF_RESOURCES": 60}. `cut_off`: number of data sets that are incomplete when the
        association ends. `studies`: the Study Instance UIDs of the failed and incomplete instances; empty if unknown.
        """
        self._move_to(at)
        results = self.receive_association(
            *data_sets,
            ae_title=self._resolve_ae_title(ae_title),
            calling_ae_title=calling_ae_title,
            association_id=association_id,
            status=status,
            failed=failed,
            cut_off=cut_off,
            studies=studies,
        )
        self.refused += [result for result in results if not result.outcome.is_acknowledged]
        return results

    def send(
        self,
        *data_sets: Dataset,
        ae_title: str | None = None,
        calling_ae_title: str = "TEST-SCU",
        at: float | None = None,
    ) -> list[SendResult]:
        """Receive instances like `receive`, over a real association on the loopback interface."""
        self._move_to(at)
        if self._loopback is None:
            self._loopback = Loopback(self.config, self.resources)
        results = self._loopback.send(data_sets, self._resolve_ae_title(ae_title), calling_ae_title)
        self._run_until_idle()
        return results

    def restart(self, configuration: str | None = None) -> None:
        """Close everything and start again from the stored data, as after a stop or a crash.

        `configuration` is TOML; if omitted, the current configuration is kept.
        """
        if configuration is None:
            self.restart_with(self.config)
        else:
            self.restart_with(_load(self._folder, configuration, self._plugins.catalogue()))

    def reload(self, configuration: str, *, drain: bool = False) -> None:
        """Apply another configuration, as `dicom-adapter reload` does: unchanged parts keep running.

        With `drain`, removed AE titles and submitters finish their work first. If an AE title cannot be served,
        nothing is changed and Refused is raised.
        """
        config, before = _load(self._folder, configuration, self._plugins.catalogue()), self.config
        draining = Draining(ae_titles=before.ae_titles, submitters=before.submitters) if drain else Draining()
        self.configure(config, draining)

    def close(self) -> None:
        if self._loopback is not None:
            self._loopback.close()
            self._loopback = None
        super().close()

    def _resolve_ae_title(self, ae_title: str | None) -> str:
        if ae_title is not None:
            return ae_title
        if len(self.config.ae_titles) > 1:
            raise ValueError(
                f"several AE titles are configured; pass one of them: ae_title={' or '.join(self.config.ae_titles)}"
            )
        return next(iter(self.config.ae_titles))

    def _move_to(self, seconds: float | None) -> None:
        if seconds is not None:
            self.advance_to(self._time(seconds))

    def _time(self, seconds: float) -> datetime:
        when = self.started_at + timedelta(seconds=seconds)
        if when < self.clock.now():
            raise ValueError(f"the virtual clock cannot go back to {seconds:.10g} s: it is at {self.elapsed:.10g} s")
        return when

    def ask(self, ae_title: str, request: Callable[[Any], T]) -> T:
        """Call `request` with the processor of an AE title, as `LaneHandle.ask` does. Raises errors of `request`."""
        future = self.host.handles[ae_title].ask(request)
        self.host.run_until_idle()
        return future.result(0)

    # --- results ------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[Job]:
        """All jobs in the order of their submission."""
        return JobList(super().jobs, self.describe)

    def expect_jobs(self, *expected: ExpectedJob, by: float | None = None) -> None:
        """Compare all jobs, in the order of their submission, with the expected jobs.

        If `by` is given, first advance the clock to this time (in seconds since the start). Raises AssertionError with
        the differences and a description of the adapter.
        """
        __tracebackhide__ = True
        self._move_to(by)
        actual = [ActualJob(job=job, instances=self.instances_of(job), started_at=self.started_at) for job in self.jobs]
        differences = find_differences(expected, actual)
        if differences:
            raise AssertionError("\n".join([*differences, "", self.describe()]))

    def describe(self) -> str:
        """Return a description of all jobs, waiting groups, instances and failures, for debugging."""
        return "\n".join(describe(self, self.started_at, self.refused))

    def __repr__(self) -> str:
        return self.describe()


def _load(folder: Path, configuration: str, catalogue: Catalogue) -> Config:
    try:
        tables = tomli.loads(configuration).keys()
    except tomli.TOMLDecodeError:
        tables = {"storage": None, "submitters": None}.keys()  # loading reports the problem
    configuration += ("" if "storage" in tables else STORAGE) + ("" if "submitters" in tables else SUBMITTER)
    loaded = load(configuration, folder=folder, catalogue=catalogue)
    if loaded.config is None:
        raise ConfigurationError([str(problem) for problem in loaded.problems])
    return loaded.config
