"""The submitters of the host, one for each table [submitters.<name>], each with its job queue and threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job, JobState
from dicom_adapter.config.model import Config, SubmitterConfig
from dicom_adapter.flow.process.turn import Committed
from dicom_adapter.flow.results.destinations import known_destinations
from dicom_adapter.flow.results.step import ResultsStep
from dicom_adapter.flow.submit.clean_up import CleanUps
from dicom_adapter.flow.submit.queue import POLL_EVERY, JobQueue
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.submit.status_watch import PlatformWatch
from dicom_adapter.flow.submit.steps import Steps
from dicom_adapter.flow.submit.submission import Submission
from dicom_adapter.flow.submit.time_limit import TimeLimit
from dicom_adapter.ledger import clean_ups, jobs
from dicom_adapter.ledger.begun_jobs import begun
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.health import PartState
from dicom_adapter.plugins.isolation import close_within, list_pipelines, make_submitter
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.parts import Part, PartKind, PartWork, submitter_part
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.watch import PartFinding

log = structlog.get_logger("dicom_adapter.host")

Close = Callable[[], None]

STATUS_EVERY = timedelta(seconds=10)  # time between two status queries for a running job, unless it is configured


@frozen(kw_only=True)
class NewSubmitters:
    """The submitters that a configuration adds or changes, created but not in use yet."""

    submitters: Mapping[str, Submitter[Any]]
    broken: Mapping[str, str]  # the submitters that cannot be created, with the reasons
    # The ids of all pipelines, by submitter, also of submitters in use; without those that do not know all pipelines.
    pipelines: Mapping[str, Collection[str]]


@frozen(kw_only=True)
class _SubmitterEntry:
    table: SubmitterConfig
    submitter: Submitter[Any]
    uploads: Executor
    submission: Submission
    queue: JobQueue
    watch: PlatformWatch | None
    time_limit: TimeLimit | None
    clean_ups: CleanUps | None

    def finding(self) -> PartFinding:
        """Return the finding for the platform, from the steps of jobs and from requests for their status."""
        problem = "" if self.watch is None else self.watch.health.problem
        if problem and self.queue.finding().state is not PartState.FAILING:
            return PartFinding(state=PartState.FAILING, reason=f"no status of started jobs: {problem}")
        return self.queue.finding()

    def close(self, *, wait: bool = False) -> None:
        """Close the submitter. With `wait`, current uploads end first; otherwise they are interrupted."""
        self.uploads.shutdown(wait=wait, cancel_futures=True)
        self.submission.close()


class Submitters:
    """The submitters of the host. Another configuration changes only the submitters whose tables differ."""

    def __init__(
        self,
        resources: Resources,
        uploads: Callable[[str, int], Executor],
        on_change: Callable[[Job], None],
        poll_every: timedelta | None,
        on_commit: Callable[[Committed], None],
        wake: Callable[[Part], None],
    ) -> None:
        """`on_commit` is called after new delivery jobs were committed. `wake` causes a step of a part."""
        self._resources = resources
        self._uploads = uploads
        self._notify_of_change = on_change
        self._wake = wake
        self._poll_every = poll_every or POLL_EVERY
        self._on_commit = on_commit
        self._results = ResultsStep(resources, self._on_delivery)
        # By AE title, the keywords of the attributes whose values the platform receives.
        self._keywords: dict[str, Sequence[str]] = {}
        self._entries: dict[str, _SubmitterEntry] = {}
        self.names: Collection[str] = self._entries.keys()  # a live view, because lanes keep it
        self.broken: Mapping[str, str] = {}

    def make(self, config: Config, plugins: Plugins) -> NewSubmitters:
        """Create the new and changed submitters. They are not used before `apply`."""
        submitters, broken = {}, {}
        for name, table in config.submitters.items():
            entry = self._entries.get(name)
            if table.unavailable or (entry is not None and entry.table == table):
                continue
            try:
                submitters[name] = make_submitter(config, plugins, name)
            except Refused as refusal:
                broken[name] = str(refusal)
        pipelines = {}
        for name, submitter in {**self.in_use, **submitters}.items():
            try:
                ids = list_pipelines(name, submitter)
            except Refused as refusal:
                log.warning("pipelines_unknown", submitter=name, error=str(refusal))
            else:
                if ids is not None:
                    pipelines[name] = ids
        return NewSubmitters(submitters=submitters, broken=broken, pipelines=pipelines)

    def apply(self, config: Config, made: NewSubmitters, draining: Draining) -> dict[Part, Close]:
        """Use the new submitters. Return a function for each removed or replaced submitter, which closes it.

        `draining`: the parts of `config` that only finish their work.
        """
        for ae_title, table in config.ae_titles.items():
            self._keywords[ae_title] = table.metadata
        removed = {name: entry for name, entry in self._entries.items() if config.submitters.get(name) != entry.table}
        for name in removed.keys() - made.submitters.keys():
            del self._entries[name]
        for name, submitter in made.submitters.items():
            self._entries[name] = self._entry(name, config.submitters[name], submitter)
        in_order = {name: self._entries[name].submitter for name in config.submitters if name in self._entries}
        self._results.configure(config, known_destinations(in_order), draining)
        self.broken = made.broken
        for name, reason in made.broken.items():
            log.error("submitter_creation_failed", submitter=name, reason=reason)
        self._log_stranded_jobs(config)
        return {submitter_part(name): entry.close for name, entry in removed.items()}

    def _entry(self, name: str, table: SubmitterConfig, submitter: Submitter[Any]) -> _SubmitterEntry:
        uploads, retries = self._uploads(name, table.parallel), Retries.of(table)
        steps = Steps(submitter, self._resources, uploads, self._keywords, self._results.collect)
        submission = Submission(submitter, steps, retries, self._resources, self._on_change)
        before = self._entries.get(name)
        queue = JobQueue(
            name,
            submission,
            retries,
            self._resources,
            self._poll_every,
            in_flight=None if before is None else before.queue.in_flight,
            max_running=table.running or submitter.most_running,
            parallel=table.parallel,
        )
        watch = limit = ending = None
        if table.time_limit is not None:
            wake = partial(self._wake, Part(PartKind.TIME_LIMIT, name))
            longest = timedelta(seconds=table.time_limit)
            limit = TimeLimit(longest, submitter, submission, self._resources.clock, wake)
        is_followed = submitter.follows_jobs or self._has_running_jobs(name)
        if table.status_every is not None or is_followed:
            every = STATUS_EVERY if table.status_every is None else timedelta(seconds=table.status_every)
            watch = PlatformWatch(name, submitter, submission, every, self._resources, self._on_change, limit)
        if is_followed or self._has_clean_ups(name):
            ending = CleanUps(name, submitter, submission, retries, self._resources, self._poll_every)
        return _SubmitterEntry(
            table=table,
            submitter=submitter,
            uploads=uploads,
            submission=submission,
            queue=queue,
            watch=watch,
            time_limit=limit,
            clean_ups=ending,
        )

    def _on_change(self, job: Job) -> None:
        """Notify of the change of a job. Its last run, or the run before, may have to be cleaned up now."""
        self._notify_of_change(job)
        if job.state in (JobState.CREATED, JobState.SUCCEEDED):
            self._wake(Part(PartKind.CLEAN_UP, job.submitter))

    def _has_clean_ups(self, name: str) -> bool:
        """Return whether earlier runs wait for a clean-up, even if the submitter does not follow jobs any more."""
        with self._resources.ledger.read() as transaction:
            return name in clean_ups.submitters(transaction)

    def _has_running_jobs(self, name: str) -> bool:
        """Return whether jobs are running that were started while the submitter followed jobs.

        A reload may have changed the submitter. The ends of these jobs must still be found.
        """
        with self._resources.ledger.read() as transaction:
            return any(job.is_running for job in begun(transaction, name))

    def _on_delivery(self, delivery: Sequence[Job], studies: Sequence[str]) -> None:
        self._on_commit(Committed(tuple(delivery), studies={job.job_id: tuple(studies) for job in delivery}))

    def _log_stranded_jobs(self, config: Config) -> None:
        """Log the jobs whose submitter does not exist: no part of the host reports them."""
        with self._resources.ledger.read() as transaction:
            unfinished = jobs.count_unfinished(transaction)
        for name, count in unfinished.items():
            if name not in self._entries:
                table = config.submitters.get(name)
                reason = "it is not configured" if table is None else f"it needs {table.unavailable}"
                log.error("jobs_stranded", submitter=name, jobs=count, reason=self.broken.get(name, reason))

    @property
    def in_use(self) -> Mapping[str, Submitter[Any]]:
        """The submitters that are in use, by name."""
        return {name: entry.submitter for name, entry in list(self._entries.items())}

    def parts(self) -> dict[Part, PartWork]:
        """Return the work of each submitter: its queue, its status watch, its time limit and its clean-ups."""
        parts: dict[Part, PartWork] = {}
        for name, entry in self._entries.items():
            parts[submitter_part(name)] = PartWork(entry.queue.step, entry.table.parallel)
            if entry.watch is not None:
                parts[Part(PartKind.STATUS_WATCH, name)] = PartWork(entry.watch.step)
            if entry.time_limit is not None:
                parts[Part(PartKind.TIME_LIMIT, name)] = PartWork(entry.time_limit.step)
            if entry.clean_ups is not None:
                parts[Part(PartKind.CLEAN_UP, name)] = PartWork(entry.clean_ups.step)
        return parts

    def findings(self) -> dict[Part, PartFinding]:
        """Return the finding for the platform of each submitter. Returns at once."""
        return {Part(PartKind.PLATFORM, name): entry.finding() for name, entry in list(self._entries.items())}

    def close(self, *, wait: bool) -> None:
        """Close all submitters. With `wait`, current uploads end first."""
        for name, entry in self._entries.items():
            close_within(submitter_part(name), partial(entry.close, wait=wait))
