"""The receiver process: association and store.

It knows the configuration, the storage backend and the ledger, and calls no processor and no observer. It writes an
instance and its row, and wakes the host; what the host does with them, and when, does not concern it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog

from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, StoreRequest, StoreResult
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.config.model import Config
from dicom_adapter.flow.association import Load, judge
from dicom_adapter.flow.store.arrival import Arrival
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.flow.store.incoming import Incoming
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.ledger import Ledger, lanes
from dicom_adapter.ledger.event_writer import EventWriter
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.net.codes import C_STORE_STATUS
from dicom_adapter.net.connection import Closed, Deliver
from dicom_adapter.receiver.group_commit import GroupCommit
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.receiver")


class Receiver:
    """Connects the network with the first two steps of the flow."""

    def __init__(
        self,
        config: Config,
        storage: StorageBackend[Any],
        ledger: Ledger,
        clock: Clock,
        wake_fd: int | None,
        name: str = RECEIVER,
    ) -> None:
        """`name`: under which it is known, when there are several."""
        self._config = config
        self._storage = storage
        self._ledger = ledger
        self._clock = clock
        self._events = EventWriter(ledger, synced=False)
        self._store = Store(config, storage, ledger, clock, name=name, limits=StoreLimits(storage, ledger))
        self._wake_fd = wake_fd
        self._commits: GroupCommit | None = None

    def configure(self, config: Config) -> None:
        """Judge and store by another configuration from now on. From any one thread."""
        self._store.configure(config)
        self._config = config

    def recover(self) -> None:
        """Make up for what an earlier run could not finish. Before anything is received."""
        if self._store.recover():
            self._wake_host()

    def requested(
        self, association_id: str, request: AssociationRequest, associations: int, of_peer: int
    ) -> AssociationDecision:
        with self._ledger.read() as transaction:
            stopped, full = lanes.refusing(transaction)
        busy = Load(
            associations=associations,
            associations_of_peer=of_peer,
            capacity=self._storage.capacity(),
            stopped=stopped,
            full=full,
            ledger_free=self._ledger.free_bytes(),
        )
        decision = judge(request, self._config, busy)
        fields = {
            "association_id": association_id,
            "ae_title": request.called_ae_title,
            "calling_ae_title": request.calling_ae_title,
            "peer": request.peer_address,
        }
        if request.certificate_names:
            fields["certificate"] = ", ".join(sorted(request.certificate_names))
        if decision.rejection is None:
            log.info("association_accepted", **fields)
        else:
            log.warning("association_rejected", **fields, rejection=decision.rejection.name, reason=decision.reason)
        return decision

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        self._commits = GroupCommit(
            loop, self._commit, deliver, self._commit_inline, may_commit_inline=has_one_connection
        )

    def begin(self, request: StoreRequest, refusal: StoreResult | None = None) -> Incoming:
        if refusal is not None:
            return Incoming(request, refusal)
        return self._store.begin(request)

    def end(self, incoming: Incoming, ticket: object) -> StoreResult | None:
        arrival = self._store.end(incoming)
        if isinstance(arrival, StoreResult):
            _tell(incoming.request, arrival)
            return arrival
        assert self._commits is not None  # started
        return self._commits.put(arrival, ticket)

    def _commit_inline(self, arrival: Arrival) -> StoreResult | None:
        answer = self._store.commit_inline(arrival)
        if answer is not None:
            self._committed([arrival], [answer])
        return answer

    def _commit(self, arrivals: Sequence[Arrival]) -> Sequence[StoreResult]:
        answers = self._store.commit(arrivals)
        self._committed(arrivals, answers)
        return answers

    def _committed(self, arrivals: Sequence[Arrival], answers: Sequence[StoreResult]) -> None:
        if any(answer.instance is not None for answer in answers):
            self._wake_host()
        with logs.together():
            for arrival, answer in zip(arrivals, answers, strict=True):
                _tell(arrival.request, answer)
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.duplicate_of is not None:
                self._events.put(_repeated(arrival.request, answer, answer.duplicate_of, self._clock.now()))

    def closed(self, closed: Closed) -> None:
        if closed.statuses:
            self._events.put(_ended(closed, self._clock.now()))
        log.info(
            "association_closed",
            association_id=closed.association_id,
            ae_title=closed.request.called_ae_title,
            how=closed.how,
            statuses=dict(closed.statuses),
        )

    def close(self) -> None:
        """Write down what has been heard; nothing is heard any more."""
        if self._commits is not None:
            self._commits.close()
        self._events.close()
        self._store.checkpoint()

    @property
    def commits(self) -> bool:
        """Whether what has arrived is being committed."""
        return self._commits is None or self._commits.is_alive

    def _wake_host(self) -> None:
        if self._wake_fd is None:
            return
        try:
            os.write(self._wake_fd, b"\0")
        except (BlockingIOError, BrokenPipeError):
            pass  # the pipe is full of wake-ups that the host has yet to see, or the service is gone


def _repeated(request: StoreRequest, answer: StoreResult, instance_id: int, now: datetime) -> Event:
    """What has no row of its own is told with the pending instance that it is again."""
    return Event(
        at=now,
        event="instance_not_kept" if answer.outcome.is_acknowledged else "instance_refused",
        ae_title=request.ae_title,
        association_id=request.association_id,
        instance_id=instance_id,
        detail={"status": f"0x{C_STORE_STATUS[answer.outcome]:04X}", "reason": answer.reason},
    )


def _ended(closed: Closed, now: datetime) -> Event:
    peer = {"calling_ae_title": closed.request.calling_ae_title, "peer": closed.request.peer_address}
    return Event(
        at=now,
        event="association_closed",
        ae_title=closed.request.called_ae_title,
        association_id=closed.association_id,
        detail={"how": closed.how, "statuses": dict(closed.statuses), **peer},
    )


def _tell(request: StoreRequest, answer: StoreResult) -> None:
    fields: dict[str, Any] = {
        "association_id": request.association_id,
        "ae_title": request.ae_title,
        "sop_instance_uid": request.sop_instance_uid,
    }
    if answer.instance is not None:
        log.info("instance_stored", **fields, instance_id=answer.instance.instance_id)
    elif answer.outcome.is_acknowledged:
        log.info("instance_not_kept", **fields, reason=answer.reason)
    else:
        log.warning(
            "instance_refused", **fields, status=f"0x{C_STORE_STATUS[answer.outcome]:04X}", reason=answer.reason
        )
