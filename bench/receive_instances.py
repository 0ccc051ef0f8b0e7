"""The data sets that the benchmark of receiving sends: large and small CT images of noise."""

from __future__ import annotations

import random
from pathlib import Path

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from receive_pdus import INSTANCE_PLACEHOLDER, SERIES_PLACEHOLDER, STUDY_PLACEHOLDER

from dicom_adapter.dicom import synthetic

EDGES = {"large": 512, "small": 64}  # edge in pixels of 16 bits: 512 KiB, 8 KiB


def write_data_sets(folder: Path) -> dict[str, Path]:
    """Write each data set to a separate file, in Explicit VR Little Endian."""
    paths = {size: folder / f"{size}.dataset" for size in EDGES}
    for size, path in paths.items():
        path.write_bytes(encode(EDGES[size]))
    return paths


def encode(edge: int) -> bytes:
    """Encode an image of `edge` by `edge` pixels, with placeholders for the UIDs of instance, study and series."""
    dataset = synthetic.make_instance(
        sop_uid=INSTANCE_PLACEHOLDER,
        study_uid=STUDY_PLACEHOLDER,
        series_uid=SERIES_PLACEHOLDER,
        rows=1,  # a synthetic image of full size takes long, and its pixels are replaced anyway
        columns=1,
        Rows=edge,
        Columns=edge,
        PixelData=random.Random(1).randbytes(edge * edge * 2),  # noqa: S311 - pixels
    )
    dataset["PixelData"].VR = "OW"
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    return file.getvalue()
