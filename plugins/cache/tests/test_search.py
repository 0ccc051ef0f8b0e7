"""Searching: filters as in QIDO-RS, pages, and what a study is made of."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from dicom_adapter.testing import make_instance, make_study


@pytest.fixture
def hospital(keep: Any) -> Any:
    """Three studies, the oldest first: A and B of one patient, C of another."""
    kept = keep()
    anna = {"patient_id": "P-1", "patient_name": "Müller^Anna"}
    kept.receive(*make_study(**anna, study_uid="1.1", StudyDate="20250131", accession_number="A%1", instances=2))
    kept.receive(
        *make_study(**anna, study_uid="1.2", StudyDate="20250601", modality="MR", StudyDescription="Knee left")
    )
    kept.receive(*make_study(patient_id="P_2", patient_name="MEIER^Bob", study_uid="1.3", StudyDate="", series=2))
    return kept


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["1.3", "1.2", "1.1"]),
        ("patientId=P-1", ["1.2", "1.1"]),
        ("patientId=p-1", ["1.2", "1.1"]),
        ("patientId=P*", ["1.3", "1.2", "1.1"]),
        ("patientId=P_?", ["1.3"]),
        ("patientId=P?1", ["1.2", "1.1"]),
        ("patientId=P", []),
        ("patientName=m%C3%9Cller*", ["1.2", "1.1"]),
        ("patientName=*^b?b", ["1.3"]),
        ("studyDate=20250131", ["1.1"]),
        ("studyDate=20250131-20250601", ["1.2", "1.1"]),
        ("studyDate=20250201-", ["1.2"]),
        ("studyDate=-20250201", ["1.1"]),
        ("accessionNumber=A%251", ["1.1"]),
        ("accessionNumber=A%25*", ["1.1"]),
        ("modality=mr", ["1.2"]),
        ("studyDescription=*LEFT", ["1.2"]),
        ("studyInstanceUid=1.1,1.3", ["1.3", "1.1"]),
        ("studyInstanceUid=1", []),
        ("aeTitle=CACHE&patientId=P-1&modality=CT", ["1.1"]),
        ("pinned=true", []),
        ("pinned=false&limit=1", ["1.3"]),
        ("limit=2&offset=1", ["1.2", "1.1"]),
        ("offset=3", []),
        (f"patientName={quote(chr(39))}%20OR%201%3D1--", []),
        ("patientId=..%2F..%2Fetc%2Fpasswd", []),
        ("patientId=%25", []),
        (f"patientName={quote(chr(92))}", []),
    ],
)
def test_studies_are_found_by_what_they_have(hospital: Any, query: str, expected: list[str]) -> None:
    """Wildcards, ranges, pages; what would mean something to a database or a file system means nothing."""
    assert expected == hospital.study_uids(query)


def test_what_means_something_elsewhere_means_nothing_in_a_search(hospital: Any, odd: str) -> None:
    """In whatever field; the studies are there afterwards."""
    for name in ("patientId", "patientName", "accessionNumber", "studyDescription", "modality"):
        assert [] == hospital.study_uids(f"{name}={quote(odd)}")
    for name in ("studyDate", "studyInstanceUid", "pinned", "limit", "offset"):
        assert 400 == hospital.rest.get(f"/cache/studies?{name}={quote(odd)}").status_code
    assert hospital.rest.get(f"/cache/studies?aeTitle={quote(odd)}").status_code in (400, 404)
    assert ["1.3", "1.2", "1.1"] == hospital.study_uids()


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=1000000000", "limit"),
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("offset=-1", "offset"),
        ("studyDate=2025", "studyDate"),
        ("studyDate=20251301", "20251301"),
        ("studyDate=20250230-", "20250230"),
        ("studyDate=-", "studyDate"),
        ("studyDate=20250101-20250101-20250101", "studyDate"),
        ("studyInstanceUid=1.1%27", "studyInstanceUid"),
        ("patientId=%00", "patientId"),
        ("pinned=perhaps", "pinned"),
        ("aeTitle=a%5Cb", "aeTitle"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(hospital: Any, query: str, named: str) -> None:
    """With the parameter that is wrong."""
    answer = hospital.rest.get(f"/cache/studies?{query}")
    assert (400, True) == (answer.status_code, named in answer.text), answer.text
    assert "application/problem+json" == answer.headers["content-type"]


def test_an_ae_title_that_is_not_there_is_told(hospital: Any) -> None:
    """With those that are."""
    answer = hospital.rest.get("/cache/studies?aeTitle=LUNG")
    assert (404, True) == (answer.status_code, "(it serves: CACHE)" in answer.json()["detail"])


def test_pages_say_how_many_there_are(hospital: Any) -> None:
    """In all, whatever the page."""
    answer = hospital.rest.get("/cache/studies?limit=1&offset=2").json()
    assert (3, 1, 2, 1) == (answer["total"], answer["limit"], answer["offset"], len(answer["items"]))


def test_a_study_tells_what_it_has(hospital: Any) -> None:
    """Counts, sizes, arrivals, and its series."""
    detail = hospital.rest.get("/cache/studies/1.3").json()
    own = detail["study"]
    assert ("MEIER^Bob", "P_2", ["CT"], 2, 8) == (
        own["patientName"],
        own["patientId"],
        own["modalities"],
        own["series"],
        own["instances"],
    )
    assert own["sizeBytes"] == sum(series["sizeBytes"] for series in detail["series"])
    assert [4, 4] == [series["instances"] for series in detail["series"]]
    assert own["firstArrival"] <= own["lastArrival"] <= own["lastUse"]


def test_patients_are_told_apart_by_id_and_issuer(keep: Any) -> None:
    """With what is kept of each."""
    kept = keep()
    for issuer, count in (("A", 1), ("B", 2)):
        kept.receive(*make_study(patient_id="P", issuer=issuer, instances=count))
    found = kept.rest.get("/cache/patients?patientId=P").json()
    assert [("A", 1, 1), ("B", 1, 2)] == [
        (each["issuerOfPatientId"], each["studies"], each["instances"]) for each in found["items"]
    ]
    assert 2 == found["total"]


def test_instances_of_studies_and_series_come_in_pages(hospital: Any) -> None:
    """In the order of arrival; a series that is not there is told."""
    page = hospital.rest.get("/cache/studies/1.3/instances?limit=3&offset=6").json()
    assert (8, 2) == (page["total"], len(page["items"]))
    series = page["items"][0]["seriesInstanceUid"]
    assert 4 == hospital.rest.get(f"/cache/studies/1.3/series/{series}/instances").json()["total"]
    assert 404 == hospital.rest.get("/cache/studies/1.3/series/9.9/instances").status_code


def test_an_instance_is_downloaded_as_it_is_stored(hospital: Any) -> None:
    """A DICOM file, of the length that was told."""
    [instance, *_] = hospital.rest.get("/cache/studies/1.1/instances").json()["items"]
    answer = hospital.rest.get(f"/cache/instances/{instance['sopInstanceUid']}/file")
    assert (200, "application/dicom") == (answer.status_code, answer.headers["content-type"])
    assert (instance["sizeBytes"], b"DICM") == (len(answer.content), answer.content[128:132])
    assert 404 == hospital.rest.get("/cache/instances/9.9/file").status_code


@pytest.mark.parametrize("uid", ["x", "1.1'--", "..%2f..%2fetc%2fpasswd", "1" * 65, "%00"])
def test_only_uids_are_uids(hospital: Any, uid: str) -> None:
    """Nothing else comes as far as the index or a file."""
    for path in (f"/cache/studies/{uid}", f"/cache/instances/{uid}/file", f"/cache/jobs/{uid}"):
        assert hospital.rest.get(path).status_code in (400, 404)
    assert hospital.rest.delete(f"/cache/studies/{uid}").status_code in (400, 404)


def test_odd_values_are_kept_as_far_as_they_can_be(keep: Any) -> None:
    """An index must not refuse an instance because of its text."""
    kept = keep()
    kept.receive(make_instance(study_uid="1.1", StudyDescription="x" * 64, patient_name="='^\\\\;DROP TABLE"))
    assert ["1.1"] == kept.study_uids("studyDescription=xx*")


def test_a_study_at_two_ae_titles_has_to_be_named_with_one(keep: Any) -> None:
    """Both are found; neither is guessed."""
    kept = keep(more='[ae-titles.OTHER]\nprocessor = "cache"')
    for ae_title in ("CACHE", "OTHER"):
        kept.receive(*make_study(study_uid="1.1", instances=1), ae_title=ae_title)
    assert ["1.1", "1.1"] == kept.study_uids()
    answer = kept.rest.get("/cache/studies/1.1")
    assert (409, ["CACHE", "OTHER"]) == (answer.status_code, answer.json()["aeTitles"])
    assert "OTHER" == kept.rest.get("/cache/studies/1.1?aeTitle=OTHER").json()["study"]["aeTitle"]
