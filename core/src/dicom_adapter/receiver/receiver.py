"""The receiver: decides about associations, and stores instances (steps 1 and 2 of the flow).

The receiver then wakes the host, which enters the rows and runs all further steps. The receiver calls no processor,
submitter or observer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from dicom_adapter.api.receiving import (
    AssociationDecision,
    AssociationRequest,
    RejectedPeer,
    RejectionCause,
    StoreOutcome,
    StoreRequest,
    StoreResult,
)
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config, LogLevel
from dicom_adapter.dicom.identity import UID_GRAMMAR
from dicom_adapter.flow.acceptance import Space, lack_of_space, measure_space
from dicom_adapter.flow.association import Load, judge
from dicom_adapter.flow.enter.instance_log import InstanceLog
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.flow.store.incoming import IncomingInstance
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.ledger.instances import UNNUMBERED
from dicom_adapter.net.codes import C_STORE_STATUS
from dicom_adapter.net.storage_scp import ClosedAssociation, Deliver
from dicom_adapter.receiver.arriving_studies import ArrivingStudies
from dicom_adapter.receiver.association_log import AssociationLog, record_lost
from dicom_adapter.receiver.conditions import Conditions, CurrentConditions
from dicom_adapter.receiver.group_commit import GroupCommit
from dicom_adapter.receiver.refusals import RecentRefusals
from dicom_adapter.receiver.sender_log import SenderLog
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.receiver")

TEMPORARY_CAUSES = (RejectionCause.STOPPED, RejectionCause.SPACE)  # may have ended since the conditions were read
LOCAL_OUTCOMES = (StoreOutcome.OUT_OF_SPACE, StoreOutcome.FAILED)  # the cause is the adapter, not the sender


class Receiver:
    """Connects the network with steps 1 and 2: association and store."""

    def __init__(
        self,
        config: Config,
        resources: Resources,
        wake_fd: int | None,
        name: str = RECEIVER,
    ) -> None:
        """Create the receiver `name`. `wake_fd` is a pipe to the host; None if there is no host."""
        self._config = config
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._problem = resources.problem
        self.refusals = RecentRefusals(resources.clock.now)
        self._name = name
        self._senders = SenderLog(resources.ledger)
        self._associations = AssociationLog(resources.ledger, resources.clock)
        self._log: InstanceLog | None = None  # None: there is no host, or the storage keeps no recovery records
        self._store = Store(config, resources, name=name, limits=StoreLimits(resources, self._backlog))
        self._conditions = CurrentConditions(resources, backlog=self._backlog)
        self._wake_fd = wake_fd
        self._commits: GroupCommit | None = None
        self._studies = ArrivingStudies()
        self._logs_instances = config.log.level is LogLevel.DEBUG  # otherwise no time is spent on their fields

    def configure(self, config: Config) -> None:
        """Apply another configuration. Only one thread at a time may call this method."""
        self._store.configure(config)
        self._config = config
        self._conditions.forget()

    def recover(self, receivers: Collection[str] = (RECEIVER,)) -> None:
        """Record what was lost in a crash or power loss: rows of instances, and ends of associations. Open the log.

        `receivers` are the names of all receivers of the service. Call this method before an instance is received.
        """
        self._store.recover()
        record_lost(self._ledger, self._name, receivers, self._clock.now())
        if self._wake_fd is not None:
            self._log = self._associations.instance_log = self._store.open_log(self._config.storage.path / FOLDER)
        self._wake_host()

    def _backlog(self) -> str:
        """Return why no instances are accepted until the host has entered rows; "" if they are."""
        return "" if self._log is None else self._log.refusal()

    def decide_at_once(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision | None:
        conditions = self._conditions.recent()
        if conditions is None:
            return None
        decision = self._judge(request, associations, associations_of_peer, conditions)
        if decision.cause in TEMPORARY_CAUSES:
            return None
        _log_decision(association_id, request, decision)
        return decision

    def decide(
        self, association_id: str, request: AssociationRequest, associations: int, associations_of_peer: int
    ) -> AssociationDecision:
        decision = self._judge(request, associations, associations_of_peer, self._conditions.read())
        _log_decision(association_id, request, decision)
        return decision

    def _judge(
        self, request: AssociationRequest, associations: int, associations_of_peer: int, conditions: Conditions
    ) -> AssociationDecision:
        load = Load(
            associations=associations,
            associations_of_peer=associations_of_peer,
            space=conditions.space,
            stopped=conditions.stopped,
            full=conditions.full,
        )
        return judge(request, self._config, load)

    def start(self, loop: asyncio.AbstractEventLoop, deliver: Deliver, has_one_connection: Callable[[], bool]) -> None:
        self._commits = GroupCommit(
            loop, self._commit, deliver, self._commit_inline, may_commit_inline=has_one_connection
        )

    def begin_store(self, request: StoreRequest, refusal: StoreResult | None = None) -> IncomingInstance:
        if refusal is not None:
            return IncomingInstance(request, refusal)
        return self._store.begin(request)

    def complete_store(self, incoming: IncomingInstance, ticket: object) -> StoreResult | None:
        received = self._store.end(incoming)
        if isinstance(received, StoreResult):
            self._log_result(incoming.request, received)
            self._note_refusal(received, incoming.size)
            self._note_failure(incoming.request, received, incoming.study_instance_uid)
            return received
        assert self._commits is not None  # because `start` was called
        return self._commits.put(received, ticket)

    def _commit_inline(self, received: Sequence[ReceivedInstance], seconds: float) -> Sequence[StoreResult] | None:
        results = self._store.commit_inline(received, seconds)
        if results is not None:
            self._committed(received, results)
        return results

    def _commit(self, received: Sequence[ReceivedInstance]) -> Sequence[StoreResult]:
        results = self._store.commit(received)
        self._committed(received, results)
        return results

    def _committed(self, received: Sequence[ReceivedInstance], results: Sequence[StoreResult]) -> None:
        if any(result.instance is not None for result in results):
            self._wake_host()
        with logs.batch():
            for one, result in zip(received, results, strict=True):
                self._log_result(one, result)
                if result.instance is None:
                    self._note_refusal(result)
                elif self._studies.is_new(one.association_id, result.instance.study_instance_uid):
                    _log_study(result.instance)
        for one, result in zip(received, results, strict=True):
            if result.instance is None:
                self._note_failure(one, result, one.study_instance_uid)

    def _log_result(self, request: StoreRequest | ReceivedInstance, result: StoreResult) -> None:
        """Log an instance that was refused or quarantined. Log other instances only at the level debug."""
        if self._logs_instances or not result.outcome.is_acknowledged or (result.instance and result.reason):
            _log(request, result)

    def _note_failure(self, request: StoreRequest | ReceivedInstance, result: StoreResult, study: str) -> None:
        """Note an instance that was not stored: its study may be incomplete."""
        if not result.outcome.is_acknowledged:
            self._associations.store_failed(request, C_STORE_STATUS[result.outcome], study)

    def abort_store(self, incoming: IncomingInstance) -> None:
        incoming.discard()
        if incoming.is_kept:
            self._associations.store_cut_off(incoming.request, incoming.study_instance_uid)

    def _note_refusal(self, result: StoreResult, data_set_bytes: int = 0) -> None:
        if result.outcome in LOCAL_OUTCOMES:
            self.refusals.record("instance", result.reason, data_set_bytes)

    def check(self, at_limit: Collection[str]) -> None:
        """Forget problems and refusals whose causes have gone. Uses the disks.

        `at_limit`: the peers with as many associations as they may have; "" for all peers together.
        """
        self._store.check_problem()
        space, storage = self._measure_space(), self._config.storage
        self.refusals.forget_old(lambda size: lack_of_space(space, storage, size) is None, at_limit)

    def _measure_space(self) -> Space:
        backlog = self._backlog()
        return Space(problem=backlog) if backlog else measure_space(self._storage, self._ledger, self._problem)

    def peer_rejected(self, rejected: RejectedPeer) -> None:
        if rejected.cause is RejectionCause.LIMIT:
            what = "association" if rejected.calling_ae_title else "connection"
            self.refusals.record_limit(what, rejected.reason, rejected.peer_address)
        elif rejected.cause is RejectionCause.SPACE:  # for a stopped AE title, health shows the part of its lane
            self.refusals.record("association", rejected.reason)
        self._senders.rejected(rejected, self._clock.now())

    def association_closed(self, closed: ClosedAssociation) -> None:
        self._senders.ended(closed, self._clock.now())
        self._studies.end(closed.association_id)
        record = partial(self._record_end, closed, self._clock.now())
        if self._commits is None:
            record()
        else:
            self._commits.call_after(record)
        log.info(
            "association_closed",
            association_id=closed.association_id,
            ae_title=closed.request.called_ae_title,
            calling_ae_title=closed.request.calling_ae_title,
            peer=closed.request.peer_address,
            how=closed.how,
            seconds=round(closed.seconds, 3),
            instances=closed.instances,
            bytes=closed.stored_bytes,
            statuses=dict(closed.statuses),
        )

    def _record_end(self, closed: ClosedAssociation, at: datetime) -> None:
        has_stored = self._store.forget_association(closed.association_id)
        self._associations.closed(closed, at, has_stored=has_stored)

    def close(self) -> None:
        """Write pending events, and end the log with a checkpoint. Call this method after the network has stopped."""
        if self._commits is not None:
            self._commits.close()
        self._store.end_log(self._wake_host)  # first: reports of associations wait for rows
        self._senders.close()
        self._associations.close()
        self._store.close()

    @property
    def commits_are_alive(self) -> bool:
        """True while the commit thread runs, and before it is started."""
        return self._commits is None or self._commits.is_alive

    @property
    def storage_problem(self) -> str:
        """Why the last commit was refused, if the opened storage or ledger was replaced or is missing; else ""."""
        return self._store.problem

    def _wake_host(self) -> None:
        if self._wake_fd is None:
            return
        try:
            os.write(self._wake_fd, b"\0")
        except (BlockingIOError, BrokenPipeError):
            pass  # the pipe has unread wake-ups already, or the service has ended


def _log_decision(association_id: str, request: AssociationRequest, decision: AssociationDecision) -> None:
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


def _log_study(instance: InstanceStorageInfo) -> None:
    uid = instance.study_instance_uid
    log.info(
        "study_arriving",
        association_id=instance.association_id,
        ae_title=instance.ae_title,
        calling_ae_title=instance.calling_ae_title,
        study_instance_uid=uid if UID_GRAMMAR.fullmatch(uid) else "",
    )


def _log(request: StoreRequest | ReceivedInstance, result: StoreResult) -> None:
    uid = request.sop_instance_uid
    fields: dict[str, Any] = {
        "association_id": request.association_id,
        "ae_title": request.ae_title,
        "sop_instance_uid": uid if UID_GRAMMAR.fullmatch(uid) else "",  # any other text may be patient data
    }
    if result.instance is not None:
        log.debug("instance_stored", **fields)
        if result.reason and result.instance.instance_id != UNNUMBERED:  # otherwise the follower logs it
            fields = {"ae_title": request.ae_title, "instance_id": result.instance.instance_id}
            log.warning("instance_quarantined", **fields, reason=result.reason)
    elif result.outcome.is_acknowledged:
        log.debug("instance_ignored", **fields, reason=result.reason)
    else:
        log.warning(
            "instance_refused", **fields, status=f"0x{C_STORE_STATUS[result.outcome]:04X}", reason=result.reason
        )
