"""The host: notify, process, submit, reclaim, and the observers.

`Host` puts the steps of the flow together and is passive: each of its parts is a step function that says when it wants
to be called again. `host.threads` runs them on threads; tests call `run_until_idle` under a virtual clock.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta, timezone
from typing import Any

import structlog
from attrs import frozen
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.lane import LaneHandle
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo, Job
from dicom_adapter.config.model import Config
from dicom_adapter.flow.notify import Notify
from dicom_adapter.flow.process.turn import Committed
from dicom_adapter.flow.reclaim.quota import Quota
from dicom_adapter.flow.reclaim.reclaim import Reclaim
from dicom_adapter.flow.reclaim.retention import Retention
from dicom_adapter.flow.reclaim.watermark import room_wanted
from dicom_adapter.flow.submit import operators
from dicom_adapter.host.draining import Farewell
from dicom_adapter.host.lanes import Serving, Sorted, sort_ae_titles
from dicom_adapter.host.observers import Observer
from dicom_adapter.host.submitters import Made, Platforms
from dicom_adapter.ledger import Ledger, events, jobs, lanes
from dicom_adapter.ledger.configurations import Leaving
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.plugins.isolation import RESULT_CHECKS, close_within, log_hook_failure
from dicom_adapter.plugins.registry import PROCESSOR, Plugins
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.parts import Part, PartKind, Parts, PartWork, lane_part, submitter_part
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.host")

LOOK_EVERY = timedelta(seconds=1)  # for what arrived, should a wake-up ever get lost, and for what operators ask
SWEEP_EVERY = timedelta(minutes=1)  # for what other processes release, and for what could not be deleted the last time
SPARE_EVERY = timedelta(seconds=10)  # long enough to see what the last time has given back
EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
STORED = "dicom_adapter_instance_stored"  # an observer hook
STEP_ORDER = (  # in which `run_until_idle` runs the parts
    PartKind.NOTIFY,
    PartKind.OPERATORS,
    PartKind.RECLAIM,
    PartKind.HISTORY,
    PartKind.OBSERVER,
    PartKind.LANE,
    PartKind.SUBMITTER,
    PartKind.STATUS_WATCH,
    PartKind.DRAIN,
    PartKind.FREE_SPACE,
    PartKind.QUOTA,  # the last one: it counts what the others have changed
)


@frozen(kw_only=True)
class Taken:
    """What a new configuration has changed."""

    gone: Mapping[Part, Callable[[], None]]  # what closes each part that is gone or replaced, once its steps have ended
    changed: Mapping[str, Future[None]]  # AE titles that get another processor; done when they have


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
        wake: Callable[[Part], None],
        *,
        look_every: timedelta | None = None,
        leaving: Leaving = Leaving(),  # noqa: B008 - a frozen value
    ) -> None:
        """`leaving`: what of `config` stays only until nothing of it is left to do.

        `uploads` makes the executor of a submitter; `wake` is called with a part that has work now.

        `look_every`: how often to look for what nobody tells of, where that is not up to the parts themselves.
        """
        self._plugins = plugins
        self._storage = storage
        self._ledger = ledger
        self._clock = clock
        self._wake_worker = wake
        self._woken: set[Part] = set()  # parts that have work now; read by `settle` only
        self._next_step: dict[Part, datetime | None] = {}  # of each part, as `settle` took its last one
        self._look_every = look_every or LOOK_EVERY
        self._observers = {info.name: Observer(info, plugins, clock) for info in plugins.observers}
        self._candidates: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        self._sweep: Iterator[int] | None = None  # the one that is under way
        self._sweep_at = self._spare_at = clock.now()
        self._notify = Notify(ledger, each=any(STORED in info.observes for info in plugins.observers))
        self._reclaim = Reclaim(ledger, storage, clock, self._on_reclaimed)
        self._platforms = Platforms(ledger, storage, clock, uploads, self._on_job_changed, look_every)
        self._serving = Serving(ledger, storage, clock, self._on_commit, self._wake)
        made = self._platforms.make(config, plugins)
        found = sort_ae_titles(config, plugins, made.broken)
        self._serving.announce(config, found)
        self._take(config, made, found, leaving)
        with ledger.read() as transaction:
            self._restarts = lanes.restarts(transaction)  # so far
            self._last_event = events.last_number(transaction)  # that was looked at, for what operators do

    # --- putting it together ----------------------------------------------------------------------------------------

    def configure(self, config: Config, leaving: Leaving) -> Taken:
        """Work with another configuration from now on: what has not changed is left alone.

        From any one thread; `leaving` as when it was made. Raises Refused, and nothing has changed, when an AE title
        could not be served with it.
        """
        made = self._platforms.make(config, self._plugins)
        found = sort_ae_titles(config, self._plugins, made.broken)
        refused = {name: reason for name, reason in found.refused.items() if name not in leaving.ae_titles}
        if refused:
            raise Refused("; ".join(f"AE title '{name}': {reason}" for name, reason in refused.items()))
        try:
            self._serving.announce(config, found)
        except SQLAlchemyError as failure:
            raise Refused(f"the ledger cannot be written at present ({type(failure).__name__})") from failure
        return self._take(config, made, found, leaving)

    def _take(self, config: Config, made: Made, found: Sorted, leaving: Leaving) -> Taken:
        """From nothing, at the start, or from one configuration to the next."""
        self._config = config
        ledger = self._ledger
        closing = self._platforms.take(config, made)
        gone, changed = self._serving.take(config, found, self._plugins, self._platforms.names)
        self._hearing = self._serving.overriding("job_changed")
        self._sparing = self._serving.overriding("free_space")
        asked = [name for name, table in config.submitters.items() if table.status_every is not None]
        self._retention = Retention(ledger, self._clock, timedelta(days=config.ledger.history_days), asked)
        self._farewell = Farewell(config, leaving, ledger, self._clock)
        self._quota = Quota(ledger, self._clock, config.storage.quarantine_quota, config.ae_titles)
        return Taken(gone={**closing, **gone}, changed=changed)

    @property
    def served(self) -> Mapping[str, str]:
        """The AE titles that are served, with what their processors do."""
        return self._serving.sorted.served

    @property
    def refused(self) -> Mapping[str, str]:
        """The AE titles that are configured and cannot be served, with the reasons."""
        return self._serving.sorted.refused

    def processor_of(self, ae_title: str) -> str:
        """The name of its processor."""
        return self._config.ae_titles[ae_title].processor

    @property
    def handles(self) -> Mapping[str, LaneHandle]:
        """What plugins are given of the lanes."""
        return self._serving.handles

    def brought(self, hook: str) -> dict[str, list[Any]]:
        """What plugins bring by `dicom_adapter_http` or `dicom_adapter_servers`, by the names of their entry points."""
        return self._plugins.call_late_hook(
            hook, log_hook_failure, lambda plugin: {"lanes": self._handles_of(plugin)}, RESULT_CHECKS[hook]
        )

    def bringers(self, *hooks: str) -> dict[str, LaneHandle]:
        """What the plugins were given that bring something by these hooks."""
        plugins = {name for hook in hooks for name in self._plugins.implementing(hook)}
        return {ae_title: handle for plugin in plugins for ae_title, handle in self._handles_of(plugin).items()}

    def _handles_of(self, plugin: str) -> dict[str, LaneHandle]:
        """Those of the AE titles whose processors the plugin brings."""
        processors = {name: self._config.ae_titles[name].processor for name in self.handles}
        return {
            name: self.handles[name]
            for name, processor in processors.items()
            if self._plugins.provider(PROCESSOR, processor) == plugin
        }

    # --- the parts --------------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """Return the work of each part."""
        parts: dict[Part, PartWork] = {
            Part(PartKind.NOTIFY): PartWork(self._take_notice),
            Part(PartKind.OPERATORS): PartWork(self._heed_operators),
            Part(PartKind.RECLAIM): PartWork(self._give_back),
            Part(PartKind.HISTORY): PartWork(self._retention.step),
            Part(PartKind.DRAIN): PartWork(self._farewell.step),
            Part(PartKind.QUOTA): PartWork(self._reckon),
        }
        parts |= {Part(PartKind.OBSERVER, name): PartWork(observer.step) for name, observer in self._observers.items()}
        parts |= self._serving.parts() | self._platforms.parts()
        if self._sparing:
            parts[Part(PartKind.FREE_SPACE)] = PartWork(self._spare)
        return parts

    def run_until_idle(self, *, only_due: bool = False) -> datetime | None:
        """Run the steps of the parts until no part has work at this time; return when one will have.

        Each part runs one step first, because something may have changed that nothing reports, such as a row; with
        `only_due` only the parts that are due do. After that, a part runs a step when it is due or was woken.
        """
        parts = self.parts()
        wanted = [part for part in parts if not only_due or self._is_wanted(part)]
        while wanted:
            for part in sorted(wanted, key=lambda part: STEP_ORDER.index(part.kind)):
                self._woken.discard(part)
                self._next_step[part] = parts[part].step()
            parts = self.parts()
            wanted = [part for part in parts if self._is_wanted(part)]
        return min((when for part in parts if (when := self._next_step[part]) is not None), default=None)

    def _is_wanted(self, part: Part) -> bool:
        when = self._next_step.get(part, EARLIEST)
        return part in self._woken or (when is not None and when <= self._clock.now())

    def _wake(self, part: Part) -> None:
        self._woken.add(part)
        self._wake_worker(part)

    def _take_notice(self) -> datetime:
        end = time.monotonic() + SLICE_SECONDS
        for arrived in self._notify.arrived():
            for instance in arrived.instances:
                self._tell(STORED, instance=instance)
            served = self._serving.lanes  # now: a lane that is made later reads by itself what has come by then
            for ae_title in arrived.ae_titles & served.keys():
                served[ae_title].expect_news()
                self._wake(lane_part(ae_title))
            if arrived.replaced:
                self._consider(arrived.replaced)
            if time.monotonic() >= end:
                return self._clock.now()
        return self._clock.now() + self._look_every

    def describe_lanes(self) -> list[LaneReport]:
        """The lanes as they are now. From the thread that takes their steps."""
        return [lane.describe() for lane in self._serving.lanes.values()]

    def _heed_operators(self) -> datetime:
        """Do what they have asked for in the ledger."""
        self._restart_lanes()
        self._notice_cancelled_jobs()
        return self._clock.now() + self._look_every

    def _restart_lanes(self) -> None:
        """Have the lanes begin again that operators asked for since the last look."""
        with self._ledger.read() as transaction:
            restarts = lanes.restarts(transaction)
        for name, lane in self._serving.lanes.items():
            if restarts.get(name) != self._restarts.get(name, restarts.get(name)):
                lane.restart()
                self._wake(lane_part(name))
        self._restarts = restarts

    def _notice_cancelled_jobs(self) -> None:
        """Tell of the jobs that operators have cancelled before any step of theirs was begun."""
        with self._ledger.read() as transaction:
            last = events.last_number(transaction)
            cancelled = operators.cancelled_at_once(transaction, self._last_event)
        self._last_event = last
        for job in cancelled:
            log.info("job_cancelled", job_id=job.job_id, ae_title=job.ae_title, attempts=job.attempts, error="")
            self._on_job_changed(job)

    def _reckon(self) -> datetime:
        began = time.monotonic()
        self._quota.look()
        pause = timedelta(seconds=10 * (time.monotonic() - began))  # a tenth of the time, however much there is
        return self._clock.now() + max(self._look_every, pause)

    def _spare(self) -> datetime:
        """Have processors give back what they can spare when room gets short."""
        if self._clock.now() < self._spare_at:
            return self._spare_at
        self._spare_at = self._clock.now() + SPARE_EVERY
        wanted = room_wanted(self._storage.capacity(), self._config.storage)
        if wanted:
            log.info("room_wanted", bytes=wanted, ae_titles=self._sparing)
            share = -(-wanted // len(self._sparing))
            for name in self._sparing:
                self._notice(name, lambda processor: processor.free_space(share))
        return self._spare_at

    def _notice(self, ae_title: str, call: Callable[[Any], None]) -> None:
        """Tell a processor something, on its lane."""
        lane = self._serving.lanes.get(ae_title)
        if lane is not None:
            lane.ask(call, is_notice=True)
            self._wake(lane_part(ae_title))

    def _give_back(self) -> datetime:
        """Reclaim what there is; what a step has no time for follows in the next one."""
        end = time.monotonic() + SLICE_SECONDS
        while not self._candidates.empty():
            self._reclaim.reclaim(self._candidates.get())
            if time.monotonic() >= end:
                return self._clock.now()
        if self._sweep is None and self._sweep_at <= self._clock.now():
            self._sweep_at = self._clock.now() + SWEEP_EVERY
            self._sweep = self._reclaim.everything()
        for _count in self._sweep or ():
            if time.monotonic() >= end:
                return self._clock.now()
        self._sweep = None
        return self._sweep_at

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
            self._wake(submitter_part(job.submitter))
        if committed.released:
            self._consider(committed.released)

    def _on_job_changed(self, job: Job) -> None:
        self._tell("dicom_adapter_job_changed", job=job)
        if job.ae_title in self._hearing:
            self._notice(job.ae_title, lambda processor: processor.job_changed(job))
        if job.state in FINISHED:
            with self._ledger.read() as transaction:
                row = jobs.get(transaction, job.job_id)
                numbers = [] if row is None else jobs.instance_ids(transaction, row.number)
            self._consider(numbers)

    def _on_reclaimed(self, instances: Sequence[InstanceStorageInfo]) -> None:
        self._tell("dicom_adapter_instances_reclaimed", instances=instances)

    def _consider(self, numbers: Sequence[int]) -> None:
        self._candidates.put(numbers)
        self._wake(Part(PartKind.RECLAIM))

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name, observer in self._observers.items():
            if observer.tell(hook, arguments):
                self._wake(Part(PartKind.OBSERVER, name))

    def refuse_requests(self) -> None:
        """Answer those who wait for a lane that will take no more steps: servers wait for them when they stop."""
        for lane in self._serving.lanes.values():
            lane.refuse_requests()

    def close(self, hanging: Collection[Part] = ()) -> None:
        """Close what plugins have opened, but for the parts that hang in it. The ledger has everything that matters."""
        for name, lane in self._serving.lanes.items():
            if lane_part(name) not in hanging:
                close_within(lane_part(name), lane.close)
        self._platforms.close(wait=not hanging)
