"""Outputs of jobs that no pipeline has processed: the `fake` submitter and the emulator make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from attrs import frozen

# Attributes that the secondary capture has from the job's first instance.
PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
)
SOURCE = ("SOPClassUID", "SOPInstanceUID")  # of the instance to which the capture refers
CAPTURE_NAME = "secondary-capture.dcm"
CAPTURE_SERIES = 9001  # number of the series, which no modality uses
PIXELS = 128  # rows and columns


@frozen(kw_only=True)
class MadeOutput:
    """One output of a job."""

    name: str  # relative path
    open: Callable[[], BinaryIO]


def make_outputs(
    folder: Path | None, open_first: Callable[[], BinaryIO | None], *, secondary_capture: bool, seed: str
) -> Iterator[MadeOutput]:
    """Yield the outputs of one job: the files of `folder`, and a secondary capture.

    `open_first` opens the job's first instance, or returns None if the job has none. Equal arguments give equal
    outputs: the UIDs of the capture are derived from `seed`.
    """
    if folder is not None:
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        yield from (MadeOutput(name=path.relative_to(folder).as_posix(), open=_opener(path)) for path in paths)
    first = open_first() if secondary_capture else None
    if first is not None:
        with first:
            capture = _secondary_capture(first, seed)
        if capture is not None:
            yield MadeOutput(name=CAPTURE_NAME, open=lambda: BytesIO(capture))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


def _secondary_capture(source: BinaryIO, seed: str) -> bytes | None:
    """Return an image in the study of an instance, with its own series and UIDs; None if `source` is not DICOM."""
    from pydicom import Dataset, dcmread, dcmwrite  # imported only when needed: it takes time
    from pydicom.errors import InvalidDicomError

    from dicom_adapter.testing import make_instance

    try:
        first = dcmread(source, stop_before_pixels=True, specific_tags=[*PATIENT_AND_STUDY, *SOURCE])
    except InvalidDicomError:
        return None
    reference = Dataset()
    reference.ReferencedSOPClassUID = first.get("SOPClassUID", "")
    reference.ReferencedSOPInstanceUID = first.get("SOPInstanceUID", "")
    changes: dict[str, Any] = {
        "ImageType": ["DERIVED", "SECONDARY"],
        "SeriesDescription": "Emulated result",
        "SeriesNumber": CAPTURE_SERIES,
        "SourceImageSequence": [reference],
    }
    capture = make_instance(modality="OT", rows=PIXELS, columns=PIXELS, seed=seed, **changes)
    for keyword in PATIENT_AND_STUDY:
        if keyword in first:
            capture[keyword] = first[keyword]
        elif keyword in capture:
            del capture[keyword]  # a value of the synthetic study
    file = BytesIO()
    dcmwrite(file, capture, enforce_file_format=True)
    return file.getvalue()
