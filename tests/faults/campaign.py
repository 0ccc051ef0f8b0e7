"""A whole run: all is started, reconfigured, killed and failed for a while; then it calms down, drains, is counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from attrs import define, field, frozen

from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime.clock import SystemClock
from faults import evidence as files
from faults.adapter import Adapter, Ports, Victim
from faults.clients import Client
from faults.count import count, orphans
from faults.evidence import Evidence, LedgerFile
from faults.orders import Call, Deletion, Orders, read_orders
from faults.platform import Platform
from faults.records import Records
from faults.report import Report
from faults.senders import Senders
from faults.shelf import Kept, read_shelf, wait_for_the_lane

VICTIMS = {Victim.EVERYTHING: 22, Victim.SUPERVISOR: 8, Victim.HOST: 32, Victim.RECEIVER: 38}  # in a hundred
# Seconds of peace before a kill, since the adapter listens: many strike it at work, some when groups become jobs.
PAUSES = {(0.0, 2.0): 75, (3.0, 6.0): 25}
WHILE_IT_STARTS = 0.3  # of the kills strike within START_SECONDS of the last one, whether it listens or not
START_SECONDS = (0.0, 2.0)
WITH_A_RELOAD = 0.5  # of the others strike within RELOAD_SECONDS of a reload: before, while, or after it is applied
RELOAD_SECONDS = (0.0, 8.0)
PROGRESS_SECONDS = 10.0
LOOK_SECONDS = 0.2  # at the ledger, while it drains
# The states in which nothing moves.
SETTLED = {"instances kept", "instances quarantined", "instances reclaimed", "jobs submitted"}


@frozen(kw_only=True)
class Plan:
    """What to do."""

    folder: Path  # empty, or not there yet
    seed: str
    seconds: float  # of kills and faults
    senders: int = 3
    drain_seconds: float = 120.0  # at the most


def run(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Carry out a plan; `tell` gets a line of progress now and then."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    ports = Ports.free()
    platform = Platform(plan.folder / "platform", ports, Random(f"{plan.seed}/platform"))
    adapter = Adapter(plan.folder / "adapter", ports)
    senders = Senders(plan.folder / "senders", plan.seed, plan.senders)
    (plan.folder / "composer").mkdir()
    composer = Client("composer", plan.folder / "composer", "COMPOSER", plan.seed)
    campaign = _Campaign(plan=plan, platform=platform, adapter=adapter, senders=senders, composer=composer, tell=tell)
    try:
        return campaign.run()
    finally:
        for party in (composer, senders, adapter, platform):
            party.end()


@define(kw_only=True)
class _Campaign:
    plan: Plan
    platform: Platform
    adapter: Adapter
    senders: Senders
    composer: Client
    tell: Callable[[str], None]
    retried: set[str] = field(factory=set)  # faulted jobs
    told_at: float = field(factory=time.monotonic)

    def run(self) -> Report:
        self.platform.start()
        self.adapter.wait_until_it_listens()
        self.senders.start(self.adapter.port)
        self.composer.start(self.adapter.http_port, "--senders", str(self.senders.folder))
        self._kill_for(self.plan.seconds)
        peace = time.monotonic()
        self._calm_down()
        drained_in = time.monotonic() - peace if self._drain() else None
        kept = read_shelf(self.adapter.http_port, self.plan.folder)
        status = self.adapter.stop()
        if status != 0:
            raise RuntimeError(f"the adapter ended with status {status}: see {self.adapter.log}")
        self.platform.end()
        return self._report(drained_in, kept)

    def _kill_for(self, seconds: float) -> None:
        random = Random(f"{self.plan.seed}/killer")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            [pause] = random.choices(list(PAUSES), list(PAUSES.values()))
            if random.random() < WHILE_IT_STARTS:
                pause = START_SECONDS
            else:
                self.adapter.wait_until_it_listens()
                if random.random() < WITH_A_RELOAD:
                    self.adapter.reload(random)
                    pause = RELOAD_SECONDS
            time.sleep(random.uniform(*pause))
            [victim] = random.choices(list(VICTIMS), list(VICTIMS.values()))
            self.adapter.kill(victim)
            self.adapter.ensure_running()
            self._tell_now_and_then()

    def _calm_down(self) -> None:
        """No more faults, nothing more is sent, and the adapter is killed a last time."""
        statuses = self.senders.stop()
        self.platform.calm_down()
        self.adapter.restore()
        self.adapter.kill(Victim.EVERYTHING)
        self.adapter.wait_until_it_listens()
        self.composer.tell_to_stop()  # what it has asked for will be answered now
        statuses.append(self.composer.wait())
        wait_for_the_lane(self.adapter.http_port)
        if any(statuses):
            raise RuntimeError(f"senders and composer ended with {statuses}: see {self.plan.folder}")

    def _drain(self) -> bool:
        """Wait until nothing moves any more; returns whether that came in time."""
        deadline = time.monotonic() + self.plan.drain_seconds
        while not self._is_settled():
            if time.monotonic() > deadline or not self._retry_faulted_jobs():
                return False
            self.platform.ensure_running()
            self._tell_now_and_then()
            time.sleep(LOOK_SECONDS)
        return True

    def _is_settled(self) -> bool:
        is_cleaned_up = files.jobs_to_clean_up_after(self.adapter.data) == 0
        return is_cleaned_up and self._ledger.counts().keys() <= SETTLED

    def _retry_faulted_jobs(self) -> bool:
        """What an operator does when the platform has been mended; False when that did not help a job."""
        for job_id in self._ledger.faulted():
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

    def _tell_now_and_then(self) -> None:
        now = time.monotonic()
        if now < self.told_at + PROGRESS_SECONDS:
            return
        self.told_at = now
        records = self.senders.records()
        kills = sum(self.adapter.kills.values())
        self.tell(f"{kills} kills, {len(records.sent)} sent, {records.acknowledged} acknowledged; {self._in_words()}")

    def _in_words(self) -> str:
        return ", ".join(f"{number} {state}" for state, number in sorted(self._ledger.counts().items()))

    # --- the end ----------------------------------------------------------------------------------------------------

    def _report(self, drained_in: float | None, kept: tuple[Kept, ...]) -> Report:
        records, orders = self.senders.records(), read_orders(self.composer.record)
        evidence = self._evidence(records, orders, kept)
        started = sum(job.is_started for job in evidence.platform_jobs)
        return Report(
            seed=self.plan.seed,
            seconds=self.plan.seconds,
            drained_in=drained_in,
            kills=self.adapter.kills,
            launches=self.adapter.launches,
            reloads=self.adapter.reloads,
            applied=sum(entry["event"] == "reload_applied" for entry in evidence.log),
            platform_restarts=self.platform.restarts,
            faults=self.platform.faults_by_kind(),
            associations=records.associations,
            sent=len(records.sent),
            answers=Counter("none" if sent.status is None else f"0x{sent.status:04X}" for sent in records.sent),
            orders=len({call.order.key for call in orders.calls}),
            composing=_statuses(orders.calls),
            deleting=_statuses(orders.deletions),
            ledger=self._ledger.counts(),
            started_jobs=started,
            jobs_never_started=len(evidence.platform_jobs) - started,
            retried=len(self.retried),
            orphans=len(orphans(evidence)),
            findings=tuple(count(evidence)),
        )

    def _evidence(self, records: Records, orders: Orders, kept: tuple[Kept, ...]) -> Evidence:
        return Evidence(
            sent=records.sent,
            platform_jobs=tuple(files.platform_jobs(self.platform.state)),
            instances=tuple(self._ledger.instances()),
            jobs=tuple(self._ledger.jobs()),
            stored=files.stored_keys(self.adapter.data),
            unfinished=files.unfinished_receptions(self.adapter.data),
            log=tuple(files.log_entries(self.adapter.log)),
            audit=tuple(self.adapter.audit()["findings"]),
            orders=orders,
            kept=kept,
        )


def _statuses(requests: Iterable[Call | Deletion]) -> Counter[str]:
    return Counter("none" if request.status is None else str(request.status) for request in requests)
