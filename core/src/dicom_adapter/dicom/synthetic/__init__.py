"""Synthetic DICOM data for demos and tests: valid images with a visible pattern, reports (SR) and segmentations (SEG).

Without a `seed`, every call creates new UIDs (2.25 and a random UUID, PS3.5 B.2). With a seed, equal calls create equal
instances.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_adapter.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_adapter.dicom.synthetic.content import report, segmentation
from dicom_adapter.dicom.synthetic.images import image, plane
from dicom_adapter.dicom.synthetic.modalities import MODALITIES, Modality
from dicom_adapter.dicom.synthetic.uids import make_uid

__all__ = ["MODALITIES", "TRANSFER_SYNTAXES", "generate_study", "make_instance", "make_study", "make_uid", "write"]

TRANSFER_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


def make_instance(
    *,
    modality: str = "CT",
    patient_id: str = "SYN-0001",
    patient_name: str = "Synthetic^Patient",
    issuer: str = "",
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    instance_number: int = 1,
    rows: int = 64,
    columns: int = 64,
    accession_number: str = "",
    transfer_syntax: UID = ExplicitVRLittleEndian,
    seed: str | int | None = None,
    **attributes: Any,
) -> Dataset:
    """Create an instance of `modality` (a key of MODALITIES), ready for `write`.

    `attributes` are additional DICOM attributes by keyword. Raises ValueError for an unknown modality, transfer syntax
    or keyword.
    """
    kind = _kind(modality)
    dataset = Dataset()
    _set(dataset, _general(modality, instance_number))
    dataset.SOPClassUID = kind.sop_class
    dataset.SOPInstanceUID = sop_uid or make_uid(seed, f"instance/{instance_number}")
    dataset.StudyInstanceUID = study_uid or make_uid(seed, "study")
    dataset.SeriesInstanceUID = series_uid or make_uid(seed, "series")
    dataset.PatientName = patient_name
    dataset.PatientID = patient_id
    if issuer:
        dataset.IssuerOfPatientID = issuer
    dataset.AccessionNumber = accession_number
    _set(dataset, kind.attributes)
    _set(dataset, _content(kind, dataset.SeriesInstanceUID, rows, columns, instance_number))
    _set(dataset, attributes)
    dataset.file_meta = _file_meta(dataset, transfer_syntax)
    return dataset


def make_study(
    *,
    modality: str = "CT",
    series: int = 1,
    instances: int = 4,
    study_uid: str | None = None,
    seed: str | int | None = None,
    **arguments: Any,
) -> list[Dataset]:
    """Create one study of `series` series with `instances` images each. `arguments` are passed to `make_instance`."""
    return list(
        generate_study(
            modality=modality, series=series, instances=instances, study_uid=study_uid, seed=seed, **arguments
        )
    )


def generate_study(
    *,
    modality: str = "CT",
    series: int = 1,
    instances: int = 4,
    study_uid: str | None = None,
    seed: str | int | None = None,
    **arguments: Any,
) -> Iterator[Dataset]:
    """Create the instances of `make_study` one after another, for studies that are larger than the memory."""
    study_uid = study_uid or make_uid(seed, "study")
    for series_number in range(1, series + 1):
        series_uid = make_uid(seed, f"series/{series_number}")
        for number in range(1, instances + 1):
            defaults = {
                "series_uid": series_uid,
                "sop_uid": make_uid(seed, f"series/{series_number}/instance/{number}"),
                "instance_number": number,
                "SeriesNumber": series_number,
            }
            yield make_instance(modality=modality, study_uid=study_uid, **{**defaults, **arguments})


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a Part 10 file (PS3.10), encoded in the transfer syntax of the data set's file meta information."""
    dcmwrite(path, dataset, enforce_file_format=True)


def _kind(modality: str) -> Modality:
    if modality not in MODALITIES:
        raise ValueError(f"modality {modality!r} is not one of {', '.join(MODALITIES)}")
    return MODALITIES[modality]


def _set(dataset: Dataset, attributes: Mapping[str, Any]) -> None:
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is not a DICOM keyword (PS3.6)")
        setattr(dataset, keyword, value)


def _general(modality: str, instance_number: int) -> dict[str, Any]:
    """Return the patient, study, series, equipment and general image modules; attributes of type 2 may be empty."""
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20240101",
        "StudyTime": "120000",
        "ContentDate": "20240101",
        "ContentTime": "120000",
        "Modality": modality,
        "Manufacturer": "dicom-adapter",
        "ReferringPhysicianName": "",
        "StudyDescription": "Synthetic study",
        "SeriesDescription": f"Synthetic {modality} series",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": instance_number,
    }


def _content(kind: Modality, series_uid: str, rows: int, columns: int, instance_number: int) -> dict[str, Any]:
    """Return the content of an instance: an image, a report or a segmentation."""
    if kind.content == "report":
        return report(instance_number)
    if kind.content == "segmentation":
        return segmentation(series_uid, rows, columns, instance_number)
    found = image(kind, rows, columns, instance_number)
    return {**plane(series_uid, instance_number), **found} if kind.has_planes else found


def _file_meta(dataset: Dataset, transfer_syntax: UID) -> FileMetaDataset:
    if transfer_syntax not in TRANSFER_SYNTAXES:
        known = ", ".join(uid.name for uid in TRANSFER_SYNTAXES)
        raise ValueError(f"transfer syntax {transfer_syntax} is not one of {known}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta
