"""The host: notify, process, submit, reclaim, and the observers.

`Host` puts the steps of the flow together and is passive: each of its parts is a step function that says when it wants
to be called again. `host_process` runs them on threads; tests call `settle` under a virtual clock.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any

import structlog

from dicom_adapter.clock import Clock
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.errors import describe_failure
from dicom_adapter.flow.choice import Retries
from dicom_adapter.flow.notify import Notify
from dicom_adapter.flow.process import Lane
from dicom_adapter.flow.reclaim import Reclaim
from dicom_adapter.flow.submit import Submission
from dicom_adapter.flow.turn import Committed, LaneSettings
from dicom_adapter.ledger import Ledger, jobs, lanes
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.model import InstanceStorageInfo, Job
from dicom_adapter.parts import JobQueue, PlatformWatch, ServedLane, Step
from dicom_adapter.plugins import PluginInfo, Plugins
from dicom_adapter.storage import StorageBackend
from dicom_adapter.submitter import Submitter, SubmitterContext

log = structlog.get_logger("dicom_adapter.host")

LOOK_EVERY = timedelta(seconds=1)  # for what arrived, should a wake-up ever get lost
SWEEP_EVERY = timedelta(minutes=1)  # for what other processes release, and for what could not be deleted the last time


class Host:
    """All that happens after an instance is stored."""

    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        storage: StorageBackend[Any],
        ledger: Ledger,
        clock: Clock,
        uploads: Callable[[str, int], Executor],
        wake: Callable[[str], None],
    ) -> None:
        """`uploads` makes the executor of a submitter; `wake` is called with the name of a part that has work now."""
        self._config = config
        self._plugins = plugins
        self._storage = storage
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._told: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._candidates: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        self._sweep_at = clock.now()
        self._notify = Notify(ledger)
        self._reclaim = Reclaim(ledger, storage, clock, self._on_reclaimed)
        self._lanes = {
            name: ServedLane(self._lane(name, table), ledger, clock)
            for name, table in config.ae_titles.items()
            if not config.unavailable(name)
        }
        self._submissions = {
            name: self._submission(name, submitter, uploads) for name, submitter in self._make_submitters().items()
        }
        self._queues = {
            name: JobQueue(name, submission, Retries.of(config.submitters[name]), ledger, clock)
            for name, submission in self._submissions.items()
        }
        self._announce_lanes()

    # --- putting it together ----------------------------------------------------------------------------------------

    def _lane(self, ae_title: str, table: AeTitleConfig) -> Lane:
        settings = LaneSettings(
            ae_title=ae_title,
            processor=self._plugins.catalogue().processors[table.processor],
            settings=table.settings,
            submitter=self._config.submitter_for(ae_title),
            data_folder=self._config.storage.path / "processors" / ae_title.encode().hex(),
        )
        return Lane(settings, self._ledger, self._storage, self._clock, self._on_commit)

    def _make_submitters(self) -> dict[str, Submitter[Any]]:
        classes = self._plugins.catalogue().submitters
        made = {}
        for name, table in self._config.submitters.items():
            if table.unavailable:
                continue
            folder = self._config.storage.path / "submitters" / name.encode().hex()
            made[name] = classes[table.type](table.settings, SubmitterContext(name=name, data_folder=folder))
        return made

    def _submission(self, name: str, submitter: Submitter[Any], uploads: Callable[[str, int], Executor]) -> Submission:
        table = self._config.submitters[name]
        return Submission(
            submitter,
            Retries.of(table),
            self._ledger,
            self._storage,
            self._clock,
            uploads(name, table.parallel),
            self._on_job_changed,
            {ae_title: entry.metadata for ae_title, entry in self._config.ae_titles.items()},
        )

    def _announce_lanes(self) -> None:
        """Tell receivers which AE titles are served, before they take anything."""
        with self._ledger.write() as transaction:
            lanes.keep_only(transaction, list(self._config.ae_titles))
            for name in self._config.ae_titles:
                reason = self._config.unavailable(name)
                state = LaneState.STOPPED if reason else LaneState.RUNNING
                lanes.save(transaction, LaneReport(ae_title=name, state=state, reason=reason, since=self._clock.now()))

    # --- the parts --------------------------------------------------------------------------------------------------

    def parts(self) -> Mapping[str, tuple[Step, int]]:
        """The step function of each part by its name, and how many threads it may run on."""
        parts: dict[str, tuple[Step, int]] = {
            "notify": (self._take_notice, 1),
            "reclaim": (self._give_back, 1),
            "observers": (self._tell_observers, 1),
        }
        for name, lane in self._lanes.items():
            parts[f"lane {name}"] = (lane.step, 1)
        for name, submission in self._submissions.items():
            table = self._config.submitters[name]
            parts[f"submitter {name}"] = (self._queues[name].step, table.parallel)
            if table.status_every is not None:
                every = timedelta(seconds=table.status_every)
                watch = PlatformWatch(name, submission, every, self._ledger, self._clock)
                parts[f"platform watch {name}"] = (watch.step, 1)
        return parts

    def settle(self) -> datetime | None:
        """Take steps until nothing is left to do at this time; returns when there will be."""
        while True:
            now = self._clock.now()
            wanted = [step() for step, _threads in self.parts().values()]
            later = [when for when in wanted if when is not None]
            if not any(when <= now for when in later) and not self._has_work():
                return min(later, default=None)

    def _has_work(self) -> bool:
        return not self._told.empty() or not self._candidates.empty()

    def _take_notice(self) -> datetime:
        for arrived in self._notify.arrived():
            for instance in arrived.instances:
                self._tell("dicom_adapter_instance_stored", instance=instance)
            for ae_title in {instance.ae_title for instance in arrived.instances} & self._lanes.keys():
                self._lanes[ae_title].expect_news()
                self._wake(f"lane {ae_title}")
            if arrived.replaced:
                self._consider(arrived.replaced)
        return self._clock.now() + LOOK_EVERY

    def _give_back(self) -> datetime:
        if self._sweep_at <= self._clock.now():
            self._sweep_at = self._clock.now() + SWEEP_EVERY  # before it may fail: candidates need not wait for that
            self._reclaim.everything()
        while not self._candidates.empty():
            self._reclaim.reclaim(self._candidates.get())
        return self._sweep_at

    def _tell_observers(self) -> None:
        while not self._told.empty():
            hook, arguments = self._told.get()
            self._plugins.notify(hook, _observer_failed, **arguments)

    # --- what one part tells the others -----------------------------------------------------------------------------

    def _on_commit(self, committed: Committed) -> None:
        for job in committed.jobs:
            log.info(
                "job_queued",
                job_id=job.job_id,
                ae_title=job.ae_title,
                name=job.name,
                pipeline=job.pipeline_id,
                priority=job.priority.value,
                instances=job.instance_count,
            )
            self._tell("dicom_adapter_job_changed", job=job)
            self._wake(f"submitter {job.submitter}")
        if committed.released:
            self._consider(committed.released)

    def _on_job_changed(self, job: Job) -> None:
        self._tell("dicom_adapter_job_changed", job=job)
        if job.state in FINISHED:
            with self._ledger.read() as transaction:
                row = jobs.get(transaction, job.job_id)
                numbers = [] if row is None else jobs.instance_ids(transaction, row.number)
            self._consider(numbers)

    def _on_reclaimed(self, instances: Sequence[InstanceStorageInfo]) -> None:
        self._tell("dicom_adapter_instances_reclaimed", instances=instances)

    def _consider(self, numbers: Sequence[int]) -> None:
        self._candidates.put(numbers)
        self._wake("reclaim")

    def _tell(self, hook: str, **arguments: Any) -> None:
        self._told.put((hook, arguments))
        self._wake("observers")

    def close(self) -> None:
        """Close what plugins have opened. The ledger has everything that matters."""
        for lane in self._lanes.values():
            lane.close()
        for submission in self._submissions.values():
            submission.close()


def _observer_failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    log.error("observer_failed", plugin=str(plugin), hook=hook, error=describe_failure(failure))
