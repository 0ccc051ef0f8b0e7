"""Step 6 (`results`) of the flow: decide whether an output may be delivered. All functions are pure.

A pipeline may be wrong about what it writes: exit status 0 proves nothing. An output that a PACS would file under a
wrong patient, or that would replace a source image, must not leave the adapter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum

from attrs import field, frozen

from dicom_adapter.dicom.part10_reader import FileOfUnknownOrigin
from dicom_adapter.dicom.sop_classes import STORAGE_WITHOUT_PATIENT, is_storage

UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")  # PS3.5 section 9.1
LONGEST_UID = 64  # characters


class OutputKind(str, Enum):
    """The treatment of an output."""

    GOOD = "good"  # delivered
    BAD = "bad"  # quarantined
    ATTACHMENT = "attachment"  # not DICOM: kept with the job


@frozen(kw_only=True)
class Verdict:
    """The decision about an output."""

    kind: OutputKind
    reason: str = ""  # why the output is quarantined, without patient data


@frozen(kw_only=True)
class Expected:
    """The values with which the outputs of a job are compared."""

    # Study Instance UIDs of the job's instances, each with the Patient IDs in that study
    patients: Mapping[str, Collection[str]] = field(repr=False)


@frozen(kw_only=True)
class KnownInstance:
    """An instance in the ledger with the SOP Instance UID of an output."""

    instance_id: int
    source_job: int | None  # number of the job that has produced it; None: it was received
    is_input: bool  # the job of the output contains it


def judge(
    output: FileOfUnknownOrigin, expected: Expected, known: KnownInstance | None, *, is_repeated: bool
) -> Verdict:
    """Decide about an output.

    `known`: an instance that was received or collected before and has the same SOP Instance UID. `is_repeated`: an
    earlier output of the job has this UID.
    """
    if not output.is_part10:
        return Verdict(kind=OutputKind.ATTACHMENT)
    reason = (
        output.problem
        or _uid_problem(output)
        or _class_problem(output)
        or _header_problem(output)
        or _copy_problem(known, is_repeated=is_repeated)
        or _subject_problem(output, expected)
    )
    return Verdict(kind=OutputKind.BAD, reason=reason) if reason else Verdict(kind=OutputKind.GOOD)


def _uid_problem(output: FileOfUnknownOrigin) -> str:
    identity = output.identity
    for title, uid in (
        ("SOP Instance UID", identity.sop_instance_uid),
        ("Series Instance UID", identity.series_instance_uid),
        ("SOP Class UID", identity.sop_class_uid),
    ):
        if len(uid) > LONGEST_UID or not UID.fullmatch(uid):
            return f"its {title} is not valid: up to 64 characters, numbers without leading zeros (PS3.5 section 9.1)"
    return ""


def _class_problem(output: FileOfUnknownOrigin) -> str:
    uid = output.identity.sop_class_uid
    if uid in STORAGE_WITHOUT_PATIENT:
        return f"its SOP class {uid} ({STORAGE_WITHOUT_PATIENT[uid]}) is not for instances of patients"
    return "" if is_storage(uid) else f"its SOP class {uid} is not a storage SOP class"


def _header_problem(output: FileOfUnknownOrigin) -> str:
    """Compare the File Meta Information, which a sender announces, with the data set, which the receiver keeps."""
    for title, in_header, uid in (
        ("SOP Class UID", output.header_sop_class_uid, output.identity.sop_class_uid),
        ("SOP Instance UID", output.header_sop_instance_uid, output.identity.sop_instance_uid),
    ):
        if in_header and in_header != uid:
            return f"the {title} in its header is not that of its data set"
    return ""


def _copy_problem(known: KnownInstance | None, *, is_repeated: bool) -> str:
    if is_repeated:
        return "another output of the job has the same SOP Instance UID"
    if known is None:
        return ""
    if known.is_input:
        return f"it has the SOP Instance UID of an input of the job, instance {known.instance_id}"
    if known.source_job is not None:
        return f"it has the SOP Instance UID of an earlier result, instance {known.instance_id}"
    return f"it has the SOP Instance UID of a received instance, instance {known.instance_id}"


def _subject_problem(output: FileOfUnknownOrigin, expected: Expected) -> str:
    patients = expected.patients.get(output.identity.study_instance_uid)
    if patients is None:
        return "its Study Instance UID is not that of an input of the job"
    if output.identity.patient_id not in patients:
        return "its Patient ID is not that of the inputs of its study"
    return ""
