"""Patients of studies: corrections, conflicts between the instances of a study, and the repair of a wrong index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from structlog.testing import capture_logs

from dicom_adapter.testing import make_instance, make_study

CONFLICT = "urn:dicom-adapter:cache:patient-conflict"
OVERWRITE = '[ae-titles.OTHER]\nprocessor = "cache"\noverwrite-same-instance = true'
WRONG = {"patient_id": "P-1", "patient_name": "Wrong^Anna", "PatientBirthDate": "19700101", "PatientSex": "F"}
RIGHT = {"patient_id": "P-2", "patient_name": "Right^Bert", "PatientBirthDate": "19800202", "PatientSex": "M"}
OF_STUDY = {"study_uid": "1.1", "seed": 1}


def get_study(site: Any, uid: str = "1.1") -> dict[str, Any]:
    study: dict[str, Any] = site.rest.get(f"/cache/studies/{uid}").json()["study"]
    return study


def patient_ids(site: Any, query: str = "") -> list[tuple[str, int, int]]:
    """Return ID, number of studies and number of instances of each patient."""
    items = site.rest.get(f"/cache/patients?{query}").json()["items"]
    return [(each["patientId"], each["studies"], each["instances"]) for each in items]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (WRONG, RIGHT, {"patientId": "P-2", "patientName": "Right^Bert", "patientSex": "M"}),
        ({"issuer": "A"}, {"issuer": "B"}, {"issuerOfPatientId": "B"}),
        ({"patient_name": "Wrong^A"}, {"patient_name": "Right^B"}, {"patientName": "Right^B"}),
        ({"StudyDate": "20250101"}, {"StudyDate": "20250102"}, {"studyDate": "20250102"}),
        ({"StudyDescription": "Hip"}, {"StudyDescription": "Knee"}, {"studyDescription": "Knee"}),
        ({"accession_number": "A1"}, {"accession_number": "A2"}, {"accessionNumber": "A2"}),
    ],
)
def test_a_study_has_the_attributes_of_its_corrected_instances(
    make_cache: Any, first: dict[str, str], second: dict[str, str], expected: dict[str, str]
) -> None:
    """The corrected instances replace the earlier ones.

    Verified to fail when the header is read only for the first instance of a series.
    """
    site = make_cache(more=OVERWRITE)
    site.receive(*make_study(**OF_STUDY, **first), ae_title="OTHER")
    site.rest.put("/cache/studies/1.1/pin?aeTitle=OTHER")
    site.receive(*make_study(**OF_STUDY, **second), ae_title="OTHER")
    study = get_study(site)
    assert expected == {name: study[name] for name in expected}
    assert (4, True, False) == (study["instances"], study["pinned"], study["patientConflict"])
    site.adapter.restart()
    site.adapter.advance(10)
    assert expected == {name: get_study(site)[name] for name in expected}


def test_a_corrected_study_is_found_only_under_its_new_patient(make_cache: Any) -> None:
    """Searches and orders for the earlier patient do not return the study's images."""
    site = make_cache(more=OVERWRITE)
    site.receive(*make_study(**OF_STUDY, **WRONG), ae_title="OTHER")
    site.receive(*make_study(**OF_STUDY, **RIGHT), ae_title="OTHER")
    assert ([], ["1.1"]) == (site.study_uids("patientId=P-1"), site.study_uids("patientId=P-2"))
    assert ([], ["1.1"]) == (site.study_uids("patientName=wrong*"), site.study_uids("patientName=right*"))
    assert [("P-2", 1, 4)] == patient_ids(site)
    assert 404 == site.compose(patients=[{"patientId": "P-1"}]).status_code
    assert 4 == site.compose(patients=[{"patientId": "P-2"}]).json()["instances"]


def test_a_half_corrected_study_is_shown_as_a_conflict(make_cache: Any) -> None:
    """The conflict ends when all instances are corrected.

    Verified to fail when the patient of the first instance is kept for the study.
    """
    site = make_cache(more=OVERWRITE)
    corrected = make_study(**OF_STUDY, **RIGHT)
    site.receive(*make_study(**OF_STUDY, **WRONG), ae_title="OTHER")
    site.receive(*corrected[:1], ae_title="OTHER")
    assert (True, "P-2") == (get_study(site)["patientConflict"], get_study(site)["patientId"])
    assert ["1.1"] == site.study_uids("patientId=P-1") == site.study_uids("patientName=right*")
    assert [] == site.study_uids("patientId=P-1&patientName=right*")
    assert [("P-1", 1, 3), ("P-2", 1, 1)] == patient_ids(site)
    assert [("P-2", 1, 1)] == patient_ids(site, "patientName=right*")
    patients = site.rest.get("/cache/studies/1.1").json()["patients"]
    assert [("P-2", "Right^Bert", 1), ("P-1", "Wrong^Anna", 3)] == [
        (each["patientId"], each["patientName"], each["instances"]) for each in patients
    ]
    site.receive(*corrected[1:], ae_title="OTHER")
    assert not get_study(site)["patientConflict"]
    assert 201 == site.compose(studies=["1.1"]).status_code


@pytest.mark.parametrize(
    ("first", "second", "same_series"),
    [
        (WRONG, RIGHT, True),
        (WRONG, RIGHT, False),
        ({"patient_id": "P-1"}, {"patient_id": ""}, True),
        ({"patient_id": "P-1"}, {"patient_id": "p-1"}, True),
        ({"issuer": "A"}, {"issuer": "B"}, True),
        ({"issuer": "A"}, {"issuer": ""}, True),
        ({"patient_name": "Meier^Anna"}, {"patient_name": "Meier^Bert"}, True),
        ({"patient_name": "Meier^A=X"}, {"patient_name": "Meier^A=Y"}, True),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "19700102"}, True),
        ({"PatientSex": "F"}, {"PatientSex": "M"}, True),
        ({"PatientSex": "F"}, {"PatientSex": "M"}, False),
    ],
)
def test_a_conflicting_study_is_composed_only_by_an_explicit_choice(
    make_cache: Any, first: dict[str, str], second: dict[str, str], same_series: bool
) -> None:
    """Each order with an object of the study is refused, also with `insist`; the error names the study.

    Verified to fail when only the Patient ID is compared, and when the header is read once for each series.
    """
    site = make_cache()
    site.receive(make_instance(study_uid="1.1", series_uid="1.2", sop_uid="1.3", **first))
    site.receive(make_instance(study_uid="1.1", series_uid="1.2" if same_series else "1.4", sop_uid="1.5", **second))
    selections: list[dict[str, Any]] = [{"studies": ["1.1"]}, {"series": ["1.2"]}, {"instances": ["1.3"]}]
    if first.get("patient_id"):
        selections.append({"patients": [{"patientId": first["patient_id"]}]})
    for selection in selections:
        answer = site.compose(**selection, insist=True)
        assert (409, CONFLICT, ["1.1"]) == (answer.status_code, answer.json()["type"], answer.json()["studies"])
    assert [] == site.adapter.jobs
    assert 2 == site.compose(studies=["1.1"], mixPatients=True).json()["instances"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"patient_name": "Meier^Anna"}, {"patient_name": "MEIER^ANNA^^"}),
        ({"patient_name": "Meier^Anna"}, {"patient_name": ""}),
        ({"patient_name": "Yamada^Tarou"}, {"patient_name": "Yamada^Tarou=X^Y"}),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": ""}),
        ({"PatientBirthDate": "19700101"}, {"PatientBirthDate": "1970.01.01"}),
        ({"PatientSex": "F"}, {"PatientSex": ""}),
        ({"PatientSex": "O"}, {"PatientSex": "M"}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # warnings of pydicom about unusual values
def test_missing_and_differently_written_values_are_no_conflict(
    make_cache: Any, first: dict[str, str], second: dict[str, str]
) -> None:
    """Reports often lack the name; some devices write the name in upper case."""
    site = make_cache()
    for number, attributes in enumerate((first, second)):
        site.receive(make_instance(study_uid="1.1", series_uid=f"1.2.{number}", **attributes))
    assert not get_study(site)["patientConflict"]
    assert 201 == site.compose(studies=["1.1"]).status_code


def test_a_job_for_one_patient_never_has_images_of_another(make_cache: Any) -> None:
    """With `mixPatients`, an order for a patient selects only this patient's instances of the study."""
    site = make_cache()
    for number, attributes in enumerate((WRONG, RIGHT, RIGHT)):
        site.receive(make_instance(study_uid="1.1", series_uid="1.2", sop_uid=f"1.3.{number}", **attributes))
    site.receive(*make_study(study_uid="2.1", instances=2, **RIGHT))
    job = site.compose(patients=[{"patientId": "P-2"}], mixPatients=True).json()
    assert 4 == job["instances"]
    [submitted] = site.adapter.jobs
    assert {"P-2"} == {instance.patient_id for instance in site.adapter.instances_of(submitted)}


def test_a_conflict_ends_with_the_deletion_of_an_instance(make_cache: Any) -> None:
    """A job with `"keep": false` deletes the instances of one of the patients."""
    site = make_cache()
    site.receive(make_instance(study_uid="1.1", sop_uid="1.3", **WRONG), make_instance(study_uid="1.1", **RIGHT))
    site.compose(instances=["1.3"], keep=False, mixPatients=True)
    assert (False, "P-2", 1) == tuple(get_study(site)[name] for name in ("patientConflict", "patientId", "instances"))
    assert 201 == site.compose(studies=["1.1"]).status_code


@pytest.mark.filterwarnings("ignore::UserWarning")  # warnings of pydicom about unusual values
def test_ids_that_differ_only_in_unusual_characters_are_different_patients(make_cache: Any) -> None:
    """Long IDs are not truncated, and NUL characters count.

    Verified to fail when the index truncates Patient IDs and removes NUL.
    """
    site = make_cache()
    for number, patient_id in enumerate(("P1", "P\0001", "x" * 1100 + "1", "x" * 1100 + "2")):
        site.receive(make_instance(study_uid="1.1", series_uid="1.2", sop_uid=f"1.3.{number}", patient_id=patient_id))
    assert (True, 4) == (get_study(site)["patientConflict"], len(patient_ids(site)))


def change_index(site: Any, *statements: str) -> None:
    """Change the file of the index while the service is stopped, then start the service."""
    site.adapter.close()
    [index] = Path(site.adapter.config.storage.path, "processors").glob("*/index.sqlite")
    engine = create_engine(f"sqlite:///{index}")
    with engine.begin() as transaction:
        for statement in statements:
            transaction.execute(text(statement))
    engine.dispose()
    site.adapter.restart()
    site.adapter.advance(10)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE cache_headers SET patient_id = 'P-9', patient_id_folded = 'p-9'",
        "UPDATE cache_headers SET issuer_of_patient_id = 'B'",
        "UPDATE cache_headers SET patient_name = 'Wrong^Anna', patient_name_folded = 'wrong^anna'",
        "UPDATE cache_headers SET patient_name = 'Wrong^Anna' WHERE header_id = 2",
        "UPDATE cache_headers SET instance_count = 7",
        "UPDATE cache_studies SET study_instance_uid = '9.9'",
        "UPDATE cache_studies SET patient_id = 'P-9', patient_conflict = 1",
        "UPDATE cache_series SET series_instance_uid = '9.9' WHERE series_id = 1",
        "UPDATE cache_series SET modality = 'MR'",
        "UPDATE cache_instances SET sop_instance_uid = '9.9' WHERE instance_id = 1",
        "UPDATE cache_instances SET storage_key = 'other' WHERE instance_id = 2",
        "UPDATE cache_instances SET header_id = 1",
        "DELETE FROM cache_instances WHERE instance_id = 1",
        "UPDATE cache_version SET version = 1",
    ],
)
def test_a_wrong_index_is_repaired_after_a_start(make_cache: Any, statement: str) -> None:
    """Instances are compared with the ledger when they are delivered again, and headers with the stored instances.

    Verified to fail when instances that the index has are not compared, and when headers are not read again.
    """
    site = make_cache()
    site.receive(*make_study(study_uid="1.1", series=2, instances=2, **RIGHT))
    before = get_study_and_instances(site)
    change_index(site, statement)
    assert before == get_study_and_instances(site)
    assert [("P-2", 1, 4)] == patient_ids(site)
    assert ["1.1"] == site.study_uids("patientName=right*") == site.study_uids()


def get_study_and_instances(site: Any) -> Any:
    detail = site.rest.get("/cache/studies/1.1").json()
    detail["series"].sort(key=lambda series: series["seriesInstanceUid"])
    return detail, site.rest.get("/cache/studies/1.1/instances").json()


def test_the_repair_of_an_index_keeps_pins(make_cache: Any) -> None:
    """A pinned study with a wrong header stays pinned; the repair is logged."""
    site = make_cache()
    site.receive(*make_study(study_uid="1.1", instances=2, **RIGHT))
    site.rest.put("/cache/studies/1.1/pin")
    with capture_logs() as logs:
        change_index(site, "UPDATE cache_headers SET patient_id = 'P-9'")
    assert [("CACHE", 2)] == [
        (each["ae_title"], each["instances"]) for each in logs if each["event"] == "cache_index_repaired"
    ]
    assert (True, "P-2") == (get_study(site)["pinned"], get_study(site)["patientId"])
