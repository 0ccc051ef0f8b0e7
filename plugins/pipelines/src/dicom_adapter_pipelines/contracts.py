"""Contracts: what a pipeline expects of its input folder, its environment and its arguments.

A contract is used twice: the function that `arranger` returns fills the input folder when the job is started, and
`environment` returns variables with the paths as the pipeline sees them. In a container, they differ from the paths on
this machine.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_adapter import Job
from dicom_adapter_pipelines.job_folder import Arrange, InputFile

JOB_VARIABLE = "DICOM_ADAPTER_JOB"  # also identifies the processes of a job whose runner was killed
# Attributes in the `.tags` files of mercure.
MERCURE_TAGS = tuple(
    """
    SpecificCharacterSet Modality BodyPartExamined ProtocolName StationName Manufacturer ManufacturerModelName
    MagneticFieldStrength DeviceSerialNumber SoftwareVersions ImageType SeriesInstanceUID SOPInstanceUID SOPClassUID
    StudyInstanceUID StudyID StudyDate StudyTime StudyDescription SeriesNumber SeriesDate SeriesTime SeriesDescription
    InstanceNumber AcquisitionDate AcquisitionTime AcquisitionNumber SequenceName ScanningSequence SequenceVariant
    SliceThickness Rows Columns ContrastBolusAgent PatientID PatientName PatientBirthDate PatientSex PatientAge
    AccessionNumber ReferringPhysicianName RequestedProcedureDescription InstitutionName
    """.split()  # noqa: SIM905 - readable as a text
)


class Contract(str, Enum):
    """What a pipeline expects."""

    PLAIN = "plain"  # a folder for each series, and the variables of the adapter only
    MAP = "map"  # a MONAI Application Package
    MERCURE = "mercure"  # a module of mercure


@frozen(kw_only=True)
class JobPlaces:
    """Paths as the pipeline sees them."""

    input: str
    output: str
    job: str  # of job.json
    work: str  # current folder, and folder for temporary files

    def fill(self, text: str) -> str:
        """Replace `{input}`, `{output}`, `{job}` and `{work}`; other braces stay as they are."""
        places = {"{input}": self.input, "{output}": self.output, "{job}": self.job, "{work}": self.work}
        for name, path in places.items():
            text = text.replace(name, path)
        return text


def environment(contract: Contract, places: JobPlaces, time_limit: float | None = None) -> dict[str, str]:
    """Return the variables of a contract, and the DICOM_ADAPTER_* variables that every pipeline gets."""
    names = {"DICOM_ADAPTER_INPUT": places.input, "DICOM_ADAPTER_OUTPUT": places.output, JOB_VARIABLE: places.job}
    if contract is Contract.PLAIN:
        return names
    # `map` and `mercure` have the variables of MONAI Deploy, under their new and their old names.
    names |= {"HOLOSCAN_INPUT_PATH": places.input, "HOLOSCAN_OUTPUT_PATH": places.output}
    names |= {"MONAI_INPUTPATH": places.input, "MONAI_OUTPUTPATH": places.output}
    if contract is Contract.MERCURE:
        return names | {"MERCURE_IN_DIR": places.input, "MERCURE_OUT_DIR": places.output}
    return names | {"HOLOSCAN_WORKDIR": places.work, "HOLOSCAN_TIMEOUT": f"{time_limit or 0:.0f}"}  # 0: no limit


def ignored_outputs(contract: Contract) -> tuple[str, ...]:
    """Return the names of files below the output folder that are not outputs."""
    # Modules of mercure copy task.json to their output, also if they have no result.
    return ("task.json",) if contract is Contract.MERCURE else ()


def arranger(contract: Contract, job: Job, settings: Mapping[str, Any]) -> Arrange:
    """Return the function that fills the input folder of a job. Only a mercure module has `settings`."""
    if contract is Contract.MERCURE:
        return partial(_arrange_for_mercure, task=_task(job, settings))
    return _arrange_by_series


def _arrange_by_series(folder: Path, files: Sequence[InputFile]) -> None:
    """Make a folder for each series, numbered in the order of the job: `001/00000.dcm`."""
    series: dict[str, Path] = {}
    for file in files:
        place = series.get(file.series_instance_uid)
        if place is None:
            place = series[file.series_instance_uid] = folder / f"{len(series) + 1:03}"
            place.mkdir()
        _link(file.path, place / f"{file.position:05}.dcm")


def _arrange_for_mercure(folder: Path, files: Sequence[InputFile], *, task: Callable[[str], object]) -> None:
    """Name files `<Series Instance UID>#<SOP Instance UID>.dcm`, with a file `.tags` beside each, and `task.json`."""
    taken: set[str] = set()
    for file in files:
        name = f"{file.series_instance_uid}#{file.sop_instance_uid}"
        if name in taken:  # the job contains two versions of one instance
            name += f".{file.position}"
        taken.add(name)
        _link(file.path, folder / f"{name}.dcm")
        (folder / f"{name}.tags").write_text(json.dumps(dict(_tags(file))), encoding="utf-8")
    (folder / "task.json").write_text(
        json.dumps(task(files[0].series_instance_uid if files else ""), indent=1, default=str)
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)


def _tags(file: InputFile) -> Iterator[tuple[str, str]]:
    """Yield the attributes for the `.tags` file. A file that cannot be parsed has only those of its name."""
    try:
        header = dcmread(file.path, stop_before_pixels=True, specific_tags=list(MERCURE_TAGS))
    except (InvalidDicomError, OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError):
        header = None
    for keyword in MERCURE_TAGS:
        try:
            value = "" if header is None else header.get(keyword, "")
            yield keyword, "\\".join(str(part) for part in value) if _is_list(value) else str(value or "")
        except (ValueError, TypeError, OverflowError):  # a value that breaks the rules of its VR
            yield keyword, ""


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _task(job: Job, settings: Mapping[str, Any]) -> Callable[[str], object]:
    """Return the function that makes the contents of mercure's task.json from the UID of the job's first series."""

    def task(series_instance_uid: str) -> object:
        return {
            "id": job.run_id,
            "info": {
                "action": "process",
                "uid": series_instance_uid,
                "uid_type": "series",
                "triggered_rules": {job.pipeline_id: True},
                "applied_rule": job.pipeline_id,
                "receiver_aet": job.ae_title,
            },
            "dispatch": {},
            "process": {"module_name": job.pipeline_id, "module_config": {}, "settings": dict(settings)},
            "study": {},
        }

    return task
