"""Storage commitment of a job: the request after the uploads, and the status of the job until the node's report."""

from __future__ import annotations

import time

from attrs import evolve

from dicom_adapter import InstanceStorageInfo, Job, Permanent, PlatformStatus, Retriable
from dicom_adapter_delivery import dicom_wire as wire
from dicom_adapter_delivery.dicom_association import DicomPeer, OutgoingAssociation, connect
from dicom_adapter_delivery.dicom_commitment import (
    COMMITMENT,
    PROCESSING_FAILURE,
    REQUEST_COMMITMENT,
    TRANSIENT_REASONS,
    WELL_KNOWN_INSTANCE,
    CommitmentFiles,
    UnreadableReport,
    describe_missing,
    encode_request,
    parse_report,
)
from dicom_adapter_delivery.dicom_statuses import StoreVerdict, describe_store_status, judge
from dicom_adapter_delivery.dicom_wire import Message

REPEAT_S = 30.0  # seconds after which a request is repeated if the node may commit the rest of its instances later
SUCCESS, INVALID_ARGUMENT = 0x0000, 0x0115  # statuses of a response to a report (PS3.7 annex C)
# States of the job on the platform
WAITING, COMMITTED, NOT_COMMITTED = "waiting for storage commitment", "committed", "not committed"


class StorageCommitment:
    """Requests storage commitment for the instances of jobs. Thread-safe."""

    def __init__(self, peer: DicomPeer, files: CommitmentFiles) -> None:
        self._peer = peer
        self._files = files

    def record_delivery(self, job: Job, instance: InstanceStorageInfo) -> None:
        """Record that the node has stored an instance of the job."""
        self._files.add(job.run_id, instance.sop_class_uid, instance.sop_instance_uid)

    def start(self, job: Job) -> None:
        """Request storage commitment, unless the node has already committed the instances."""
        if job.instance_count and self._files.not_committed(job.run_id) != {}:  # {}: all are committed
            self._request(job)

    def status(self, job: Job) -> PlatformStatus:
        """Return whether the node has committed the instances. Repeats the request if that may help."""
        settings, now = self._peer.settings, time.time()
        request, missing = self._files.request(job.run_id), self._files.not_committed(job.run_id)
        if missing == {} or not job.instance_count:
            return PlatformStatus(state=COMMITTED, finished=True, succeeded=True)
        age = now - request.requested_at if request is not None else settings.commitment_repeat
        if missing is None:  # the node has not reported yet
            if age >= settings.commitment_repeat:
                self._request(job)
            return PlatformStatus(state=WAITING, finished=False)
        began = job.started_at.timestamp() if job.started_at is not None else now
        if set(missing.values()) <= TRANSIENT_REASONS and now - began < settings.commitment_repeat:
            if age >= REPEAT_S:
                self._request(job)
            return PlatformStatus(state=WAITING, finished=False, detail=describe_missing(missing))
        return PlatformStatus(state=NOT_COMMITTED, finished=True, detail=describe_missing(missing), succeeded=False)

    def forget_earlier_runs(self, job: Job) -> None:
        """Delete the files of earlier runs: they failed, and an operator has retried the job."""
        for run in range(1, job.run):
            self._files.remove(evolve(job, run=run).run_id)

    def clean_up(self, job: Job) -> None:
        self._files.remove(job.run_id)

    def _request(self, job: Job) -> None:
        references = self._files.references(job.run_id)
        if not references:
            raise Permanent("the list of the delivered instances is missing: retry the job, which sends them again")
        association = connect(self._peer, [COMMITMENT])
        try:
            if not association.accepts(COMMITMENT):
                raise Permanent(
                    f"{self._peer} does not accept Storage Commitment ({association.refused[COMMITMENT]}); "
                    f"set storage-commitment = false"
                )
            request = self._files.new_request(job.run_id, time.time())
            elements: dict[int, int | str] = {
                wire.REQUESTED_SOP_CLASS_UID: COMMITMENT.sop_class_uid,
                wire.REQUESTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
                wire.ACTION_TYPE_ID: REQUEST_COMMITMENT,
            }
            content = encode_request(request.transaction_uid, references)
            self._check(association.exchange(COMMITMENT, wire.N_ACTION_RQ, elements, content))
            report = association.wait_for_request(self._peer.settings.commitment_wait)
            if report is not None:
                self._receive(association, report)
        finally:
            association.release()

    def _check(self, response: Message) -> None:
        status = response.number(wire.STATUS)
        verdict = judge(status)
        if verdict in (StoreVerdict.DELIVERED, StoreVerdict.DELIVERED_WITH_WARNING):
            return
        words = f"{self._peer} answered the request for storage commitment with {describe_store_status(status)}"
        raise (Retriable if verdict is StoreVerdict.FAILED_FOR_NOW else Permanent)(words)

    def _receive(self, association: OutgoingAssociation, message: Message) -> None:
        """Record a report that arrived on the association of the request, and answer it."""
        status = SUCCESS
        try:
            is_report = message.number(wire.COMMAND_FIELD) == wire.N_EVENT_REPORT_RQ
            self._files.keep(parse_report(message.data_set if is_report else b""))
        except (UnreadableReport, wire.InvalidBytes):
            status = INVALID_ARGUMENT
        except Retriable:
            status = PROCESSING_FAILURE
        elements: dict[int, int | str] = {
            wire.STATUS: status,
            wire.AFFECTED_SOP_CLASS_UID: COMMITMENT.sop_class_uid,
            wire.AFFECTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
        }
        if wire.EVENT_TYPE_ID in message.command:
            elements[wire.EVENT_TYPE_ID] = message.number(wire.EVENT_TYPE_ID)
        association.reply(message, elements)
