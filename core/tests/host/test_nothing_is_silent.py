"""The property of health: it is never green while a sender is refused or a job cannot go on for longer than a minute.

Host, receiver, ledger, watch and health are real; the clock is virtual. The test causes outages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_adapter import InstanceStorageInfo, Job, JobProcessorBase, Retriable, hookimpl
from dicom_adapter.api.errors import LedgerUnavailable, StorageUnavailable
from dicom_adapter.api.receiving import AssociationRequest, RejectedPeer, StoreResult
from dicom_adapter.api.values import Capacity
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.host.host import Host
from dicom_adapter.ledger import Transaction, jobs, lanes
from dicom_adapter.ledger.health import HOST, RECEIVER, SERVICE, PartState
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.parts import Part, PartKind, process_part
from dicom_adapter.runtime.watch import PartFinding, Watch
from dicom_adapter.runtime.watch import examine as examine_part
from dicom_adapter.runtime.workers import Worker
from dicom_adapter.simulation.adapter import InlineExecutor, encode, make_request
from dicom_adapter.testing import Adapter, Plugin
from dicom_adapter.web.http.health import Health, examine
from support.scripted_platform import ScriptedPlatform

RESERVE = 1_000_000
CONFIGURATION = f"""
[dicom]
max-associations-per-peer = 2
[storage]
backend = "memory"
path = "data"
watermark-percent = 100
reserve = {RESERVE}
durability = "process"
[submitters.platform]
type = "scripted"
[ae-titles.LUNG]
processor = "direct"
submitter = "platform"
"""
TICK = 5.0  # seconds between two looks at the health
SEND_EVERY = timedelta(seconds=20)
MINUTE = timedelta(seconds=60)
SENDER = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="10.0.0.7")
PLENTY = 10**9  # free bytes
NEEDS_OPERATOR = re.compile("quarantined: |faulted: ")

# The outages, with an expression for the problem that names the cause.
OUTAGES: Mapping[str, str] = {
    "platform": "platform platform: .* no route to the platform",
    "ledger's disk is full": "ledger: the ledger's disk has 0 bytes left, [0-9]+ are needed",
    "ledger's disk is nearly full": "ledger: the ledger's disk has 10 bytes left, [0-9]+ are needed",
    "ledger is locked": "ledger: no process can write to it: .* another program locks it",
    "storage's disk is full": f"storage: storage has 10 bytes left, reserve = {RESERVE}",
    "data sets do not fit": f"refusals of receiver: .* bytes left, reserve = {RESERVE}; the largest data set has",
    "storage fails": "refusals of receiver: .* it could not be stored .OSError",
    "storage is gone": "storage: .*storage-id",
    "stored files cannot be read": "submitter platform: [0-9]+ jobs? failing since .* failed to read",
    "processor raises": "AE title LUNG: .*(ValueError|quarantined)",
    "processor waits": "AE title LUNG: its turns are retried: the model is away",
    "host is dead": "host: has not reported since",
    "sender is at its limit": "refusals of receiver: 10.0.0.7: .* max-associations-per-peer = 2 are open",
}


class Site(ScriptedPlatform):
    """A service whose processes are steps of one virtual clock, with one sender, and the outages that are active."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.active: set[str] = set()
        self.adapter = Adapter(folder, CONFIGURATION, [Plugin(self)])
        self.adapter.host.close()
        self.clock, self.ledger, self.storage = self.adapter.clock, self.adapter.ledger, self.adapter.storage
        self.resources, self.config = self.adapter.resources, self.adapter.config
        self.unfinished = 0  # bytes of the data set that is arriving
        self._wrap_ledger()
        self._wrap_storage()
        self.host: Host | None = None
        self.workers: dict[Part, Worker] = {}
        self.due: dict[Part, datetime] = {}
        self.receiver = Receiver(self.config, self.resources, None)
        self.receiver._commits = self  # type: ignore[assignment] # commits on this thread
        self.watches = [
            Watch(self._examine_host, self.ledger, self.clock),
            Watch(self._examine, self.ledger, self.clock),
        ]
        self.send_at = self.clock.now()
        self.refused_since: datetime | None = None

    # --- outages --------------------------------------------------------------------------------------------------

    @contextmanager
    def outage(self, name: str) -> Iterator[None]:
        """Cause an outage until the block ends."""
        marker = self.config.storage.path / "instances" / "storage-id"
        away = marker.with_name("away")
        self.active.add(name)
        if name == "storage is gone":
            marker.rename(away)
        if name == "host is dead" and self.host is not None:
            self.host = None
        yield
        self.active.discard(name)
        if name == "storage is gone":
            away.rename(marker)
        if name == "processor raises":  # an operator restarts the AE title
            with self.ledger.write() as transaction:
                lanes.request_restart(transaction, "LUNG")

    def _wrap_ledger(self) -> None:
        write = self.ledger.write

        @contextmanager
        def writing(**options: Any) -> Iterator[Transaction]:
            if "ledger is locked" in self.active:
                raise LedgerUnavailable("database is locked", is_busy=True)
            if "ledger's disk is full" in self.active:
                raise LedgerUnavailable("database or disk is full", is_full=True)
            with write(**options) as transaction:
                yield transaction

        def free_bytes() -> int:
            if "ledger's disk is full" in self.active:
                return 0
            return 10 if "ledger's disk is nearly full" in self.active else PLENTY

        self.ledger.write = writing  # type: ignore[method-assign]
        self.ledger.free_bytes = free_bytes  # type: ignore[method-assign]

    def _wrap_storage(self) -> None:
        writer, read = self.storage.writer, self.storage.read

        def capacity() -> Capacity:
            free = 10 if "storage's disk is full" in self.active else PLENTY
            if "data sets do not fit" in self.active:
                free = min(free, RESERVE + 100 - self.unfinished)
            return Capacity(total_bytes=2 * PLENTY, free_bytes=free)

        def writing() -> Any:
            if "storage is gone" in self.active:
                raise StorageUnavailable("the storage is gone")
            if "storage fails" in self.active:
                raise OSError("input/output error")
            return writer()

        def reading(key: str) -> BinaryIO:
            if self.active & {"storage is gone", "stored files cannot be read"}:
                raise OSError("input/output error")
            return read(key)

        self.storage.capacity = capacity  # type: ignore[method-assign]
        self.storage.writer = writing  # type: ignore[method-assign]
        self.storage.read = reading  # type: ignore[method-assign]

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        if "platform" in self.active:
            raise Retriable("no route to the platform")

    @hookimpl
    def dicom_adapter_processors(self) -> list[type]:
        site = self

        class Direct(JobProcessorBase):  # type: ignore[type-arg] # without settings
            name = "direct"

            def handle_instance(self, instance: InstanceStorageInfo) -> None:
                if "processor raises" in site.active:
                    raise ValueError
                if "processor waits" in site.active:
                    raise Retriable("the model is away")
                self.submit_pipeline_job("job", "p1", "normal", [instance])
                self.remove_instances([instance])

        return [Direct]

    # --- the processes --------------------------------------------------------------------------------------------

    def tick(self) -> Health:
        """Let the processes work for TICK seconds, then return the health."""
        self.clock.advance(TICK)
        if self.clock.now() >= self.send_at:
            self.send_at = self.clock.now() + SEND_EVERY
            is_stored = self._send()
            self.refused_since = None if is_stored else self.refused_since or self.clock.now()
        if "host is dead" not in self.active:
            self._run_host()
        self.receiver._senders._write()  # else its thread writes after some seconds of real time
        self.receiver.check({SENDER.peer_address} if "sender is at its limit" in self.active else ())
        for watch in self.watches if self.host is not None else self.watches[1:]:  # a dead host examines nothing
            watch.examine()
            with suppress(LedgerUnavailable):
                watch.write()
        return examine(self.config, self.resources)

    def _run_host(self) -> None:
        if self.host is None:
            with suppress(LedgerUnavailable):  # it cannot start: the supervisor tries again
                self.host = Host(
                    self.config, self.adapter._plugins, self.resources, lambda *_: InlineExecutor(), self._wake
                )
                self.workers = {
                    part: Worker(str(part), work.step, self.clock) for part, work in self.host.parts().items()
                }
                self.due = {}
        for _round in range(100):
            ready = [part for part in self.workers if self.due.get(part, self.clock.now()) <= self.clock.now()]
            if not ready:
                return
            for part in ready:
                pause = self.workers[part]._run_step()
                self.due[part] = self.clock.now() + timedelta(seconds=3600 if pause is None else pause)

    def _wake(self, part: Part) -> None:
        self.due.pop(part, None)

    def _examine_host(self) -> Mapping[Part, PartFinding]:
        assert self.host is not None  # otherwise nothing examines it
        parts = {part: examine_part(part, [worker.condition()]) for part, worker in self.workers.items()}
        return {process_part(HOST): PartFinding(), **parts, **self.host.findings()}

    def _examine(self) -> Mapping[Part, PartFinding]:
        problem = self.receiver.storage_problem
        receiver = PartFinding(state=PartState.FAILING, reason=problem) if problem else PartFinding()
        refusals = {Part(PartKind.REFUSALS, RECEIVER): self.receiver.refusals.finding()}
        return {process_part(SERVICE): PartFinding(), process_part(RECEIVER): receiver, **refusals}

    def _send(self) -> bool:
        """Send one instance in one association. Return whether it was acknowledged."""
        data_set = make_instance(seed=str(self.clock.now()), rows=4, columns=4)
        of_peer = 2 if "sender is at its limit" in self.active else 0
        decision = self.receiver.decide("a", SENDER, of_peer, of_peer)
        if decision.rejection is not None:
            self.receiver.peer_rejected(RejectedPeer.by(decision, SENDER))
            return False
        incoming = self.receiver.begin_store(make_request(data_set, "LUNG", "CT1", "a"))
        incoming.write([encode(data_set)])
        self.unfinished = incoming.size
        result = self.receiver.complete_store(incoming, None)
        self.unfinished = 0
        is_stored = result is not None and result.outcome.is_acknowledged
        statuses = {CStoreStatus.SUCCESS.name: 1} if is_stored else {}
        closed = ClosedAssociation(association_id="a", request=SENDER, how="released", statuses=statuses)
        self.receiver._senders.ended(closed, self.clock.now())
        return is_stored

    def put(self, received: Any, _ticket: object) -> StoreResult:
        """Commit as `GroupCommit` does, but on this thread and without waiting for other instances."""
        return self.receiver._commit([received])[0]

    def close(self) -> None:
        self.receiver._commits = None
        self.receiver.close()
        if self.host is not None:
            self.host.close()
        self.storage.close()
        self.ledger.close()

    # --- what the health must show --------------------------------------------------------------------------------

    def is_stuck(self) -> bool:
        """Return whether a sender is refused or work makes no progress for longer than a minute."""
        since = self.clock.now() - MINUTE
        if self.refused_since is not None and self.refused_since < since:
            return True
        with self.ledger.read() as transaction:
            oldest = jobs.oldest_unfinished(transaction).get("LUNG")
            pending = transaction.exec_driver_sql(
                "SELECT count(*) FROM instances WHERE state = 'pending' AND received_at < ?",
                (round(since.timestamp() * 1_000_000),),
            ).scalar_one()
        return bool(pending) or (oldest is not None and max(oldest.changed_at, oldest.created_at) < since)


@contextmanager
def running() -> Iterator[Site]:
    """Run a service in a new folder, so that its ledger has no rows of an earlier example."""
    with TemporaryDirectory() as folder:
        site = Site(Path(folder))
        with DataFolder.of(site.config).as_service():
            yield site
        site.close()


def problems(health: Health) -> list[str]:
    """Return the problems, without those that only an operator can end."""
    return [f"{each.part}: {each.reason}" for each in health.problems if not NEEDS_OPERATOR.search(each.reason)]


def run(site: Site, seconds: float) -> Health:
    """Run the service, and check at each look that the health is not green while anything is stuck."""
    for _number in range(round(seconds / TICK)):
        health = site.tick()
        assert not (site.is_stuck() and health.health == "green"), (site.active, site.clock.now())
    return health


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is_named_until_it_has_gone(name: str) -> None:
    """The health names the cause. A minute after the end of the outage, only problems that need an operator remain.

    Verified to fail for each outage when its part or its reason is left out of the health.
    """
    with running() as site:
        assert [] == problems(run(site, 30))
        with site.outage(name):
            shown = [f"{each.part}: {each.reason}" for each in run(site, 130).problems]
            assert any(re.match(OUTAGES[name], problem) for problem in shown), shown
        assert [] == problems(run(site, 60))


SCHEDULES = st.lists(
    st.tuples(st.sampled_from(sorted(OUTAGES)), st.sampled_from([10, 65, 100]), st.booleans()), min_size=2, max_size=3
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedule=SCHEDULES)
def test_health_is_never_green_while_anything_is_stuck(schedule: list[tuple[str, int, bool]]) -> None:
    """The schedule has outages in sequence or at the same time. A minute after the last one, the service has recovered.

    Problems that need an operator may remain.
    """
    with running() as site:
        cause(site, schedule)
        assert [] == problems(run(site, 60))


def cause(site: Site, schedule: list[tuple[str, int, bool]]) -> None:
    """Cause the outages, each for some seconds. The next one begins during an outage, or after its end."""
    if not schedule:
        return
    (name, seconds, is_nested), *rest = schedule
    if name in site.active:
        cause(site, rest)
        return
    with site.outage(name):
        run(site, seconds)
        if is_nested:
            cause(site, rest)
    if not is_nested:
        cause(site, rest)
