"""Synthetic DICOM instances for demos and tests: valid images of nobody, with a pattern that a viewer shows.

Without a `seed` every call makes new UIDs (2.25 and a random UUID, PS3.5 B.2); with one, the same call makes the same.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen
from pydicom import dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    UltrasoundImageStorage,
)

from dicom_adapter.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

TRANSFER_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
SLICE_MM = 2.5  # distance of neighbouring slices
STRIPE = 16  # pixels from one diagonal stripe to the next


@frozen(kw_only=True)
class _Modality:
    """What the images of a modality have beyond what all images have (PS3.3 annex A)."""

    sop_class: UID
    bits_stored: int
    attributes: Mapping[str, Any] = field(factory=dict)
    has_planes: bool = False  # images lie in a patient coordinate system (PS3.3 C.7.6.2 and C.7.4.1)


MODALITIES: Mapping[str, _Modality] = {
    "CT": _Modality(
        sop_class=CTImageStorage,
        bits_stored=12,
        has_planes=True,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            "RescaleType": "HU",
            "KVP": 120,
            "AcquisitionNumber": 1,
        },
    ),
    "MR": _Modality(
        sop_class=MRImageStorage,
        bits_stored=12,
        has_planes=True,
        attributes={
            "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
            "ScanningSequence": "SE",
            "SequenceVariant": "NONE",
            "ScanOptions": "",
            "MRAcquisitionType": "2D",
            "RepetitionTime": 500,
            "EchoTime": 15,
            "EchoTrainLength": 1,
        },
    ),
    "CR": _Modality(
        sop_class=ComputedRadiographyImageStorage,
        bits_stored=12,
        attributes={"BodyPartExamined": "CHEST", "ViewPosition": "PA", "PatientOrientation": ["L", "F"]},
    ),
    "US": _Modality(
        sop_class=UltrasoundImageStorage,
        bits_stored=8,
        attributes={"ImageType": ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"], "PatientOrientation": ""},
    ),
}


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
    """One image of `modality` (a key of MODALITIES), ready for `write`. `attributes` sets further DICOM keywords.

    Raises ValueError for a modality, transfer syntax or keyword that it does not know.
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
    if kind.has_planes:
        _set(dataset, _plane(dataset.SeriesInstanceUID, instance_number))
    _set(dataset, _image(kind, rows, columns, instance_number))
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
    """One study of `series` series with `instances` images each; `arguments` are those of `make_instance`."""
    study_uid = study_uid or make_uid(seed, "study")
    study = []
    for series_number in range(1, series + 1):
        series_uid = make_uid(seed, f"series/{series_number}")
        for number in range(1, instances + 1):
            own = {
                "series_uid": series_uid,
                "sop_uid": make_uid(seed, f"series/{series_number}/instance/{number}"),
                "instance_number": number,
                "SeriesNumber": series_number,
            }
            study.append(make_instance(modality=modality, study_uid=study_uid, **{**own, **arguments}))
    return study


def write(dataset: Dataset, path: Path | str) -> None:
    """Write a Part 10 file (PS3.10), encoded as the data set's file meta information says."""
    dcmwrite(path, dataset, enforce_file_format=True)


def make_uid(seed: str | int | None = None, role: str = "") -> UID:
    """A UID from a random UUID, or with a `seed` the one that belongs to `seed` and `role`."""
    made = uuid.uuid4() if seed is None else uuid.uuid5(uuid.NAMESPACE_OID, f"dicom-adapter/{seed}/{role}")
    return UID(f"2.25.{made.int}")


def _kind(modality: str) -> _Modality:
    if modality not in MODALITIES:
        raise ValueError(f"modality {modality!r} is not one of {', '.join(MODALITIES)}")
    return MODALITIES[modality]


def _set(dataset: Dataset, attributes: Mapping[str, Any]) -> None:
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword!r} is not a DICOM keyword (PS3.6)")
        setattr(dataset, keyword, value)


def _general(modality: str, instance_number: int) -> dict[str, Any]:
    """Patient, study, series, equipment and general image module; attributes of type 2 may be empty."""
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
        "BurnedInAnnotation": "NO",
    }


def _plane(series_uid: str, instance_number: int) -> dict[str, Any]:
    return {
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": make_uid(series_uid, "frame of reference"),
        "PositionReferenceIndicator": "",
        "ImagePositionPatient": [0, 0, SLICE_MM * (instance_number - 1)],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1, 1],
        "SliceThickness": SLICE_MM,
    }


def _image(kind: _Modality, rows: int, columns: int, instance_number: int) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8 if kind.bits_stored == 8 else 16,
        "BitsStored": kind.bits_stored,
        "HighBit": kind.bits_stored - 1,
        "PixelRepresentation": 0,
        "PixelData": _pixels(kind, rows, columns, instance_number),
    }


def _pixels(kind: _Modality, rows: int, columns: int, shift: int) -> bytes:
    """Diagonal stripes from black to white, moved one pixel on with each instance."""
    step = (1 << kind.bits_stored) // STRIPE
    levels = [struct.pack("<B" if kind.bits_stored == 8 else "<H", step * level) for level in range(STRIPE)]
    pixels = b"".join(levels[(row + column + shift) % STRIPE] for row in range(rows) for column in range(columns))
    return pixels + b"\x00" * (len(pixels) % 2)


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
