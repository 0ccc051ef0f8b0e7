"""The searchable attributes of an instance, from its header; Patient ID and issuer are those in the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from attrs import astuple, frozen

from dicom_adapter import InstanceStorageInfo

LONGEST = 1024  # maximum number of characters of a value in the index, more than PS3.5 allows

KEYWORDS = {
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "accession_number": "AccessionNumber",
    "study_description": "StudyDescription",
    "modality": "Modality",
    "series_description": "SeriesDescription",
    "body_part_examined": "BodyPartExamined",
}


@frozen(kw_only=True, repr=False)
class Attributes:
    """Attributes of an instance, its series, its study and its patient; "" if missing."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    study_date: str
    study_time: str
    accession_number: str
    study_description: str
    modality: str
    series_description: str
    body_part_examined: str

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, equal for equal attributes."""
        return hashlib.blake2b(json.dumps(astuple(self)).encode(), digest_size=16).hexdigest()


def attributes(instance: InstanceStorageInfo, texts: Mapping[str, str]) -> Attributes:
    """Return the searchable attributes of an instance. `texts`: the values in its header, by keyword."""
    return Attributes(
        patient_id=exact(instance.patient_id),
        issuer_of_patient_id=exact(instance.issuer_of_patient_id),
        **{name: clean(texts[keyword]) for name, keyword in KEYWORDS.items()},
    )


def clean(value: str) -> str:
    """Remove NUL and lone surrogates, which databases refuse, and truncate to LONGEST."""
    valid = value.encode("utf-8", "replace").decode("utf-8")
    return valid.replace("\0", "")[:LONGEST]


def exact(value: str) -> str:
    """Escape NUL and lone surrogates, which databases refuse. Unlike `clean`, this keeps identifiers different."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def folded(value: str) -> str:
    """Return the form of a text that case-insensitive comparisons use."""
    return clean(value).casefold()
