"""Names of jobs and files on the platform."""

from __future__ import annotations

import re

from dicom_adapter import Upload

JOB_NAME_CHARACTERS = 63  # a label of DNS, which Kubernetes makes of a job's name
NAMELESS = "job"  # for a name without a single letter or digit
NOT_IN_JOB_NAMES = re.compile(r"[^a-z0-9]+")
FOLDER = "dcm"  # in the input folder of a job's payload; where NVIDIA's own adapter puts DICOM
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1, without its finer rules


def job_name(name: str) -> str:
    """The name as the platform takes it: 1 to 63 of a-z, 0-9 and single dashes, none at either end.

    Everything else becomes a dash. Names need not be unique: the platform tells jobs apart by their ids.
    """
    # ASCII first: lower() makes ASCII letters of a few others, such as the Kelvin sign.
    plain = name.encode("ascii", "replace").decode("ascii").lower()
    return NOT_IN_JOB_NAMES.sub("-", plain).strip("-")[:JOB_NAME_CHARACTERS].rstrip("-") or NAMELESS


def file_name(upload: Upload) -> str:
    """The file's name in its folder: `<position>-<SOP Instance UID>.dcm`, such as `000007-1.2.840.1.5.dcm`.

    The position in the job makes it unique, even when one UID is there twice, on file systems that ignore case too; it
    is the same when the upload is repeated; and it comes first, so that a UID of `..` is no step up. The UID is for the
    people who look at the platform. Nothing in the name is about the patient, unlike the folders of NVIDIA's adapter,
    `<Patient ID>/<Study Instance UID>/<Series Instance UID>/`: study and series stand in the file itself.
    """
    uid = upload.instance.sop_instance_uid
    return f"{upload.position:06}-{uid}.dcm" if UID.fullmatch(uid) else f"{upload.position:06}.dcm"


def upload_name(upload: Upload) -> str:
    """The file's path below the input folder of its job's payload."""
    return f"{FOLDER}/{file_name(upload)}"
