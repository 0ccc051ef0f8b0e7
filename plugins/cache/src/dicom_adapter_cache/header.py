"""The attributes that people search by, from the header of a stored instance. Pure."""

from __future__ import annotations

from attrs import frozen
from pydicom.dataset import Dataset

LONGEST = 1024  # characters that are kept of a value: no attribute here may have more by the standard
SURROGATES = "surrogateescape"


@frozen(kw_only=True, repr=False)
class Attributes:
    """What a series says of itself, its study and its patient; "" for what is missing."""

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
    """Read them from a header."""
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
    """One value as text that every database takes; "" for what cannot be read."""
    try:
        value = header.get(keyword)
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for a value that is none; it is searched by no more
        return ""
    return "" if value is None else clean(str(value).strip())


def clean(value: str) -> str:
    """Without NUL and without halves of characters, which databases refuse; not too long."""
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return whole.replace("\0", "")[:LONGEST]


def folded(value: str) -> str:
    """As it is compared: without regard to upper and lower case."""
    return clean(value).casefold()
