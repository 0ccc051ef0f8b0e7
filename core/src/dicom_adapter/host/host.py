"""The host: enter rows, notify, process, submit, reclaim, and the observers.

`Host` combines the steps of the flow. It has no threads: each of its parts has a step function, which does the work of
the part and returns the time of its next call. `host.threads` calls the step functions on threads; tests call
`run_until_idle` on a virtual clock.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta, timezone
from typing import Any

import structlog
from attrs import evolve, frozen

from dicom_adapter.api.errors import LedgerError, Refused
from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import InstanceStorageInfo, Job
from dicom_adapter.config.model import Config
from dicom_adapter.flow.acceptance import measure_space
from dicom_adapter.flow.process.turn import Committed
from dicom_adapter.flow.reclaim.quota import Quota
from dicom_adapter.flow.reclaim.reclaim import Reclaim
from dicom_adapter.flow.reclaim.retention import Retention
from dicom_adapter.flow.reclaim.watermark import bytes_to_free
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.submit.job_measures import JobMeasures
from dicom_adapter.host.arrivals import Arrivals
from dicom_adapter.host.draining import Drain
from dicom_adapter.host.job_log import log_queued
from dicom_adapter.host.lanes import AeTitleDecisions, Lanes, decide_ae_titles
from dicom_adapter.host.observers import Observer
from dicom_adapter.host.submitters import NewSubmitters, Submitters
from dicom_adapter.ledger import jobs, lanes, recorded_events
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.plugins.isolation import RESULT_CHECKS, close_within, log_hook_failure
from dicom_adapter.plugins.registry import PROCESSOR, Plugins
from dicom_adapter.runtime.parts import Part, PartKind, Parts, PartWork, lane_part, submitter_part
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.watch import PartFinding
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.host")

POLL_EVERY = timedelta(seconds=1)  # interval of polls for instances whose wake-up was lost, and for operators' requests
SWEEP_EVERY = timedelta(minutes=1)  # interval of sweeps, for releases by other processes and for failed deletions
FREE_SPACE_EVERY = timedelta(seconds=10)  # time between two requests to free space: a request needs time to take effect
QUOTA_PAUSE_FACTOR = 10  # updating the quota takes at most a tenth of the time, however much is stored
EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
INSTANCE_STORED = "dicom_adapter_instance_stored"  # an observer hook
STEP_ORDER = (  # the order in which `run_until_idle` runs the parts
    PartKind.ENTER,
    PartKind.NOTIFY,
    PartKind.OPERATORS,
    PartKind.RECLAIM,
    PartKind.HISTORY,
    PartKind.OBSERVER,
    PartKind.LANE,
    PartKind.SUBMITTER,
    PartKind.STATUS_WATCH,
    PartKind.TIME_LIMIT,
    PartKind.CLEAN_UP,
    PartKind.DRAIN,
    PartKind.FREE_SPACE,
    PartKind.QUOTA,  # last, because all other parts may change the number of held instances
)


@frozen(kw_only=True)
class Reconfiguration:
    """The changes that the host made for another configuration."""

    removed: Mapping[Part, Callable[[], None]]  # parts that were removed or replaced, with functions that close them
    changed: Mapping[str, Future[None]]  # AE titles with other settings; each future is done when they are in use


class Host:
    """Runs all steps of the flow after an instance is stored. The caller runs the steps of its parts."""

    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        resources: Resources,
        uploads: Callable[[str, int], Executor],
        wake: Callable[[Part], None],
        *,
        poll_every: timedelta | None = None,
        draining: Draining = Draining(),  # noqa: B008 - a frozen value
    ) -> None:
        """Apply the first configuration.

        `uploads` makes the executor of a submitter, from its name and number of threads. `wake` is called with a part,
        to run its step now. `poll_every` is the interval in which parts look for changes without a notification.
        `draining` are the AE titles and submitters of `config` that are removed when their work is finished.
        """
        self._plugins = plugins
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        ledger, clock = self._ledger, self._clock
        self._measures = JobMeasures(resources.counts)
        self._find_problem = resources.problem
        self._wake_worker = wake
        self._woken: set[Part] = set()  # parts that have work now; read by `run_until_idle` only
        self._next_step: dict[Part, datetime | None] = {}  # time of the next step, as the part's last step returned
        self._poll_every = poll_every or POLL_EVERY
        self._observers = {info.name: Observer(info, plugins, clock) for info in plugins.observers}
        self._candidates: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        self._sweep: Iterator[int] | None = None  # the current sweep over all released instances
        self._sweep_at = self._free_space_at = clock.now()
        is_observed = any(INSTANCE_STORED in info.observes for info in plugins.observers)
        on_stored = self._notify_stored if is_observed else None
        self._arrivals = Arrivals(
            config, resources, self._wake, lambda: self._lanes.lanes, on_stored, self._add_candidates, self._poll_every
        )
        self._resources = resources = evolve(resources, enter_until=self._arrivals.enter_until)
        self._reclaim = Reclaim(resources, self._on_reclaimed)
        self._submitters = Submitters(resources, uploads, self._on_job_changed, poll_every, self._on_commit, self._wake)
        self._lanes = Lanes(resources, self._on_commit, self._wake)
        new_submitters = self._submitters.make(config, plugins)
        decisions = decide_ae_titles(config, plugins, new_submitters.broken, new_submitters.pipelines)
        self._lanes.announce(config, decisions)
        self._apply(config, new_submitters, decisions, draining)
        with ledger.read() as transaction:
            self._restarts = lanes.restarts(transaction)  # number of restarts that were carried out, by AE title
            self._last_event = recorded_events.last_number(
                transaction
            )  # the last event that `_report_cancelled_jobs` has read

    # --- configuration ----------------------------------------------------------------------------------------------

    def configure(self, config: Config, draining: Draining) -> Reconfiguration:
        """Apply another configuration. Unchanged parts continue.

        Only one thread may call this method. Raises Refused, and changes nothing, if an AE title cannot be served.
        """
        new_submitters = self._submitters.make(config, self._plugins)
        decisions = decide_ae_titles(config, self._plugins, new_submitters.broken, new_submitters.pipelines)
        refused = {name: reason for name, reason in decisions.refused.items() if name not in draining.ae_titles}
        if refused:
            raise Refused("; ".join(f"AE title '{name}': {reason}" for name, reason in refused.items()))
        try:
            self._lanes.announce(config, decisions)
        except LedgerError as failure:
            raise Refused(str(failure)) from failure
        return self._apply(config, new_submitters, decisions, draining)

    def _apply(
        self, config: Config, new_submitters: NewSubmitters, decisions: AeTitleDecisions, draining: Draining
    ) -> Reconfiguration:
        """Apply the first configuration, or the next configuration."""
        self._config, ledger = config, self._ledger
        self._arrivals.configure(config)
        removed_submitters = self._submitters.apply(config, new_submitters, draining)
        removed_lanes, changed = self._lanes.apply(config, decisions, self._plugins, self._submitters.names)
        self._notified_of_jobs = self._lanes.overriding("job_changed")
        self._able_to_free_space = self._lanes.overriding("free_space")
        self._retention = Retention.of(config, ledger, self._clock)
        self._drain = Drain(config, draining, self._resources)
        self._quota = Quota(ledger, self._clock, config.storage.quarantine_quota, config.ae_titles)
        return Reconfiguration(removed={**removed_submitters, **removed_lanes}, changed=changed)

    @property
    def served(self) -> Mapping[str, str]:
        """The AE titles that are served, with their processors' descriptions of their settings."""
        return self._lanes.decisions.served

    @property
    def notices(self) -> Mapping[str, Sequence[str]]:
        """The notices of the processors about their settings, by AE title."""
        return self._lanes.decisions.notices

    @property
    def refused(self) -> Mapping[str, str]:
        """The configured AE titles that cannot be served, with the reasons."""
        return self._lanes.decisions.refused

    def processor_of(self, ae_title: str) -> str:
        """Return the name of the processor of an AE title."""
        return self._config.ae_titles[ae_title].processor

    @property
    def handles(self) -> Mapping[str, LaneHandle]:
        """The handles of the lanes, by AE title, for plugins."""
        return self._lanes.handles

    def provided_by_plugins(self, hook: str) -> dict[str, list[Any]]:
        """Return the results of the hook `dicom_adapter_http` or `dicom_adapter_servers`, by entry point."""
        return self._plugins.call_late_hook(
            hook, log_hook_failure, lambda plugin: {"lanes": self._handles_of(plugin)}, RESULT_CHECKS[hook]
        )

    def handles_for(self, *hooks: str) -> dict[str, LaneHandle]:
        """Return the handles of the lanes that are passed to plugins which implement one of these hooks."""
        plugins = {name for hook in hooks for name in self._plugins.implementing(hook)}
        return {ae_title: handle for plugin in plugins for ae_title, handle in self._handles_of(plugin).items()}

    def _handles_of(self, plugin: str) -> dict[str, LaneHandle]:
        """Return the handles of the AE titles whose processors the plugin provides."""
        processors = {name: self._config.ae_titles[name].processor for name in self.handles}
        return {
            name: self.handles[name]
            for name, processor in processors.items()
            if self._plugins.provider(PROCESSOR, processor) == plugin
        }

    @property
    def submitters(self) -> Mapping[str, Submitter[Any]]:
        """The submitters that are in use, by name."""
        return self._submitters.in_use

    def findings(self) -> Mapping[Part, PartFinding]:
        """Return the findings for the platforms of the submitters. Returns at once."""
        return self._submitters.findings()

    # --- the parts --------------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """Return the work of each part."""
        parts: dict[Part, PartWork] = {
            Part(PartKind.OPERATORS): PartWork(self._apply_operator_requests),
            Part(PartKind.RECLAIM): PartWork(self._reclaim_candidates),
            Part(PartKind.HISTORY): PartWork(self._retention.step),
            Part(PartKind.DRAIN): PartWork(self._drain.step),
            Part(PartKind.QUOTA): PartWork(self._update_quota),
        }
        parts |= self._arrivals.parts()
        parts |= {Part(PartKind.OBSERVER, name): PartWork(observer.step) for name, observer in self._observers.items()}
        parts |= self._lanes.parts() | self._submitters.parts()
        if self._able_to_free_space:
            parts[Part(PartKind.FREE_SPACE)] = PartWork(self._free_space)
        return parts

    def run_until_idle(self, *, only_due: bool = False) -> datetime | None:
        """Run the steps of the parts until no part has work now. Return when the next part is due.

        First each part runs one step, because rows may have changed without a notification; with `only_due`, only the
        parts that are due. After that, a part runs a step when it is due or was woken.
        """
        parts = self.parts()
        ready = [part for part in parts if not only_due or self._is_ready(part)]
        while ready:
            for part in sorted(ready, key=lambda part: STEP_ORDER.index(part.kind)):
                self._woken.discard(part)
                self._next_step[part] = parts[part].step()
            parts = self.parts()
            ready = [part for part in parts if self._is_ready(part)]
        return min((when for part in parts if (when := self._next_step[part]) is not None), default=None)

    def _is_ready(self, part: Part) -> bool:
        when = self._next_step.get(part, EARLIEST)
        return part in self._woken or (when is not None and when <= self._clock.now())

    def _wake(self, part: Part) -> None:
        self._woken.add(part)
        self._wake_worker(part)

    def describe_lanes(self) -> list[LaneReport]:
        """Return the current state of the lanes. Call this method on the thread that runs their steps."""
        return [lane.describe() for lane in self._lanes.lanes.values()]

    def _apply_operator_requests(self) -> datetime:
        """Carry out the requests of operators in the ledger."""
        self._restart_lanes()
        self._report_cancelled_jobs()
        return self._clock.now() + self._poll_every

    def _restart_lanes(self) -> None:
        """Restart the lanes whose restart an operator has requested since the last call."""
        with self._ledger.read() as transaction:
            restarts = lanes.restarts(transaction)
        for name, lane in self._lanes.lanes.items():
            if restarts.get(name) != self._restarts.get(name, restarts.get(name)):
                lane.restart()
                self._wake(lane_part(name))
        self._restarts = restarts

    def _report_cancelled_jobs(self) -> None:
        """Report the jobs that operators have cancelled before their first step."""
        with self._ledger.read() as transaction:
            last = recorded_events.last_number(transaction)
            cancelled = operators.cancelled_at_once(transaction, self._last_event)
        self._last_event = last
        for job in cancelled:
            log.info("job_cancelled", job_id=job.job_id, ae_title=job.ae_title, attempts=job.attempts, error="")
            self._measures.changed(job)
            self._on_job_changed(job)

    def _update_quota(self) -> datetime:
        started = time.monotonic()
        self._quota.update()
        pause = timedelta(seconds=QUOTA_PAUSE_FACTOR * (time.monotonic() - started))
        return self._clock.now() + max(self._poll_every, pause)

    def _free_space(self) -> datetime:
        """Request processors to free space before the storage is full."""
        if self._clock.now() < self._free_space_at:
            return self._free_space_at
        self._free_space_at = self._clock.now() + FREE_SPACE_EVERY
        # While the storage is missing, the capacity is unknown: the health shows the problem.
        capacity = measure_space(self._storage, self._ledger, self._find_problem).capacity
        missing = bytes_to_free(capacity, self._config.storage)
        if missing:
            log.info("free_space_requested", bytes=missing, ae_titles=self._able_to_free_space)
            share = -(-missing // len(self._able_to_free_space))
            for name in self._able_to_free_space:
                self._notify_processor(name, lambda processor: processor.free_space(share))
        return self._free_space_at

    def _notify_processor(self, ae_title: str, call: Callable[[Any], None]) -> None:
        """Call a processor on its lane, as a turn."""
        lane = self._lanes.lanes.get(ae_title)
        if lane is not None:
            lane.ask(call, is_notice=True)
            self._wake(lane_part(ae_title))

    def _reclaim_candidates(self) -> datetime:
        """Reclaim the candidates, and sometimes all released instances. A step ends after a slice of time."""
        end = time.monotonic() + SLICE_SECONDS
        while not self._candidates.empty():
            self._reclaim.reclaim(self._candidates.get())
            if time.monotonic() >= end:
                return self._clock.now()
        if self._sweep is None and self._sweep_at <= self._clock.now():
            self._sweep_at = self._clock.now() + SWEEP_EVERY
            self._sweep = self._reclaim.reclaim_all()
        for _count in self._sweep or ():
            if time.monotonic() >= end:
                return self._clock.now()
        self._sweep = None
        return self._sweep_at

    # --- notifications between the parts ------------------------------------------------------------------------------

    def _on_commit(self, committed: Committed) -> None:
        log_queued(committed)
        for job in committed.jobs:
            self._measures.created(job, committed.arrived.get(job.job_id), self._clock.now())
            self._notify_observers("dicom_adapter_job_changed", job=job)
            self._wake(submitter_part(job.submitter))
        if committed.released:
            self._add_candidates(committed.released)

    def _on_job_changed(self, job: Job) -> None:
        self._notify_observers("dicom_adapter_job_changed", job=job)
        if job.ae_title in self._notified_of_jobs:
            self._notify_processor(job.ae_title, lambda processor: processor.job_changed(job))
        if job.started_at is not None:  # perhaps its results can be collected, or another job can be started
            self._wake(submitter_part(job.submitter))
        if job.state in FINISHED:
            with self._ledger.read() as transaction:
                row = jobs.get(transaction, job.job_id)
                instance_ids = [] if row is None else jobs.instance_ids(transaction, row.number)
            self._add_candidates(instance_ids)

    def _on_reclaimed(self, instances: Sequence[InstanceStorageInfo]) -> None:
        self._notify_observers("dicom_adapter_instances_reclaimed", instances=instances)

    def _add_candidates(self, instance_ids: Sequence[int]) -> None:
        self._candidates.put(instance_ids)
        self._wake(Part(PartKind.RECLAIM))

    def _notify_stored(self, instance: InstanceStorageInfo) -> None:
        self._notify_observers(INSTANCE_STORED, instance=instance)

    def _notify_observers(self, hook: str, **arguments: Any) -> None:
        for name, observer in self._observers.items():
            if observer.notify(hook, arguments):
                self._wake(Part(PartKind.OBSERVER, name))

    def refuse_requests(self) -> None:
        """Fail the open requests to lanes, which run no more steps. Servers that stop would wait for the results."""
        for lane in self._lanes.lanes.values():
            lane.refuse_requests()

    def close(self, hanging: Collection[Part] = ()) -> None:
        """Close processors and submitters, except those that hang. The ledger has everything that is needed later."""
        for name, lane in self._lanes.lanes.items():
            if lane_part(name) not in hanging:
                close_within(lane_part(name), lane.close)
        self._submitters.close(wait=not hanging)
        if not hanging:  # a part that hangs may be entering rows
            self._arrivals.close()
