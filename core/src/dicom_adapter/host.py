"""The host: notify, process, submit, reclaim, and the observers.

`Host` puts the steps of the flow together and is passive: each of its parts is a step function that says when it wants
to be called again. `host_process` runs them on threads; tests call `settle` under a virtual clock.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from dicom_adapter.boundary import BROUGHT_CHECKS, close_within, describe_settings, hook_failed, make_submitter
from dicom_adapter.calls import Called
from dicom_adapter.clock import Clock
from dicom_adapter.config.model import AeTitleConfig, Config
from dicom_adapter.errors import Refused
from dicom_adapter.flow import intervene
from dicom_adapter.flow.choice import Retries
from dicom_adapter.flow.notify import Notify
from dicom_adapter.flow.process import Lane
from dicom_adapter.flow.quota import Quota, describe_unconfigured
from dicom_adapter.flow.reclaim import Reclaim
from dicom_adapter.flow.retention import Retention
from dicom_adapter.flow.room import room_wanted
from dicom_adapter.flow.submit import Submission
from dicom_adapter.flow.turn import Committed, LaneSettings
from dicom_adapter.lane import LaneHandle
from dicom_adapter.ledger import Ledger, events, jobs, lanes
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.model import InstanceStorageInfo, Job
from dicom_adapter.parts import LOOK_EVERY as JOBS_LOOK_EVERY
from dicom_adapter.parts import SLICE_SECONDS, Handle, JobQueue, Observer, PlatformWatch, ServedLane, Step
from dicom_adapter.plugins import PROCESSOR, SUBMITTER, Plugins
from dicom_adapter.processor import JobProcessorBase
from dicom_adapter.storage import StorageBackend
from dicom_adapter.submitter import Submitter

log = structlog.get_logger("dicom_adapter.host")

LOOK_EVERY = timedelta(seconds=1)  # for what arrived, should a wake-up ever get lost, and what operators ask for
SWEEP_EVERY = timedelta(minutes=1)  # for what other processes release, and for what could not be deleted the last time
SPARE_EVERY = timedelta(seconds=10)  # long enough to see what the last time has given back
STORED = "dicom_adapter_instance_stored"  # an observer hook


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
        *,
        look_every: timedelta | None = None,
    ) -> None:
        """`uploads` makes the executor of a submitter; `wake` is called with the name of a part that has work now.

        `look_every`: how often to look for what nobody tells of, where that is not up to the parts themselves.
        """
        self._config = config
        self._plugins = plugins
        self._storage = storage
        self._ledger = ledger
        self._clock = clock
        self._wake = wake
        self._look_every = look_every or LOOK_EVERY
        self._observers = {info.name: Observer(info, plugins, clock) for info in plugins.observers}
        self._candidates: queue.SimpleQueue[Sequence[int]] = queue.SimpleQueue()
        self._sweep: Iterator[int] | None = None  # the one that is under way
        self._sweep_at = self._spare_at = clock.now()
        self._notify = Notify(ledger, each=any(STORED in info.observes for info in plugins.observers))
        self._reclaim = Reclaim(ledger, storage, clock, self._on_reclaimed)
        asked = [name for name, table in config.submitters.items() if table.status_every is not None]
        self._retention = Retention(ledger, clock, timedelta(days=config.ledger.history_days), asked)
        self._broken: dict[str, str] = {}  # submitters that cannot be made, with the reasons
        self._submissions = {
            name: self._submission(name, submitter, uploads) for name, submitter in self._make_submitters().items()
        }
        self.served, self.refused = self._sort_ae_titles()
        settings = {name: self._lane_settings(name, config.ae_titles[name]) for name in self.served}
        self._lanes = {
            name: ServedLane(Lane(own, ledger, storage, clock, self._on_commit), ledger, clock)
            for name, own in settings.items()
        }
        self.handles: Mapping[str, LaneHandle] = {
            name: Handle(
                own, self._lanes[name], ledger, storage, clock, self._called(name), partial(wake, f"lane {name}")
            )
            for name, own in settings.items()
        }
        self._hearing = self._overriding("job_changed")
        self._sparing = self._overriding("make_room")
        self._queues = {
            name: JobQueue(
                name, submission, Retries.of(config.submitters[name]), ledger, clock, look_every or JOBS_LOOK_EVERY
            )
            for name, submission in self._submissions.items()
        }
        self._quota = Quota(ledger, clock, config.storage.quarantine_quota, config.ae_titles)
        self._restarts = self._announce_lanes()
        self._tell_stranded_jobs()
        with ledger.read() as transaction:
            self._last_event = events.last_number(transaction)  # that was looked at, for what operators do

    # --- putting it together ----------------------------------------------------------------------------------------

    def _lane_settings(self, ae_title: str, table: AeTitleConfig) -> LaneSettings:
        return LaneSettings(
            ae_title=ae_title,
            processor=self._plugins.maker(PROCESSOR, table.processor, f"lane {ae_title}"),
            settings=table.settings,
            submitter=self._config.submitter_for(ae_title),
            submitters=self._submissions.keys(),
            data_folder=self._config.storage.path / "processors" / ae_title.encode().hex(),
        )

    def _called(self, ae_title: str) -> Called:
        """For what is asked of its processor, or of the class."""
        return self._plugins.called(PROCESSOR, self._config.ae_titles[ae_title].processor, f"lane {ae_title}")

    def _overriding(self, method: str) -> list[str]:
        """The AE titles whose processors have this method of their own: others are not called for nothing."""
        classes = self._plugins.catalogue().processors
        base = getattr(JobProcessorBase, method)
        return [
            name for name in self.served if getattr(classes[self._config.ae_titles[name].processor], method) != base
        ]

    def brought(self, hook: str) -> dict[str, list[Any]]:
        """What plugins bring by `dicom_adapter_http` or `dicom_adapter_servers`, by the names of their entry points."""
        return self._plugins.brought(
            hook, hook_failed, lambda plugin: {"lanes": self._handles_of(plugin)}, BROUGHT_CHECKS[hook]
        )

    def _handles_of(self, plugin: str) -> dict[str, LaneHandle]:
        """Those of the AE titles whose processors the plugin brings."""
        processors = {name: self._config.ae_titles[name].processor for name in self.handles}
        return {
            name: self.handles[name]
            for name, processor in processors.items()
            if self._plugins.provider(PROCESSOR, processor) == plugin
        }

    def _make_submitters(self) -> dict[str, Submitter[Any]]:
        """Those that can be made; what a constructor does wrong costs nothing but its own submitter."""
        made = {}
        for name, table in self._config.submitters.items():
            if table.unavailable:
                continue
            try:
                make = self._plugins.maker(SUBMITTER, table.type, f"submitter {name}")
                made[name] = make_submitter(self._config, name, make)
            except Refused as refusal:
                self._broken[name] = str(refusal)
                log.error("submitter_broken", submitter=name, reason=self._broken[name])
        return made

    def _sort_ae_titles(self) -> tuple[dict[str, str], dict[str, str]]:
        """Of each AE title that can be served what its processor will do; of each other one why it cannot."""
        served, refused = {}, {}
        for name in self._config.ae_titles:
            reason = self._config.unavailable(name) or self._broken.get(self._config.submitter_for(name), "")
            if not reason:
                try:
                    described = partial(describe_settings, self._config, self._plugins.catalogue(), name)
                    served[name] = self._called(name)("describe", described)
                except Refused as refusal:
                    reason = str(refusal)
            if reason:
                refused[name] = reason
        return served, refused

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

    def _announce_lanes(self) -> Mapping[str, int]:
        """Tell receivers which AE titles are served, before they take anything; returns the restarts so far."""
        with self._ledger.write() as transaction:
            describe_unconfigured(transaction, self._config.ae_titles, self._clock.now())
            for name in self._config.ae_titles:
                reason = self.refused.get(name, "")
                state = LaneState.STOPPED if reason else LaneState.RUNNING
                lanes.save(transaction, LaneReport(ae_title=name, state=state, reason=reason, since=self._clock.now()))
            return lanes.restarts(transaction)

    def _tell_stranded_jobs(self) -> None:
        """Jobs whose submitter is not there wait, and nobody else would say so."""
        with self._ledger.read() as transaction:
            unfinished = jobs.count_unfinished(transaction)
        for name, count in unfinished.items():
            if name not in self._submissions:
                table = self._config.submitters.get(name)
                needs = "it is not configured" if table is None else f"it needs {table.unavailable}"
                log.error("jobs_stranded", submitter=name, jobs=count, reason=self._broken.get(name, needs))

    # --- the parts --------------------------------------------------------------------------------------------------

    def parts(self) -> Mapping[str, tuple[Step, int]]:
        """The step function of each part by its name, and how many threads it may run on."""
        parts: dict[str, tuple[Step, int]] = {
            "notify": (self._take_notice, 1),
            "reclaim": (self._give_back, 1),
            "history": (self._retention.step, 1),
        }
        for name, observer in self._observers.items():
            parts[f"observer {name}"] = (observer.step, 1)
        for name, lane in self._lanes.items():
            parts[f"lane {name}"] = (lane.step, 1)
        for name, submission in self._submissions.items():
            table = self._config.submitters[name]
            parts[f"submitter {name}"] = (self._queues[name].step, table.parallel)
            if table.status_every is not None:
                every = timedelta(seconds=table.status_every)
                watch = PlatformWatch(name, submission, every, self._ledger, self._clock)
                parts[f"platform watch {name}"] = (watch.step, 1)
        if self._sparing:
            parts["room"] = (self._spare, 1)
        parts["quota"] = (self._reckon, 1)  # last, so that `settle` has it see what the others did
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
        return not self._candidates.empty() or any(observer.has_news() for observer in self._observers.values())

    def _take_notice(self) -> datetime:
        end = time.monotonic() + SLICE_SECONDS
        self._restart_lanes()
        self._notice_cancelled_jobs()
        for arrived in self._notify.arrived():
            for instance in arrived.instances:
                self._tell(STORED, instance=instance)
            for ae_title in arrived.ae_titles & self._lanes.keys():
                self._lanes[ae_title].expect_news()
                self._wake(f"lane {ae_title}")
            if arrived.replaced:
                self._consider(arrived.replaced)
            if time.monotonic() >= end:
                return self._clock.now()
        return self._clock.now() + self._look_every

    def describe_lanes(self) -> list[LaneReport]:
        """The lanes as they are now. From the thread that takes their steps."""
        return [lane.describe() for lane in self._lanes.values()]

    def _restart_lanes(self) -> None:
        """Have the lanes begin again that operators asked for since the last look."""
        with self._ledger.read() as transaction:
            restarts = lanes.restarts(transaction)
        for name, lane in self._lanes.items():
            if restarts[name] != self._restarts[name]:
                lane.restart()
                self._wake(f"lane {name}")
        self._restarts = restarts

    def _notice_cancelled_jobs(self) -> None:
        """Tell of the jobs that operators have cancelled before any step of theirs was begun."""
        with self._ledger.read() as transaction:
            last = events.last_number(transaction)
            cancelled = intervene.cancelled_at_once(transaction, self._last_event)
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
                self._notice(name, lambda processor: processor.make_room(share))
        return self._spare_at

    def _notice(self, ae_title: str, call: Callable[[Any], None]) -> None:
        """Tell a processor something, on its lane."""
        self._lanes[ae_title].ask(call, is_notice=True)
        self._wake(f"lane {ae_title}")

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
            self._wake(f"submitter {job.submitter}")
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
        self._wake("reclaim")

    def _tell(self, hook: str, **arguments: Any) -> None:
        for name, observer in self._observers.items():
            if observer.tell(hook, arguments):
                self._wake(f"observer {name}")

    def close(self, hanging: Collection[str] = ()) -> None:
        """Close what plugins have opened, but for the parts that hang in it. The ledger has everything that matters."""
        for name, lane in self._lanes.items():
            if f"lane {name}" not in hanging:
                close_within(f"lane {name}", lane.close)
        for name, submission in self._submissions.items():
            close_within(f"submitter {name}", submission.close)
