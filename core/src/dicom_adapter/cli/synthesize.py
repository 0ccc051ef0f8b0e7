"""`dicom-adapter synthesize`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import frozen
from pydicom.dataset import Dataset

from dicom_adapter.api.configuration_file import find_configuration
from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import Refused
from dicom_adapter.cli.messages import fail
from dicom_adapter.cli.progress import progress_bars
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.config.load import tables_of
from dicom_adapter.dicom import synthetic
from dicom_adapter.net.address import InvalidAddress, parse_address

FIRST_DAY = date(2024, 1, 1)  # date of a patient's first study; each following study is one day later
LARGEST_SIDE = 8192  # pixels
PLACEHOLDER = "AET@HOST:PORT"


@frozen(kw_only=True)
class SyntheticStudy:
    """One study to write."""

    patient: int  # number of the patient, counted from 1
    number: int  # number of the patient's study, counted from 1
    modality: str

    @property
    def folder(self) -> Path:
        """The folder of the study in the folder of the command."""
        return Path(f"patient-{self.patient:04}") / f"study-{self.number:04}-{self.modality}"

    @property
    def patient_id(self) -> str:
        return f"SYN-{self.patient:04}"

    @property
    def accession_number(self) -> str:
        return f"{self.patient_id}-{self.number:04}"

    def generate(self, *, series: int, instances: int, size: int, seed: str | None) -> Iterator[Dataset]:
        """Create the instances, series by series."""
        return synthetic.generate_study(
            modality=self.modality,
            series=series,
            instances=instances,
            seed=None if seed is None else f"{seed}/{self.folder}",
            patient_id=self.patient_id,
            patient_name=f"Synthetic^Patient {self.patient}",
            accession_number=self.accession_number,
            rows=size,
            columns=size,
            StudyDate=f"{FIRST_DAY + timedelta(days=self.number - 1):%Y%m%d}",
            StudyID=str(self.number),
        )


ModalityOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODALITY",
        help=f"Modality: {', '.join(synthetic.MODALITIES)}. Default: CT. Repeat it, and the studies of a patient "
        "take the modalities in turn.",
        show_default=False,
    ),
]
StudiesOption = Annotated[
    int, typer.Option(metavar="NUMBER", min=1, max=9999, help="Number of studies of each patient.")
]
InstancesOption = Annotated[
    int, typer.Option(metavar="NUMBER", min=1, max=9999, help="Number of instances in each series.")
]
SizeOption = Annotated[
    int, typer.Option(metavar="PIXELS", min=2, max=LARGEST_SIDE, help="Rows and columns of each image.")
]
SeedOption = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Any text: the same text gives the same files. Default: new UIDs.", show_default=False
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Write to a folder that is not empty. Files of the same names are replaced.")
]


def synthesize(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder for the files.", file_okay=False)],
    modality: ModalityOption = None,
    patients: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=9999, help="Number of patients.")] = 1,
    studies: StudiesOption = 1,
    series: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=9999, help="Number of series in each study.")] = 1,
    instances: InstancesOption = 10,
    size: SizeOption = 256,
    seed: SeedOption = None,
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with the studies.")] = False,
) -> None:
    """Write synthetic studies as DICOM files, to send them to the adapter.

    Example: dicom-adapter synthesize studies --patients 2 --series 3 --modality MR

    Exit status: 0 if all files were written, 1 otherwise.
    """
    wanted = list(_studies(patients, studies, modality or ["CT"]))
    written: list[dict[str, Any]] = []
    try:
        if not force and folder.is_dir() and any(folder.iterdir()):
            raise fail(f"{folder} is not empty; name a new folder, or replace files of the same names with --force")
        with progress_bars() as on_progress:
            for study in wanted:
                made = study.generate(series=series, instances=instances, size=size, seed=seed)
                written.append(_write(study, folder, instances, made))
                on_progress("writing studies", len(written), len(wanted))
    except OSError as failure:
        done = f"{len(written)} of {counted(len(wanted), 'study')} written"
        raise fail(f"{failure.filename or folder}: {failure.strerror}; {done}") from None
    typer.echo(
        json.dumps({"folder": str(folder), "studies": written}, indent=2) if as_json else _summary(folder, written)
    )


def _studies(patients: int, studies: int, modalities: Sequence[str]) -> Iterator[SyntheticStudy]:
    unknown = [name for name in modalities if name not in synthetic.MODALITIES]
    if unknown:
        known = ", ".join(synthetic.MODALITIES)
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {known}", param_hint="--modality")
    for patient in range(1, patients + 1):
        for number in range(1, studies + 1):
            yield SyntheticStudy(patient=patient, number=number, modality=modalities[(number - 1) % len(modalities)])


def _write(study: SyntheticStudy, folder: Path, per_series: int, made: Iterable[Dataset]) -> dict[str, Any]:
    """Write the instances of a study. Return the values that `--json` shows."""
    count = size = 0
    study_uid = ""
    for count, data_set in enumerate(made, start=1):
        study_uid = str(data_set.StudyInstanceUID)
        series, number = divmod(count - 1, per_series)
        path = folder / study.folder / f"series-{series + 1:04}" / f"{number + 1:04}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        synthetic.write(data_set, path)
        size += path.stat().st_size
    return {
        "folder": str(folder / study.folder),
        "patientId": study.patient_id,
        "accessionNumber": study.accession_number,
        "studyInstanceUid": study_uid,
        "modality": study.modality,
        "series": count // per_series,
        "instances": count,
        "bytes": size,
    }


def _summary(folder: Path, written: Sequence[dict[str, Any]]) -> str:
    patients = len({study["patientId"] for study in written})
    studies = counted(len(written), "study")
    instances = counted(sum(study["instances"] for study in written), "instance")
    size = sum(study["bytes"] for study in written) / 10**6
    return (
        f"{studies} of {counted(patients, 'patient')} with {instances} ({size:.1f} MB) written to {folder}\n"
        f"Send them: dicom-adapter send {shlex.quote(str(folder))} --to {_own_address()}"
    )


def _own_address() -> str:
    """Return the address of the first AE title in the configuration that commands use by default.

    Without a configuration, or with one that cannot be read, return a placeholder. The command needs no configuration.
    """
    try:
        tables = tables_of(find_configuration().read_text(encoding="utf-8"))
    except (Refused, OSError, UnicodeDecodeError):
        return PLACEHOLDER
    listener, called = tables.get("dicom", {}), tables.get("ae-titles", {})
    if not (isinstance(listener, dict) and isinstance(called, dict) and called):
        return PLACEHOLDER
    default = DicomConfig()
    host, port = listener.get("bind", default.bind), listener.get("port", default.port)
    try:
        host = "localhost" if ip_address(host).is_unspecified else f"[{host}]" if ":" in host else host
        return shlex.quote(str(parse_address(f"{next(iter(called))}@{host}:{port}")))
    except (ValueError, InvalidAddress):  # also if the port is 0: any free port
        return PLACEHOLDER
