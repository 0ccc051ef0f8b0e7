"""The searchable attributes of an instance, read from its header."""

from __future__ import annotations

from attrs import frozen
from pydicom.dataset import Dataset

LONGEST = 1024  # characters kept of a value, more than PS3.5 allows for these attributes
SURROGATES = "surrogateescape"


@frozen(kw_only=True, repr=False)
class Attributes:
    """Attributes of a series, its study and its patient; "" if missing."""

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


def attributes(header: Dataset) -> Attributes:
    """Return the searchable attributes of a header."""
    return Attributes(
        patient_name=text(header, "PatientName"),
        patient_birth_date=text(header, "PatientBirthDate"),
        patient_sex=text(header, "PatientSex"),
        study_date=text(header, "StudyDate"),
        study_time=text(header, "StudyTime"),
        accession_number=text(header, "AccessionNumber"),
        study_description=text(header, "StudyDescription"),
        modality=text(header, "Modality"),
        series_description=text(header, "SeriesDescription"),
        body_part_examined=text(header, "BodyPartExamined"),
    )


def text(header: Dataset, keyword: str) -> str:
    """Return a value as text that every database accepts; "" if it cannot be read."""
    try:
        value = header.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises many types for a malformed value, which is then not searchable
        return ""
    return "" if value is None else clean(str(value).strip())


def clean(value: str) -> str:
    """Remove NUL and lone surrogates, which databases refuse, and truncate to LONGEST."""
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\0", "")[:LONGEST]


def folded(value: str) -> str:
    """Return the form of a text that case-insensitive comparisons use."""
    return clean(value).casefold()
