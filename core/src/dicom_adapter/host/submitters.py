"""The platforms of the host: a submitter, its job queue and its threads for each table [submitters.<name>]."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.api.values import Job
from dicom_adapter.config.model import Config, SubmitterConfig
from dicom_adapter.flow.submit.queue import LOOK_EVERY, JobQueue
from dicom_adapter.flow.submit.scheduling import Retries
from dicom_adapter.flow.submit.status_watch import PlatformWatch
from dicom_adapter.flow.submit.steps import Submission
from dicom_adapter.ledger import Ledger, jobs
from dicom_adapter.plugins.isolation import close_within, make_submitter
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.parts import Part, PartKind, PartWork, submitter_part

log = structlog.get_logger("dicom_adapter.host")

Close = Callable[[], None]


@frozen(kw_only=True)
class Made:
    """What came of making the submitters that a configuration has and that do not work already."""

    submitters: Mapping[str, Submitter[Any]]
    broken: Mapping[str, str]  # those that cannot be made, with the reasons


@frozen(kw_only=True)
class _Platform:
    table: SubmitterConfig
    uploads: Executor
    submission: Submission
    queue: JobQueue
    watch: PlatformWatch | None

    def close(self, *, wait: bool = False) -> None:
        """Close the submitter; uploads that are under way are waited for, or cut off by that."""
        self.uploads.shutdown(wait=wait, cancel_futures=True)
        self.submission.close()


class Platforms:
    """Those that are configured, from one configuration to the next: what has not changed is left alone."""

    def __init__(
        self,
        ledger: Ledger,
        storage: StorageBackend[Any],
        clock: Clock,
        uploads: Callable[[str, int], Executor],
        on_change: Callable[[Job], None],
        look_every: timedelta | None,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._uploads = uploads
        self._on_change = on_change
        self._look_every = look_every or LOOK_EVERY
        self._keywords: dict[str, Sequence[str]] = {}  # whose values go to the platform, by AE title
        self._platforms: dict[str, _Platform] = {}
        self.names: Collection[str] = self._platforms.keys()  # as they are at any time
        self.broken: Mapping[str, str] = {}

    def make(self, config: Config, plugins: Plugins) -> Made:
        """Make the submitters that are new or changed. Nothing else happens."""
        made, broken = {}, {}
        for name, table in config.submitters.items():
            platform = self._platforms.get(name)
            if table.unavailable or (platform is not None and platform.table == table):
                continue
            try:
                made[name] = make_submitter(config, plugins, name)
            except Refused as refusal:
                broken[name] = str(refusal)
        return Made(submitters=made, broken=broken)

    def take(self, config: Config, made: Made) -> dict[Part, Close]:
        """Work with what was made; returns what closes those that are gone or replaced, by part."""
        for ae_title, table in config.ae_titles.items():
            self._keywords[ae_title] = table.metadata
        gone = {
            name: platform
            for name, platform in self._platforms.items()
            if config.submitters.get(name) != platform.table
        }
        for name in gone.keys() - made.submitters.keys():
            del self._platforms[name]
        for name, submitter in made.submitters.items():
            self._platforms[name] = self._platform(name, config.submitters[name], submitter)
        self.broken = made.broken
        for name, reason in made.broken.items():
            log.error("submitter_broken", submitter=name, reason=reason)
        self._tell_stranded_jobs(config)
        return {submitter_part(name): platform.close for name, platform in gone.items()}

    def _platform(self, name: str, table: SubmitterConfig, submitter: Submitter[Any]) -> _Platform:
        uploads, retries = self._uploads(name, table.parallel), Retries.of(table)
        submission = Submission(
            submitter, retries, self._ledger, self._storage, self._clock, uploads, self._on_change, self._keywords
        )
        before = self._platforms.get(name)
        queue = JobQueue(
            name,
            submission,
            retries,
            self._ledger,
            self._clock,
            self._look_every,
            predecessor=None if before is None else before.queue,
        )
        watch = None
        if table.status_every is not None:
            watch = PlatformWatch(name, submission, timedelta(seconds=table.status_every), self._ledger, self._clock)
        return _Platform(table=table, uploads=uploads, submission=submission, queue=queue, watch=watch)

    def _tell_stranded_jobs(self, config: Config) -> None:
        """Jobs whose submitter is not there wait, and nobody else would say so."""
        with self._ledger.read() as transaction:
            unfinished = jobs.count_unfinished(transaction)
        for name, count in unfinished.items():
            if name not in self._platforms:
                table = config.submitters.get(name)
                needs = "it is not configured" if table is None else f"it needs {table.unavailable}"
                log.error("jobs_stranded", submitter=name, jobs=count, reason=self.broken.get(name, needs))

    def parts(self) -> dict[Part, PartWork]:
        """Return the work of each submitter, and of each status watch."""
        parts: dict[Part, PartWork] = {}
        for name, platform in self._platforms.items():
            parts[submitter_part(name)] = PartWork(platform.queue.step, platform.table.parallel)
            if platform.watch is not None:
                parts[Part(PartKind.STATUS_WATCH, name)] = PartWork(platform.watch.step)
        return parts

    def close(self, *, wait: bool) -> None:
        """Close all submitters; `wait`: for uploads that are under way."""
        for name, platform in self._platforms.items():
            close_within(submitter_part(name), partial(platform.close, wait=wait))
