"""The `dicom` submitter: sends the instances of a job to a DICOM node with C-STORE (PS3.4 annex B).

step                      what happens                                   why a repetition is harmless
create_job, add_metadata  nothing: a DICOM node knows no jobs
upload                    one C-STORE                                    the node replaces the instance, or answers
                                                                         0x0111: it already has it
start                     nothing, or a request for storage commitment   a new request replaces an earlier one
status                    the report of storage commitment               it changes nothing
cancel                    nothing: what the node has stored stays there

Each data set is sent as it was received. For each pair of SOP class and transfer syntax of the files, the submitter
proposes a presentation context with this transfer syntax only, so the node accepts a file as it is, or not at all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

import structlog
from pydicom.uid import UID

from dicom_adapter import (
    Certificate,
    InstanceStorageInfo,
    Job,
    Permanent,
    PlatformJob,
    PlatformStatus,
    Retriable,
    Submitter,
    SubmitterContext,
    Upload,
)
from dicom_adapter_delivery.dicom_association import (
    VERIFICATION,
    AssociationGone,
    DicomPeer,
    OutgoingAssociation,
    connect,
)
from dicom_adapter_delivery.dicom_comments import shown_comment
from dicom_adapter_delivery.dicom_commitment import CommitmentFiles
from dicom_adapter_delivery.dicom_committing import StorageCommitment
from dicom_adapter_delivery.dicom_file import data_set_pieces
from dicom_adapter_delivery.dicom_pool import AssociationPool, ContextRefused
from dicom_adapter_delivery.dicom_settings import DicomSettings
from dicom_adapter_delivery.dicom_statuses import StoreVerdict, describe_store_status, judge
from dicom_adapter_delivery.dicom_tls import node_certificates, tls_versions
from dicom_adapter_delivery.dicom_wire import ERROR_COMMENT, STATUS, Message, Pair

log = structlog.get_logger("dicom_adapter_delivery")

SENDABLE_UID = re.compile(r"[0-9A-Za-z.]{1,64}")  # some devices write letters, and many nodes accept them


class DicomSubmitter(Submitter[DicomSettings]):
    """Send the instances of jobs to one DICOM node over reused associations."""

    name = "dicom"
    platform_has_jobs = False

    def __init__(self, settings: DicomSettings, context: SubmitterContext) -> None:
        super().__init__(settings, context)
        self._peer = DicomPeer(settings=settings)
        self._pool = AssociationPool(
            lambda pairs: connect(self._peer, pairs),
            settings.associations,
            settings.idle_timeout,
            lambda: tls_versions(settings),
        )
        self.follows_jobs = settings.storage_commitment
        self.node_ae_title = settings.ae_title
        self._files = CommitmentFiles(context.data_folder)
        self._commitment = StorageCommitment(self._peer, self._files)
        self._close_listener: Callable[[], None] = lambda: None

    def open(self) -> None:
        if self.settings.storage_commitment:
            self._files.open()
        if self.settings.commitment_port is not None:
            # Imported here: most adapters need no listener, and pynetdicom's server takes memory.
            from dicom_adapter_delivery.dicom_reports import ReportListener

            listener = ReportListener(self.settings, self._files.keep)
            listener.open()
            self._close_listener = listener.close
        self._pool.open()

    def create_job(self, job: Job) -> PlatformJob:
        if self.settings.storage_commitment:
            self._commitment.forget_earlier_runs(job)
        return PlatformJob(job_id=job.run_id)

    def add_metadata(self, job: Job, metadata: Mapping[str, str]) -> None:
        """Do nothing: a DICOM node has no place for metadata of a job."""

    def upload(self, job: Job, upload: Upload) -> None:
        instance = upload.instance
        subject = f"instance {instance.sop_instance_uid}"
        for uid in (instance.sop_instance_uid, instance.sop_class_uid, instance.transfer_syntax_uid):
            if not SENDABLE_UID.fullmatch(uid):
                raise Permanent(f"instance {instance.instance_id}: one of its UIDs is not valid, so it cannot be sent")
        pair = Pair(instance.sop_class_uid, instance.transfer_syntax_uid)
        try:
            response = self._store(pair, upload)
        except ContextRefused as refusal:
            raise Permanent(f"{self._peer} does not accept {_described(pair)}: {refusal.reason}") from None
        self._pool.note_use(pair)
        self._evaluate(response, subject, job, instance)
        if self.settings.storage_commitment:
            self._commitment.record_delivery(job, instance)

    def _store(self, pair: Pair, upload: Upload) -> Message:
        """Send the instance. If the peer has ended a reused association, send it again over a new one."""
        for new in (False, True):
            with upload.open() as source:
                pieces = data_set_pieces(source, upload.size_bytes)
                # The first piece is read before an association is taken: until then, other uploads can use it.
                pieces = chain([next(pieces)], pieces)
                with self._pool.association(pair, new=new) as association:
                    deadline = time.monotonic() + self.settings.upload_timeout
                    try:
                        return association.store(pair, upload.instance.sop_instance_uid, pieces, deadline)
                    except AssociationGone as loss:
                        if new or not (association.is_reused and loss.by_peer):
                            raise
        raise AssertionError("the second attempt returns or raises")

    def _evaluate(self, response: Message, subject: str, job: Job, instance: InstanceStorageInfo) -> None:
        """Raise the error for the status of the response, or log its warning."""
        status = response.number(STATUS)
        result, words = judge(status), describe_store_status(status) + _comment(response)
        if result is StoreVerdict.FAILED_FOR_NOW:
            raise Retriable(f"{self._peer} answered {words} for {subject}")
        if result is StoreVerdict.REFUSED:
            raise Permanent(f"{self._peer} refused {subject} with {words}")
        if status:
            log.info(
                "instance_delivered_with_status",
                submitter=self.context.name,
                job_id=job.job_id,
                sop_instance_uid=instance.sop_instance_uid,
                status=words,
            )

    def start(self, job: Job) -> None:
        """Request storage commitment if it is configured; otherwise the instances are delivered."""
        if self.settings.storage_commitment:
            self._commitment.start(job)

    def status(self, job: Job) -> PlatformStatus:
        if self.settings.storage_commitment:
            return self._commitment.status(job)
        return PlatformStatus(state="delivered", finished=True, succeeded=True)

    def cancel(self, job: Job) -> None:
        """Do nothing: instances that the node has stored stay there."""

    def clean_up(self, job: Job) -> None:
        if self.settings.storage_commitment:
            self._commitment.clean_up(job)

    def certificates(self) -> Iterable[Certificate]:
        return node_certificates(self.settings)

    def check_connection(self) -> str:
        association = connect(self._peer, [VERIFICATION])
        try:
            return self._echo(association)
        finally:
            association.release()

    def _echo(self, association: OutgoingAssociation) -> str:
        if not association.accepts(VERIFICATION):
            return f"{self._peer} accepts associations; it does not support C-ECHO"
        status = association.echo().number(STATUS)
        if status:
            raise Retriable(f"{self._peer} answered the C-ECHO with {describe_store_status(status)}")
        return f"{self._peer} answers the C-ECHO"

    def close(self) -> None:
        self._pool.close()
        self._close_listener()


def _described(pair: Pair) -> str:
    return f"{UID(pair.sop_class_uid).name} in {UID(pair.transfer_syntax_uid).name}"


def _comment(response: Message) -> str:
    """Return the node's comment for an error message, without words that may be patient data; "" if nothing is left."""
    comment = shown_comment(response.text(ERROR_COMMENT))
    return f': "{comment}"' if comment else ""
