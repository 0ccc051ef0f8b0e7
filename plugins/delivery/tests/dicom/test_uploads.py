"""Uploads: statuses of the node, refused presentation contexts, lost associations."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
import structlog
from attrs import evolve
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless

from dicom_adapter import DicomAdapterError, Permanent, Retriable, StoredObjectMissing
from dicom_adapter.testing import make_instance
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, make_job, open_failing
from dicom_adapter_delivery.dicom_comments import shown_comment
from dicom_adapter_delivery.dicom_statuses import StoreVerdict, judge
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

from .conftest import ScriptedNode, context_of, upload_of, uploads_of_study

JOB = make_job(1, "results")
Connect = Callable[..., DicomSubmitter]
StartScripted = Callable[..., ScriptedNode]


def response(status: int, comment: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment
    return answer


# --- statuses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, StoreVerdict.DELIVERED),
        (0x0111, StoreVerdict.DELIVERED),
        (0xB000, StoreVerdict.DELIVERED_WITH_WARNING),
        (0xB006, StoreVerdict.DELIVERED_WITH_WARNING),
        (0xB007, StoreVerdict.DELIVERED_WITH_WARNING),
        (0x0107, StoreVerdict.DELIVERED_WITH_WARNING),
        (0xA700, StoreVerdict.FAILED_FOR_NOW),
        (0xA7FF, StoreVerdict.FAILED_FOR_NOW),
        (0x0110, StoreVerdict.FAILED_FOR_NOW),
        (0x0213, StoreVerdict.FAILED_FOR_NOW),
        (0xFE00, StoreVerdict.FAILED_FOR_NOW),
        (0xA900, StoreVerdict.REFUSED),
        (0xC000, StoreVerdict.REFUSED),
        (0xC211, StoreVerdict.REFUSED),
        (0x0122, StoreVerdict.REFUSED),
        (0x0124, StoreVerdict.REFUSED),
        (0x9999, StoreVerdict.REFUSED),
        (0xFF00, StoreVerdict.REFUSED),
    ],
)
def test_each_status_has_a_verdict(status: int, verdict: StoreVerdict) -> None:
    assert verdict is judge(status)


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007])
def test_success_and_warnings_are_delivered(node: ScriptedNode, connect: Connect, status: int) -> None:
    """Every status except success is logged."""
    node.answer = lambda _event: response(status)
    [upload] = uploads_of_study(1)
    with structlog.testing.capture_logs() as logged:
        connect(node.port).upload(JOB, upload)
    assert [upload.instance.sop_instance_uid] == node.received
    expected = [(f"0x{status:04X}", upload.instance.sop_instance_uid)] if status else []
    assert expected == [(entry["status"][:6], entry["sop_instance_uid"]) for entry in logged]


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (0xA700, Retriable, "out of resources"),
        (0x0110, Retriable, "processing failure"),
        (0xA900, Permanent, "does not match SOP class"),
        (0xC001, Permanent, "cannot understand"),
        (0x0122, Permanent, "SOP class not supported"),
        (0x0124, Permanent, "not authorized"),
        (0x9999, Permanent, "unknown status"),
    ],
)
def test_failure_is_reported_with_status_and_comment(
    node: ScriptedNode, connect: Connect, status: int, error: type[Exception], words: str
) -> None:
    node.answer = lambda _event: response(status, "disk\n3 is full")
    [upload] = uploads_of_study(1)
    with pytest.raises(error) as raised:
        connect(node.port).upload(JOB, upload)
    for part in (
        f"PACS@127.0.0.1:{node.port}",
        f"0x{status:04X}",
        words,
        ': "disk … is full"',
        upload.instance.sop_instance_uid,
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize("status", [0xC000, 0xB000], ids=["error", "warning"])
@pytest.mark.parametrize(
    "subject",
    [PATIENT_ID.lower(), "DOE^JOHN", "John DOE", "doe, john", "JOHN.DOE", "Dr. J. Doe", "1970-01-01", "DOE/19700101"],
)
def test_patient_data_in_a_comment_is_not_shown(
    node: ScriptedNode, connect: Connect, status: int, subject: str
) -> None:
    """Errors and warnings are logged, and the submitter does not know the name: it shows only words of a list.

    Verified to fail when words that are not in the list are shown.
    """
    node.answer = lambda _event: response(status, f"patient {subject} unknown")
    with structlog.testing.capture_logs() as logged:
        try:
            connect(node.port).upload(JOB, uploads_of_study(1)[0])
        except Permanent as failure:
            text = str(failure)
        else:
            text = logged[-1]["status"]
    assert text.endswith(': "patient … unknown"')


@pytest.mark.parametrize(
    ("comment", "shown"),
    [
        ("", ""),
        ("DOE^JOHN", ""),
        ("DOE JOHN", ""),
        ("Out of Resources: quota exceeded.", "out … resources quota exceeded"),
        ("not authorized", "not authorized"),
        ("an do lee", ""),
        ("unknown\nmüller\0", "unknown …"),
        ("ſerver", ""),  # a letter whose lower case is not ASCII
    ],
)
def test_only_known_words_of_a_comment_are_shown(comment: str, shown: str) -> None:
    assert shown == shown_comment(comment)


# --- presentation contexts --------------------------------------------------------------------------------------------


def compressed(position: int = 0) -> Any:
    """Return an upload whose file claims JPEG 2000. Nodes without a decoder store it as it is."""
    return upload_of(make_instance(), position, transfer_syntax_uid=str(JPEG2000Lossless))


def test_refused_context_is_a_permanent_error_that_names_it(start_node: StartScripted, connect: Connect) -> None:
    """Other instances of the job are delivered over the same association or another one."""
    node = start_node(contexts=[context_of(CTImageStorage)])
    submitter = connect(node.port)
    first, second = uploads_of_study(2)
    submitter.upload(JOB, first)
    for _attempt in range(3):
        with pytest.raises(
            Permanent,
            match=r"does not accept CT Image Storage in JPEG 2000 .*Lossless.*: transfer syntaxes not supported",
        ):
            submitter.upload(JOB, compressed())
    submitter.upload(JOB, second)
    assert 2 == len(node.received)
    assert node.associations <= 3, "a refusal is remembered for some seconds"


def test_only_the_contexts_of_the_files_are_proposed(node: ScriptedNode, connect: Connect) -> None:
    """One context for each pair, with one transfer syntax: the node cannot choose another one."""
    submitter = connect(node.port)
    ct, mr = upload_of(make_instance()), upload_of(make_instance(modality="MR"))
    submitter.upload(JOB, ct)
    submitter.upload(JOB, mr)
    submitter.upload(JOB, ct)
    pairs = [(upload.instance.sop_class_uid, [str(ExplicitVRLittleEndian)]) for upload in (ct, mr)]
    assert [[pairs[0]], [pairs[1], pairs[0]]] == node.proposed
    assert [("DICOM-ADAPTER", "PACS")] * 2 == node.callers


# --- associations -----------------------------------------------------------------------------------------------------


def test_uploads_of_several_threads_share_the_associations(node: ScriptedNode, connect: Connect) -> None:
    submitter = connect(node.port, associations=3)
    uploads = uploads_of_study(60)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda upload: submitter.upload(JOB, upload), uploads))
    assert sorted(upload.instance.sop_instance_uid for upload in uploads) == sorted(node.received)
    assert 1 <= node.associations <= 3


def test_upload_that_waits_for_an_association_gets_it_at_once(node: ScriptedNode, connect: Connect) -> None:
    """It does not wait until the association is released as unused.

    Verified to fail when a free association wakes one waiting thread, which may be the one that releases associations.
    """
    submitter = connect(node.port, idle_timeout=60)
    uploads, began = uploads_of_study(40), time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda upload: submitter.upload(JOB, upload), uploads))
    assert time.monotonic() - began < 50
    assert 1 == node.associations


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_unused_association_is_released(node: ScriptedNode, connect: Connect) -> None:
    """Some nodes serve one association at a time."""
    submitter = connect(node.port, idle_timeout=0.2)
    first, second = uploads_of_study(2)
    submitter.upload(JOB, first)
    wait_until(lambda: not node.entity.active_associations)
    submitter.upload(JOB, second)
    assert 2 == node.associations == len(node.received)


def test_association_that_the_node_ended_meanwhile_is_replaced(node: ScriptedNode, connect: Connect) -> None:
    """No attempt of the job is lost because a node ends unused associations earlier than the adapter."""
    submitter = connect(node.port, idle_timeout=60)
    first, second = uploads_of_study(2)
    submitter.upload(JOB, first)
    for association in node.entity.active_associations:
        association.abort()
    submitter.upload(JOB, second)
    assert 2 == node.associations == len(node.received)


def test_uploads_that_fail_because_of_aborts_can_be_repeated(node: ScriptedNode, connect: Connect) -> None:
    """After 7 of 10 instances, the node aborts each association: the other uploads raise Retriable."""

    def answer(event: Any) -> Dataset:
        if len(node.received) > 7 and is_failing:
            event.assoc.abort()
        return response(0)

    is_failing, node.answer = True, answer
    submitter = connect(node.port)
    uploads, missing = uploads_of_study(10), []
    for upload in uploads:
        try:
            submitter.upload(JOB, upload)
        except Retriable:
            missing.append(upload)
    assert uploads[7:] == missing
    is_failing = False
    for upload in missing:
        submitter.upload(JOB, upload)
    assert {upload.instance.sop_instance_uid for upload in uploads} == set(node.received)


def test_node_that_does_not_answer_is_retried_after_the_timeout(node: ScriptedNode, connect: Connect) -> None:
    node.answer = lambda _event: time.sleep(3) or response(0)
    began = time.monotonic()
    with pytest.raises(Retriable, match=r"it has not answered for 0\.3 seconds|the timeout was exceeded"):
        connect(node.port, response_timeout=0.3).upload(JOB, uploads_of_study(1)[0])
    assert time.monotonic() - began < 2.5


def test_closing_ends_uploads_in_progress(node: ScriptedNode, connect: Connect) -> None:
    node.answer = lambda _event: time.sleep(3) or response(0)
    submitter = connect(node.port)
    with ThreadPoolExecutor(1) as threads:
        upload = threads.submit(submitter.upload, JOB, uploads_of_study(1)[0])
        wait_until(lambda: bool(node.received))
        began = time.monotonic()
        submitter.close()
        with pytest.raises(Retriable):
            upload.result(2)
    assert time.monotonic() - began < 2.5


def test_uploads_that_wait_for_an_association_fail_with_the_first(make_submitter: Connect) -> None:
    """A node that cannot be reached costs one timeout, not one for each instance.

    192.0.2.0/24 is a network for documentation: no host answers there.
    """
    submitter = make_submitter(104, host="192.0.2.1", connect_timeout=0.5)
    submitter.open()
    began = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        uploads = [threads.submit(submitter.upload, JOB, upload) for upload in uploads_of_study(12)]
        errors = [upload.exception() for upload in uploads]
    submitter.close()
    assert {Retriable} == set(map(type, errors))
    assert time.monotonic() - began < 4


# --- the stored file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [StoredObjectMissing("the stored object is gone"), Permanent("it has changed"), Retriable("not now")]
)
@pytest.mark.parametrize("size", [64, 1100])
def test_error_of_the_reader_is_passed_on_and_nothing_is_stored(
    node: ScriptedNode, connect: Connect, failure: DicomAdapterError, size: int
) -> None:
    """The error may come with the last bytes, when most of a large file has been sent."""
    upload = upload_of(make_instance(rows=size, columns=size))
    content = upload.open().read()
    submitter = connect(node.port)
    with pytest.raises(type(failure), match=str(failure)):
        submitter.upload(JOB, evolve(upload, open=open_failing(content[:-10], failure)))
    assert [] == node.received
    submitter.upload(JOB, upload)
    assert 1 == len(node.received)


@pytest.mark.parametrize("change", [-10, 10])
@pytest.mark.parametrize("size", [64, 1100])
def test_file_of_wrong_length_is_not_sent(node: ScriptedNode, connect: Connect, change: int, size: int) -> None:
    """Verified to fail if the last piece is sent before the end of the file is read."""
    upload = upload_of(make_instance(rows=size, columns=size))
    with pytest.raises(Permanent, match=f"where {upload.size_bytes + change} were recorded"):
        connect(node.port).upload(JOB, evolve(upload, size_bytes=upload.size_bytes + change))
    assert [] == node.received


@pytest.mark.parametrize(
    "content", [b"", b"DICM", 500 * b"\0", 128 * b"\0" + b"DICM\x02\0\0\0UL\4\0\xff\xff\xff\x7f" + 99 * b"\0"]
)
def test_file_that_is_not_dicom_is_a_permanent_error(node: ScriptedNode, connect: Connect, content: bytes) -> None:
    [upload] = uploads_of_study(1)
    with pytest.raises(Permanent, match="File Meta Information"):
        connect(node.port).upload(JOB, evolve(upload, open=lambda: BytesIO(content), size_bytes=len(content)))


@pytest.mark.parametrize("uid", ["", "a b", "1\\2", "x" * 65, "名前", "1.2\n"])
def test_uid_that_cannot_be_sent_is_a_permanent_error(node: ScriptedNode, connect: Connect, uid: str) -> None:
    with pytest.raises(Permanent, match="instance 1: one of its UIDs is not valid"):
        connect(node.port).upload(JOB, upload_of(make_instance(), sop_instance_uid=uid))


# --- without uploads --------------------------------------------------------------------------------------------------


def test_job_has_its_run_as_platform_id_and_is_finished_when_delivered(connect: Connect, node: ScriptedNode) -> None:
    submitter = connect(node.port)
    assert "0" * 31 + "1-2" == submitter.create_job(evolve(JOB, run=2)).job_id
    submitter.start(JOB)
    assert submitter.status(JOB).finished
    submitter.cancel(JOB)
    assert 0 == node.associations


def test_check_sends_a_c_echo_without_open(node: ScriptedNode, make_submitter: Connect) -> None:
    assert f"PACS@127.0.0.1:{node.port} answers the C-ECHO" == make_submitter(node.port).check_connection()
    assert [[("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])]] == node.proposed


def test_check_of_a_node_without_verification_succeeds(start_node: StartScripted, make_submitter: Connect) -> None:
    node = start_node(contexts=[context_of(CTImageStorage)], with_echo=False)
    assert "does not support C-ECHO" in make_submitter(node.port).check_connection()


def test_check_of_a_node_that_is_down_fails(make_submitter: Connect) -> None:
    with pytest.raises(Retriable, match=r"PACS@127\.0\.0\.1:9 cannot be reached: connection refused"):
        make_submitter(9).check_connection()
