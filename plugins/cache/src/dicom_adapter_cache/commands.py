"""`dicom-adapter cache …`: commands for the operations of the REST API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_adapter import JobPriority
from dicom_adapter_cache.client import Client, NotServed, address

cache = typer.Typer(
    name="cache",
    help="Search, compose, pin and delete studies of cache AE titles through the running service's REST API.",
    no_args_is_help=True,
)

CONFIG = typer.Option(
    "--config",
    "-c",
    metavar="CONFIG",
    help="The configuration file. Default: DICOM_ADAPTER_CONFIG, else dicom-adapter.toml in the current folder.",
    show_default=False,
)
URL = typer.Option(
    metavar="URL",
    envvar="DICOM_ADAPTER_URL",
    help="URL of the service, such as http://127.0.0.1:8042; overrides the configuration.",
)
JSON = typer.Option("--json", help="Print JSON instead of a table.")
AE_TITLE = typer.Option(metavar="AET", help="The AE title; required if several have the study.")

# Texts that are shown if a member of the study, such as `pinned`, is true
MARKS = {"patientConflict": "more than one patient", "pinned": "pinned", "arriving": "arriving"}

Config = Annotated[Path | None, CONFIG]
Url = Annotated[str | None, URL]
Json = Annotated[bool, JSON]
AeTitle = Annotated[str | None, AE_TITLE]
CleanUp = Annotated[
    bool,
    typer.Option(
        "--clean-up",
        help=(
            "Delete the instances when the job has succeeded. If its submitter does not follow jobs, delete them when "
            "the job is submitted."
        ),
    ),
]


@cache.command()
def studies(
    config: Config = None,
    url: Url = None,
    ae_title: Annotated[str | None, typer.Option(metavar="AET", help="Only studies of this AE title.")] = None,
    patient_id: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID; * and ? are wildcards.")] = None,
    patient_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Patient's name; * and ? are wildcards.")
    ] = None,
    study_date: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="YYYYMMDD, or a range such as 20250101-20251231, 20250101- or -20251231."),
    ] = None,
    accession_number: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Accession number; * and ? are wildcards.")
    ] = None,
    modality: Annotated[str | None, typer.Option(metavar="MODALITY", help="A modality in the study.")] = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", min=1, max=1000, help="Maximum number of studies.")] = 50,
    offset: Annotated[int, typer.Option(metavar="NUMBER", min=0, help="Number of studies to skip.")] = 0,
    as_json: Json = False,
) -> None:
    """List kept studies, the most recent arrival first.

    Exit status: 0, also if no study matches; 1 if the service does not answer or refuses the request.
    """
    query = {
        "aeTitle": ae_title,
        "patientId": patient_id,
        "patientName": patient_name,
        "studyDate": study_date,
        "accessionNumber": accession_number,
        "modality": modality,
        "limit": limit,
        "offset": offset,
    }
    with _client(config, url) as client:
        page = client.get("/studies", **query)
    if as_json:
        typer.echo(json.dumps(page, indent=2, ensure_ascii=False))
    elif not page["items"]:
        typer.echo("No studies.")
    else:
        _show(page)


StudyOption = Annotated[list[str] | None, typer.Option(metavar="UID", help="A Study Instance UID; may be repeated.")]
SeriesOption = Annotated[list[str] | None, typer.Option(metavar="UID", help="A Series Instance UID; may be repeated.")]
InstanceOption = Annotated[list[str] | None, typer.Option(metavar="UID", help="A SOP Instance UID; may be repeated.")]
PriorityOption = Annotated[
    JobPriority, typer.Option(metavar="lower|normal|higher|immediate", help="Priority of the job.")
]
SubmitterOption = Annotated[str | None, typer.Option(metavar="NAME", help="The submitter; default: the AE title's.")]
MixPatientsOption = Annotated[
    bool,
    typer.Option("--mix-patients", help="Compose even if the instances of a study disagree about the patient."),
]
KeyOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="Idempotency key: a repeated call returns the first job.")
]


@cache.command()
def compose(
    pipeline: Annotated[str, typer.Option(metavar="PIPELINE", help="The pipeline's name or id.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="The job's name.")],
    study: StudyOption = None,
    series: SeriesOption = None,
    instance: InstanceOption = None,
    patient: Annotated[list[str] | None, typer.Option(metavar="ID", help="A Patient ID; may be repeated.")] = None,
    issuer: Annotated[str, typer.Option(metavar="TEXT", help="Issuer of these Patient IDs.")] = "",
    ae_title: AeTitle = None,
    priority: PriorityOption = JobPriority.NORMAL,
    submitter: SubmitterOption = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = None,
    clean_up: CleanUp = False,
    insist: Annotated[bool, typer.Option("--insist", help="Compose even if a study is still arriving.")] = False,
    mix_patients: MixPatientsOption = False,
    key: KeyOption = None,
    config: Config = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Compose a job of any mix of patients, studies, series and instances. Fails if any of them is missing.

    Exit status: 0 if the job was composed; 1 if the service refuses, with the reason.
    """
    order = {
        "pipeline": pipeline,
        "name": name,
        "aeTitle": ae_title,
        "priority": priority.value,
        "patients": [{"patientId": each, "issuerOfPatientId": issuer} for each in patient or ()],
        "studies": study or [],
        "series": series or [],
        "instances": instance or [],
        "submitter": submitter,
        "metadata": dict(_pair(text) for text in metadata or ()),
        "keep": not clean_up,
        "insist": insist,
        "mixPatients": mix_patients,
    }
    with _client(config, url) as client:
        job = client.post("/jobs", order, key)
    if as_json:
        typer.echo(json.dumps(job, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"job {job['jobId']} ({job['instances']} instances) is {job['state']}")


@cache.command()
def pin(
    studies: Annotated[list[str], typer.Argument(metavar="UID", help="Study Instance UIDs.")],
    undo: Annotated[bool, typer.Option("--undo", help="Unpin them.")] = False,
    ae_title: AeTitle = None,
    config: Config = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Pin studies, so that neither age nor size evicts them, or unpin them.

    Exit status: 0 if all studies were changed; 1 at the first failure.
    """
    answers = []
    with _client(config, url) as client:
        for uid in studies:
            call = client.delete if undo else client.put
            answers.append(call(f"/studies/{uid}/pin", aeTitle=ae_title))
            if not as_json:
                typer.echo(f"{uid} is {'pinned' if answers[-1]['pinned'] else 'not pinned'}")
    if as_json:
        typer.echo(json.dumps(answers, indent=2))


@cache.command()
def delete(
    studies: Annotated[list[str], typer.Argument(metavar="UID", help="Study Instance UIDs.")],
    ae_title: AeTitle = None,
    config: Config = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Delete studies from the cache. Jobs that contain them are still submitted.

    Exit status: 0 if all studies were deleted; 1 at the first that does not exist.
    """
    with _client(config, url) as client:
        for uid in studies:
            client.delete(f"/studies/{uid}", aeTitle=ae_title)
            if not as_json:
                typer.echo(f"{uid} is deleted")
    if as_json:
        typer.echo(json.dumps({"deleted": studies}, indent=2))


@contextmanager
def _client(config: Path | None, url: str | None) -> Iterator[Client]:
    """Open a client of the service; on an error print it and exit with status 1."""
    try:
        client = Client(*address(config, url))
        try:
            yield client
        finally:
            client.close()
    except NotServed as refusal:
        typer.secho(f"error: {refusal}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"'{text}' is not of the form KEY=VALUE")
    return key, value


def _show(page: dict[str, Any]) -> None:
    """Print the studies, each with its UID alone on a line, so that it can be copied from a narrow terminal."""
    for study in page["items"]:
        typer.echo(study["studyInstanceUid"])
        patient = f"{study['patientId']} {study['patientName']}".strip()
        count = f"{study['instances']} instance{'' if study['instances'] == 1 else 's'}"
        marks = [mark for name, mark in MARKS.items() if study[name]]
        words = (patient, study["studyDate"], "/".join(study["modalities"]), count, *marks)
        typer.echo(f"    {', '.join(word for word in words if word)}")
    last = page["offset"] + len(page["items"])
    if last < page["total"]:
        typer.echo(f"{last} of {page['total']}; --offset {last} shows more", err=True)
