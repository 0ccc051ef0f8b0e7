"""Studies, and what did not become an instance, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dicom_adapter.ledger.series import ArrivedSeries
from dicom_adapter.ledger.studies import StudySummary
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.documents.senders import rejection_as_json
from dicom_adapter.operations.look_up import Matches, NotReceived

KEYS = {  # by field of ArrivedSeries, for JSON
    "patient_id": "patientId",
    "accession_number": "accessionNumber",
    "study_date": "studyDate",
    "study_description": "studyDescription",
    "series_description": "seriesDescription",
}


def matches_as_json(matches: Matches, *, shows_patient: bool) -> dict[str, Any]:
    """Return several matches as JSON values."""
    return {
        "kind": "matches",
        "jobId": matches.job or None,
        "studies": [_study_as_json(study, shows_patient=shows_patient) for study in matches.studies],
        "more": matches.are_more,
    }


def _study_as_json(study: StudySummary, *, shows_patient: bool) -> dict[str, Any]:
    return {
        "studyInstanceUid": study.study_instance_uid,
        "instances": study.instances,
        "modalities": study.modalities,
        "callingAeTitles": list(study.calling_ae_titles),
        "aeTitles": list(study.ae_titles),
        "firstAt": iso(study.first_at),
        "lastAt": iso(study.last_at),
        "jobs": dict(study.jobs),
        **({"patient": patient_as_json(study.series)} if shows_patient else {}),
    }


def patient_as_json(series: Sequence[ArrivedSeries]) -> dict[str, list[str]]:
    """Return the values of the attributes that identify a patient or study, by name."""
    return {key: values_of(series, name) for name, key in KEYS.items()}


def values_of(series: Sequence[ArrivedSeries], name: str) -> list[str]:
    """Return the distinct values of an attribute, in the order of arrival."""
    return [printable(value) for value in dict.fromkeys(getattr(one, name) for one in series) if value]


def not_received_as_json(not_received: NotReceived) -> dict[str, Any]:
    """Return what was rejected and refused as JSON values."""
    refused = [
        {
            "callingAeTitle": one.calling_ae_title,
            "peer": one.peer_address,
            "aeTitle": one.ae_title,
            "status": f"0x{CStoreStatus[one.status]:04X}",
            "count": one.count,
            "lastAt": iso(one.last_at),
        }
        for one in not_received.refused
    ]
    return {
        "kind": "nothing",
        "since": iso(not_received.since),
        "until": iso(not_received.until),
        "rejections": [rejection_as_json(one) for one in not_received.rejected],
        "refused": refused,
    }


def printable(text: str) -> str:
    """Return a value of a data set without characters that could control a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
