"""A whole run: the adapter is reloaded and killed while the platform and the destinations fail.

Afterwards the adapter drains, at first while the destinations still fail. At the end, instances, jobs and results are
counted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random

from attrs import define, field, frozen

from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime.clock import SystemClock
from faults import count_results, outcomes
from faults import evidence as files
from faults.adapter import RETRIES, Adapter, Ports, Victim
from faults.cached_instances import CachedInstance, read_cached_instances, wait_for_lane
from faults.clients import Client
from faults.count import count, is_busy, orphans
from faults.destination import Destination, make_destinations
from faults.evidence import Evidence, LedgerFile, LedgerJob, PlatformFile
from faults.orders import Call, Deletion, Orders, read_orders
from faults.platform import Platform
from faults.records import Records
from faults.report import Report
from faults.senders import Senders
from faults.surroundings import Surroundings

VICTIMS = {Victim.EVERYTHING: 22, Victim.SUPERVISOR: 8, Victim.HOST: 32, Victim.RECEIVER: 38}  # per cent
# Pauses between the moment when the adapter listens and a kill: shortest and longest in seconds, and the share in per
# cent. Many kills interrupt receiving, some interrupt the composition of jobs.
PAUSES = {(0.0, 2.0): 60, (3.0, 10.0): 40}
WHILE_IT_STARTS = 0.3  # share of kills that follow the last kill within START_SECONDS, often before the adapter listens
START_SECONDS = (0.0, 2.0)
# Share of the other kills that follow the request of a reload within RELOAD_SECONDS: the adapter has not begun to apply
# the configuration, is applying it, or has applied it.
WITH_A_RELOAD = 0.5
RELOAD_SECONDS = (0.0, 8.0)
DISTURBED_SECONDS = (0.0, 3.0)  # from a kill to the end of a lost mount
PROGRESS_SECONDS = 10.0  # between two lines of progress
POLL_SECONDS = 0.2  # between two queries of the ledger while the adapter drains
FIRST_INSTANCE_SECONDS = 60.0  # longest wait for the first acknowledged instance
# Share of the other kills that wait until one more instance is acknowledged: on a busy machine, senders are slow, and
# few instances would arrive between two kills.
AFTER_AN_INSTANCE = 0.7
NEXT_INSTANCE_SECONDS = 5.0  # longest of these waits
LONGEST_DELIVERING_SECONDS = 20.0  # from the last kill of the adapter to the end of the faults of the destinations
# Events of the service's log that faults of `surroundings` cause.
EFFECTS = {"clock_stepped", "connection_refused"}
STORAGE_REPLACED = "the storage is not the one that the service has opened"
# The states of a drained adapter.
DRAINED = {"instances kept", "instances quarantined", "instances reclaimed", "jobs submitted", "jobs succeeded"}
HELD = {"instances released", "jobs faulted"}  # further states if deliveries are held


@frozen(kw_only=True)
class Plan:
    """The parameters of a run."""

    folder: Path  # an empty or missing folder
    seed: str
    seconds: float  # duration of kills and faults
    senders: int = 3
    drain_seconds: float = 120.0  # time limit of draining


def run(plan: Plan, report_progress: Callable[[str], None]) -> Report:
    """Run a plan. `report_progress` is called with a line of progress every PROGRESS_SECONDS."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    ports = Ports.free()
    destinations, left_out = make_destinations(plan.folder / "destinations", plan.seed)
    platform = Platform(plan.folder / "platform", ports, Random(f"{plan.seed}/platform"))
    tables = {destination.name: destination.configuration(RETRIES) for destination in destinations}
    adapter = Adapter(plan.folder / "adapter", ports, Random(f"{plan.seed}/clock"), tables)
    senders = Senders(plan.folder / "senders", plan.seed, plan.senders)
    (plan.folder / "composer").mkdir()
    composer = Client("composer", plan.folder / "composer", "COMPOSER", plan.seed)
    campaign = _Campaign(
        plan=plan,
        platform=platform,
        adapter=adapter,
        destinations=destinations,
        left_out=left_out,
        senders=senders,
        composer=composer,
        surroundings=Surroundings(adapter, Random(f"{plan.seed}/surroundings")),
        report_progress=report_progress,
    )
    try:
        return campaign.run()
    finally:
        for party in (composer, senders, adapter, platform, *destinations):
            party.end()


@define(kw_only=True)
class _Campaign:
    """The parts of a run."""

    plan: Plan
    platform: Platform
    adapter: Adapter
    destinations: list[Destination]
    left_out: list[str]
    senders: Senders
    composer: Client
    surroundings: Surroundings
    report_progress: Callable[[str], None]
    retried: set[str] = field(factory=set)  # ids of retried jobs
    reported_at: float = field(factory=time.monotonic)

    def run(self) -> Report:
        self.platform.start()
        for destination in self.destinations:
            destination.start()
        self.adapter.wait_until_it_listens()
        self.senders.start(self.adapter.port)
        self.composer.start(self.adapter.http_port, "--senders", str(self.senders.folder))
        self._wait_for_an_instance(FIRST_INSTANCE_SECONDS)
        self._kill_for(self.plan.seconds)
        faults_ended = time.monotonic()
        self._calm_down()
        self._deliver_with_faults()
        drained_in = time.monotonic() - faults_ended if self._drain() else None
        kept = read_cached_instances(self.adapter.http_port, self.plan.folder)
        status = self.adapter.stop()
        if status != 0:
            raise RuntimeError(f"the adapter ended with status {status}: see {self.adapter.log}")
        self.platform.end()
        arrived = {destination.name: destination.files() for destination in self.destinations}
        return self._report(drained_in, kept, arrived)

    def _wait_for_an_instance(self, seconds: float) -> None:
        """Wait up to `seconds` until the adapter has acknowledged another instance."""
        deadline = time.monotonic() + seconds
        acknowledged = self.senders.records().acknowledged
        while self.senders.records().acknowledged == acknowledged and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _kill_for(self, seconds: float) -> None:
        random = Random(f"{self.plan.seed}/killer")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            [pause] = random.choices(list(PAUSES), list(PAUSES.values()))
            if random.random() < WHILE_IT_STARTS:
                pause = START_SECONDS
            else:
                self.adapter.wait_until_it_listens()
                if random.random() < AFTER_AN_INSTANCE:
                    self._wait_for_an_instance(NEXT_INSTANCE_SECONDS)
                if random.random() < WITH_A_RELOAD:
                    self.adapter.reload(random)
                    pause = RELOAD_SECONDS
            with self.surroundings.disturbed():
                time.sleep(random.uniform(*pause))
                [victim] = random.choices(list(VICTIMS), list(VICTIMS.values()))
                self.adapter.kill(victim)
                self.adapter.ensure_running()
                time.sleep(random.uniform(*DISTURBED_SECONDS) if self.adapter.mount.is_lost else 0)
            self._report_progress()

    def _calm_down(self) -> None:
        """Stop the faults and the senders, and kill the adapter a last time."""
        statuses = self.senders.stop()
        self.platform.calm_down()
        self.adapter.restore()
        self.adapter.continue_log_reader()
        self.adapter.kill(Victim.EVERYTHING)
        self.adapter.wait_until_it_listens()
        self.composer.request_stop()  # the outstanding requests of the composer get responses from now on
        statuses.append(self.composer.wait())
        wait_for_lane(self.adapter.http_port)
        if any(statuses):
            raise RuntimeError(f"senders and composer ended with {statuses}: see {self.plan.folder}")

    def _deliver_with_faults(self) -> None:
        """Wait until everything is delivered, but only for some seconds, and end the faults of the destinations."""
        deadline = time.monotonic() + min(LONGEST_DELIVERING_SECONDS, self.plan.seconds / 4)
        while time.monotonic() < deadline and not self._is_drained():
            time.sleep(POLL_SECONDS)
        for destination in self.destinations:
            destination.calm_down()

    def _drain(self) -> bool:
        """Wait until the adapter is drained. Returns False at the time limit."""
        deadline = time.monotonic() + self.plan.drain_seconds
        while not self._is_drained():
            if time.monotonic() > deadline or not self._retry_faulted_jobs():
                return False
            for server in (self.platform, *self.destinations):
                server.ensure_running()
            self._report_progress()
            time.sleep(POLL_SECONDS)
        return True

    def _is_drained(self) -> bool:
        is_cleaned_up = files.jobs_to_clean_up_after(self.adapter.data) == 0
        counts = self._ledger.counts()
        if held := self._held_deliveries(counts):
            held_results = len({number for job in held for number in job.instances})
            has_only_held = (len(held), held_results) == (counts["jobs faulted"], counts["instances released"])
            return is_cleaned_up and has_only_held and counts.keys() <= DRAINED | HELD
        return is_cleaned_up and counts.keys() <= DRAINED

    def _held_deliveries(self, counts: Mapping[str, int]) -> list[LedgerJob]:
        """Return the deliveries to products (see `faults.products`) that are faulted again after a retry."""
        if not counts.get("jobs faulted"):
            return []
        jobs = filter(count_results.is_delivery_to_product, self._ledger.jobs())
        return [job for job in jobs if job.state == "faulted" and job.job_id in self.retried]

    def _retry_faulted_jobs(self) -> bool:
        """Retry faulted jobs, as an operator after an outage of the platform or of a destination.

        Returns False if a job is faulted a second time, unless it is a delivery to a product: this delivery is held.
        """
        held = {job.job_id for job in self._held_deliveries(self._ledger.counts())}
        for job_id in self._ledger.faulted():
            if job_id in held:
                continue
            if job_id in self.retried:
                return False
            ledger = Ledger(f"sqlite:///{self.adapter.data / 'ledger.sqlite'}")
            operators.retry(ledger, SystemClock(), job_id)
            ledger.close()
            self.retried.add(job_id)
        return True

    @property
    def _ledger(self) -> LedgerFile:
        return LedgerFile(self.adapter.data / "ledger.sqlite")

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now < self.reported_at + PROGRESS_SECONDS:
            return
        self.reported_at = now
        records = self.senders.records()
        kills = sum(self.adapter.kills.values())
        self.report_progress(
            f"{kills} kills, {len(records.sent)} sent, {records.acknowledged} acknowledged; {self._in_words()}"
        )

    def _in_words(self) -> str:
        return ", ".join(f"{number} {state}" for state, number in sorted(self._ledger.counts().items()))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _report(
        self,
        drained_in: float | None,
        kept: tuple[CachedInstance, ...],
        arrived: Mapping[str, tuple[PlatformFile, ...]],
    ) -> Report:
        records, orders = self.senders.records(), read_orders(self.composer.record)
        evidence = self._evidence(records, orders, kept, arrived)
        started = sum(job.is_started for job in evidence.platform_jobs)
        return Report(
            seed=self.plan.seed,
            seconds=self.plan.seconds,
            drained_in=drained_in,
            kills=self.adapter.kills,
            launches=self.adapter.launches,
            waited=self.adapter.waited,
            surroundings=self.surroundings.faults,
            effects=self._effects(evidence),
            reloads=self.adapter.reloads,
            applied=sum(entry["event"] == "reload_applied" for entry in evidence.log),
            platform_restarts=self.platform.restarts,
            faults=self.platform.faults_by_kind(),
            associations=records.associations,
            not_established=records.not_established,
            sent=len(records.sent),
            answers=Counter("none" if sent.status is None else f"0x{sent.status:04X}" for sent in records.sent),
            orders=len({call.order.key for call in orders.calls}),
            composing=_statuses(orders.calls),
            deleting=_statuses(orders.deletions),
            ledger=self._ledger.counts(),
            started_jobs=started,
            jobs_never_started=len(evidence.platform_jobs) - started,
            results=count_results.by_state(evidence),
            destinations={one.name: (len(arrived[one.name]), one.faults) for one in self.destinations},
            held=tuple(count_results.held(evidence)),
            left_out=tuple(self.left_out),
            retried=len(self.retried),
            orphans=len(orphans(evidence)),
            findings=tuple(count(evidence)),
        )

    def _effects(self, evidence: Evidence) -> Counter[str]:
        """Count the effects of the faults and of a busy machine, so that a fault without effect is noticed."""
        effects = Counter(entry["event"] for entry in evidence.log if entry["event"] in EFFECTS)
        effects["waits for the ledger"] = sum(map(is_busy, evidence.log))
        effects["full log pipes"] = self.adapter.full_log_pipes
        effects["log entries about the missing disk"] = sum(
            entry.get("reason", "").startswith(STORAGE_REPLACED) for entry in evidence.log
        )
        return effects

    def _evidence(
        self,
        records: Records,
        orders: Orders,
        kept: tuple[CachedInstance, ...],
        arrived: Mapping[str, tuple[PlatformFile, ...]],
    ) -> Evidence:
        return Evidence(
            sent=records.sent,
            platform_jobs=(
                *files.platform_jobs(self.platform.state),
                *outcomes.runs(self.adapter.commands),
                *outcomes.deliveries(self.adapter.commands),
            ),
            results=outcomes.results(self.adapter.commands),
            arrived=arrived,
            instances=tuple(self._ledger.instances()),
            jobs=tuple(self._ledger.jobs()),
            stored=files.stored_keys(self.adapter.data),
            unfinished=files.unfinished_receptions(self.adapter.data),
            log=tuple(files.log_entries(self.adapter.log)),
            audit=tuple(self.adapter.audit()["findings"]),
            clock=self.adapter.clock.range,
            outages=tuple(self.adapter.mount.outages),
            on_mount_point=tuple(self.adapter.mount.created),
            orders=orders,
            kept=kept,
        )


def _statuses(requests: Iterable[Call | Deletion]) -> Counter[str]:
    return Counter("none" if request.status is None else str(request.status) for request in requests)
