"""Names of jobs and files on the platform."""

from __future__ import annotations

import re

from dicom_adapter import Upload

JOB_NAME_CHARACTERS = 63  # limit of a DNS label: Kubernetes uses the job's name as one
END_CHARACTERS = 21  # kept at the end of a long name: time and digits, which distinguish the jobs of a processor
NAMELESS = "job"  # replaces a name without letters and digits
NOT_IN_JOB_NAMES = re.compile(r"[^a-z0-9]+")
FOLDER = "dcm"  # below the input folder of a job's payload, as in NVIDIA's own adapter
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9.1, only length and characters


def job_name(name: str) -> str:
    """Return the name in the form that the platform accepts: 1 to 63 of a-z, 0-9 and single dashes, none at the ends.

    All other characters become dashes. Of a longer name, the middle is removed: names of jobs differ at their ends.
    They need not be unique, because the platform identifies jobs by their ids.
    """
    # Encode first: lower() would turn a few other characters, such as the Kelvin sign, into ASCII letters.
    plain = name.encode("ascii", "replace").decode("ascii").lower()
    valid = NOT_IN_JOB_NAMES.sub("-", plain).strip("-")
    if len(valid) > JOB_NAME_CHARACTERS:
        end = valid[-END_CHARACTERS:].strip("-")
        valid = f"{valid[: JOB_NAME_CHARACTERS - len(end) - 1].rstrip('-')}-{end}"
    return valid or NAMELESS


def file_name(upload: Upload) -> str:
    """Return the file's name in its folder: `<position>-<SOP Instance UID>.dcm`, such as `000007-1.2.840.1.5.dcm`.

    The position in the job makes the name unique, even if a UID occurs twice or the file system ignores case. It is the
    same when an upload is repeated, and it comes first so that a UID of `..` cannot change the folder. The UID helps
    people who look at the platform. The name contains nothing about the patient, unlike the folders of NVIDIA's adapter
    (`<Patient ID>/<Study Instance UID>/<Series Instance UID>/`); the file itself contains study and series.
    """
    uid = upload.instance.sop_instance_uid
    return f"{upload.position:06}-{uid}.dcm" if UID.fullmatch(uid) else f"{upload.position:06}.dcm"


def upload_name(upload: Upload) -> str:
    """Return the file's path below the input folder of its job's payload."""
    return f"{FOLDER}/{file_name(upload)}"
