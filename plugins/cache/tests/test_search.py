"""Searches: filters as in QIDO-RS, pages, and details of studies."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from dicom_adapter.testing import make_instance, make_study


@pytest.fixture(scope="module")
def hospital(shared_cache: Any) -> Any:
    """Three studies, the oldest first: A and B of one patient, C of another. No test changes them."""
    site = shared_cache
    anna = {"patient_id": "P-1", "patient_name": "Müller^Anna"}
    site.receive(*make_study(**anna, study_uid="1.1", StudyDate="20250131", accession_number="A%1", instances=2))
    site.receive(
        *make_study(**anna, study_uid="1.2", StudyDate="20250601", modality="MR", StudyDescription="Knee left")
    )
    site.receive(*make_study(patient_id="P_2", patient_name="MEIER^Bob", study_uid="1.3", StudyDate="", series=2))
    return site


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
def test_studies_are_found_by_their_attributes(hospital: Any, query: str, expected: list[str]) -> None:
    """Filters support wildcards, ranges and pages; special characters of SQL and paths match only themselves."""
    assert expected == hospital.study_uids(query)


def test_special_texts_have_no_effect_in_a_search(hospital: Any, special_text: str) -> None:
    """In every parameter, the text matches no study or is refused; no study is changed."""
    for name in ("patientId", "patientName", "accessionNumber", "studyDescription", "modality"):
        assert [] == hospital.study_uids(f"{name}={quote(special_text)}")
    for name in ("studyDate", "studyInstanceUid", "pinned", "limit", "offset"):
        assert 400 == hospital.rest.get(f"/cache/studies?{name}={quote(special_text)}").status_code
    assert hospital.rest.get(f"/cache/studies?aeTitle={quote(special_text)}").status_code in (400, 404)
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
        ("patientId=%00", "patient_id"),
        ("pinned=perhaps", "pinned"),
        ("aeTitle=a%5Cb", "aeTitle"),
    ],
)
def test_an_invalid_filter_is_refused(hospital: Any, query: str, named: str) -> None:
    """The error names the invalid parameter or value."""
    answer = hospital.rest.get(f"/cache/studies?{query}")
    assert (400, True) == (answer.status_code, named in answer.text), answer.text
    assert "application/problem+json" == answer.headers["content-type"]


def test_an_unknown_ae_title_is_refused(hospital: Any) -> None:
    """The error lists the AE titles of the cache."""
    answer = hospital.rest.get("/cache/studies?aeTitle=LUNG")
    assert (404, True) == (answer.status_code, "(it serves: CACHE)" in answer.json()["detail"])


def test_a_page_has_the_total_number_of_matches(hospital: Any) -> None:
    """`total` counts all matches, not only those of the page."""
    answer = hospital.rest.get("/cache/studies?limit=1&offset=2").json()
    assert (3, 1, 2, 1) == (answer["total"], answer["limit"], answer["offset"], len(answer["items"]))


def test_a_study_has_counts_sizes_times_and_series(hospital: Any) -> None:
    """The counts and sizes of the study are the sums of its series."""
    detail = hospital.rest.get("/cache/studies/1.3").json()
    study = detail["study"]
    assert ("MEIER^Bob", "P_2", ["CT"], 2, 8) == (
        study["patientName"],
        study["patientId"],
        study["modalities"],
        study["series"],
        study["instances"],
    )
    assert study["sizeBytes"] == sum(series["sizeBytes"] for series in detail["series"])
    assert [4, 4] == [series["instances"] for series in detail["series"]]
    assert study["firstArrival"] <= study["lastArrival"] <= study["lastUse"]


def test_patients_are_distinguished_by_id_and_issuer(make_cache: Any) -> None:
    """Each patient has its own counts of studies and instances."""
    site = make_cache()
    for issuer, count in (("A", 1), ("B", 2)):
        site.receive(*make_study(patient_id="P", issuer=issuer, instances=count))
    page = site.rest.get("/cache/patients?patientId=P").json()
    assert [("A", 1, 1), ("B", 1, 2)] == [
        (each["issuerOfPatientId"], each["studies"], each["instances"]) for each in page["items"]
    ]
    assert 2 == page["total"]


def test_instances_of_studies_and_series_come_in_pages(hospital: Any) -> None:
    """Instances are listed in order of arrival; an unknown series is an error."""
    page = hospital.rest.get("/cache/studies/1.3/instances?limit=3&offset=6").json()
    assert (8, 2) == (page["total"], len(page["items"]))
    series = page["items"][0]["seriesInstanceUid"]
    assert 4 == hospital.rest.get(f"/cache/studies/1.3/series/{series}/instances").json()["total"]
    assert 404 == hospital.rest.get("/cache/studies/1.3/series/9.9/instances").status_code


def test_an_instance_is_downloaded_as_it_is_stored(hospital: Any) -> None:
    """The download is a DICOM file with the size in the index."""
    [instance, *_] = hospital.rest.get("/cache/studies/1.1/instances").json()["items"]
    answer = hospital.rest.get(f"/cache/instances/{instance['sopInstanceUid']}/file")
    assert (200, "application/dicom") == (answer.status_code, answer.headers["content-type"])
    assert (instance["sizeBytes"], b"DICM") == (len(answer.content), answer.content[128:132])
    assert 404 == hospital.rest.get("/cache/instances/9.9/file").status_code


@pytest.mark.parametrize("uid", ["x", "1.1'--", "..%2f..%2fetc%2fpasswd", "1" * 65, "%00"])
def test_an_invalid_uid_is_refused(hospital: Any, uid: str) -> None:
    """Paths accept only UIDs, so that no other text reaches the index or the file system."""
    for path in (f"/cache/studies/{uid}", f"/cache/instances/{uid}/file", f"/cache/jobs/{uid}"):
        assert hospital.rest.get(path).status_code in (400, 404)
    assert hospital.rest.delete(f"/cache/studies/{uid}").status_code in (400, 404)


def test_unusual_values_are_indexed(make_cache: Any) -> None:
    """The index accepts instances with any texts."""
    site = make_cache()
    site.receive(make_instance(study_uid="1.1", StudyDescription="x" * 64, patient_name="='^\\\\;DROP TABLE"))
    assert ["1.1"] == site.study_uids("studyDescription=xx*")


def test_a_study_at_two_ae_titles_requires_the_ae_title(make_cache: Any) -> None:
    """A search returns both studies; a request for one study has to name the AE title."""
    site = make_cache(more='[ae-titles.OTHER]\nprocessor = "cache"')
    for ae_title in ("CACHE", "OTHER"):
        site.receive(*make_study(study_uid="1.1", instances=1), ae_title=ae_title)
    assert ["1.1", "1.1"] == site.study_uids()
    answer = site.rest.get("/cache/studies/1.1")
    assert (409, ["CACHE", "OTHER"]) == (answer.status_code, answer.json()["aeTitles"])
    assert "OTHER" == site.rest.get("/cache/studies/1.1?aeTitle=OTHER").json()["study"]["aeTitle"]
