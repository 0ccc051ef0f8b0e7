"""The REST API: each handler reads the request, calls `Cache`, and returns the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO

from litestar import delete, get, post, put
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from dicom_adapter_cache import errors, values
from dicom_adapter_cache.errors import CacheError
from dicom_adapter_cache.operations import Cache

STATUSES: dict[type[CacheError], int] = {
    errors.NotInCache: 404,
    errors.InvalidRequest: 400,
    errors.Ambiguous: 409,
    errors.StillArriving: 409,
    errors.PatientConflict: 409,
    errors.KeyReused: 422,
}
KIND = "urn:dicom-adapter:cache:{}"  # the `type` of a problem
PIECE_BYTES = 256 * 1024  # size of the pieces in which a file is downloaded

UidPath = Annotated[str, PathParameter(pattern=values.UID_PATTERN, description="A DICOM UID")]
JobPath = Annotated[str, PathParameter(pattern=rf"^[0-9a-f]{{32}}{values.END}", description="A job's id")]
AeTitleQuery = Annotated[
    str | None,
    QueryParameter(
        name="aeTitle", pattern=values.AE_TITLE_PATTERN, description="Required if several AE titles have the object"
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=values.LARGEST_PAGE, description="Maximum number of entries")]
Offset = Annotated[int, QueryParameter(ge=0, le=values.LARGEST_OFFSET, description="Number of entries to skip")]
Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key", pattern=values.KEY_PATTERN, description="A repeated request returns the first job"
    ),
]


class CacheProblem(values.Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Problem details (RFC 9457). The other members depend on `type`."""

    type: str
    title: str
    status: int
    detail: str


def _text(name: str, description: str) -> Any:
    pattern = values.PLAIN_PATTERN
    return QueryParameter(name=name, max_length=values.LONGEST_TEXT, pattern=pattern, description=description)


WILD = "; `*` and `?` are wildcards, case-insensitive"
UidQuery = Annotated[
    str,
    QueryParameter(
        name="studyInstanceUid", pattern=rf"^[0-9.,]{{0,1024}}{values.END}", description="UIDs, separated by commas"
    ),
]
PatientIdQuery = Annotated[str, _text("patientId", f"Patient ID{WILD}")]
PatientNameQuery = Annotated[str, _text("patientName", f"Patient's Name{WILD}")]
AccessionQuery = Annotated[str, _text("accessionNumber", f"Accession Number{WILD}")]
DescriptionQuery = Annotated[str, _text("studyDescription", f"Study Description{WILD}")]
ModalityQuery = Annotated[str, _text("modality", "A modality in the study, such as CT")]
DateQuery = Annotated[str, _text("studyDate", "YYYYMMDD, or a range: 20250101-20251231, 20250101-, -20251231")]
PinnedQuery = Annotated[
    bool | None, QueryParameter(description="true: only pinned studies; false: only unpinned studies")
]


@contextmanager
def problems() -> Iterator[None]:
    """Translate the cache's errors into HTTP responses."""
    try:
        yield
    except CacheError as refusal:
        extra = {"type": KIND.format(refusal.kind), **refusal.members}
        raise HTTPException(str(refusal), status_code=STATUSES[type(refusal)], extra=extra) from None


def route_arguments(*statuses: int, **more: Any) -> dict[str, Any]:
    """Return the arguments of a route: the common ones, an error response for each of `statuses`, and `more`."""
    descriptions = {
        400: "The request is invalid",
        401: "The token is missing or wrong",
        403: "A web page of another site sent the request, or its host is not this machine",
        404: "The object does not exist",
        409: "The request conflicts with the current state",
        413: "The body is too large",
        415: "The body is not JSON",
        422: "The Idempotency-Key was used for another request",
        503: "Temporarily unavailable; retry",
    }
    used = {status: descriptions[status] for status in (400, 401, 403, *statuses, 503)}
    responses = {
        status: ResponseSpec(
            data_container=CacheProblem,
            generate_examples=False,
            description=text,
            media_type="application/problem+json",
        )
        for status, text in used.items()
    }
    return {"sync_to_thread": True, "tags": ["cache"], "responses": responses, **more}


def handlers(cache: Cache) -> list[Any]:
    """Return all routes of the API."""
    return [*_search_routes(cache), *_read_routes(cache), *_job_routes(cache), *_change_routes(cache)]


def _search_routes(cache: Cache) -> list[Any]:
    @get("/studies", **route_arguments(404, summary="Search studies, the most recent arrival first"))
    def search_studies(
        ae_title: AeTitleQuery = None,
        study_instance_uid: UidQuery = "",
        patient_id: PatientIdQuery = "",
        patient_name: PatientNameQuery = "",
        study_date: DateQuery = "",
        accession_number: AccessionQuery = "",
        study_description: DescriptionQuery = "",
        modality: ModalityQuery = "",
        pinned: PinnedQuery = None,
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> values.Studies:
        study_filter = values.StudyFilter(
            ae_title=ae_title or "",
            study_instance_uid=study_instance_uid,
            patient_id=patient_id,
            patient_name=patient_name,
            study_date=study_date,
            accession_number=accession_number,
            study_description=study_description,
            modality=modality,
            pinned=pinned,
        )
        with problems():
            return cache.studies(study_filter, values.PageRequest(limit=limit, offset=offset))

    @get("/patients", **route_arguments(404, summary="Search patients with kept studies"))
    def search_patients(
        ae_title: AeTitleQuery = None,
        patient_id: PatientIdQuery = "",
        patient_name: PatientNameQuery = "",
        limit: Limit = 100,
        offset: Offset = 0,
    ) -> values.Patients:
        study_filter = values.StudyFilter(ae_title=ae_title or "", patient_id=patient_id, patient_name=patient_name)
        with problems():
            return cache.patients(study_filter, values.PageRequest(limit=limit, offset=offset))

    return [search_studies, search_patients]


def _read_routes(cache: Cache) -> list[Any]:
    @get("/studies/{uid:str}", **route_arguments(404, 409, summary="Get a study with its series"))
    def study(uid: UidPath, ae_title: AeTitleQuery = None) -> values.StudyDetail:
        with problems():
            return cache.study(uid, ae_title or "")

    @get("/studies/{uid:str}/instances", **route_arguments(404, 409, summary="List the instances of a study"))
    def study_instances(
        uid: UidPath, ae_title: AeTitleQuery = None, limit: Limit = 100, offset: Offset = 0
    ) -> values.Instances:
        with problems():
            return cache.instances(uid, None, values.PageRequest(limit=limit, offset=offset), ae_title or "")

    @get(
        "/studies/{uid:str}/series/{series_uid:str}/instances",
        **route_arguments(404, 409, summary="List the instances of a series"),
    )
    def series_instances(
        uid: UidPath, series_uid: UidPath, ae_title: AeTitleQuery = None, limit: Limit = 100, offset: Offset = 0
    ) -> values.Instances:
        with problems():
            return cache.instances(uid, series_uid, values.PageRequest(limit=limit, offset=offset), ae_title or "")

    @get(
        "/instances/{uid:str}/file",
        media_type="application/dicom",
        **route_arguments(404, summary="Download the stored DICOM file of an instance"),
    )
    def download(uid: UidPath, ae_title: AeTitleQuery = None) -> Stream:
        with problems():
            download = cache.download(uid, ae_title or "")
        headers = {
            "Content-Length": str(download.instance.size_bytes),
            "Content-Disposition": f'attachment; filename="{uid}.dcm"',  # a UID has only digits and dots
        }
        return Stream(_pieces(download.file), media_type="application/dicom", headers=headers)

    return [study, study_instances, series_instances, download]


def _job_routes(cache: Cache) -> list[Any]:
    @post("/jobs", **route_arguments(404, 409, 413, 415, 422, summary="Compose a job"))
    def compose(data: JSONBody[values.Order], key: Key = None) -> values.JobStatus:
        with problems():
            return cache.compose(data, key)

    @get("/jobs", **route_arguments(summary="List the most recent composed jobs"))
    def jobs(limit: Limit = 100) -> values.Jobs:
        with problems():
            return cache.jobs(limit)

    @get("/jobs/{job_id:str}", **route_arguments(404, summary="Get the status of a job"))
    def job(job_id: JobPath) -> values.JobStatus:
        with problems():
            return cache.job(job_id)

    return [compose, jobs, job]


def _change_routes(cache: Cache) -> list[Any]:
    @delete(
        "/studies/{uid:str}",
        **route_arguments(404, 409, summary="Delete a study; jobs that contain it are still submitted"),
    )
    def delete_study(uid: UidPath, ae_title: AeTitleQuery = None) -> None:
        with problems():
            cache.delete(uid, ae_title or "")

    @put("/studies/{uid:str}/pin", **route_arguments(404, 409, summary="Pin a study"))
    def pin(uid: UidPath, ae_title: AeTitleQuery = None) -> values.Pinned:
        with problems():
            return cache.pin(uid, pinned=True, ae_title=ae_title or "")

    @delete("/studies/{uid:str}/pin", status_code=200, **route_arguments(404, 409, summary="Unpin a study"))
    def unpin(uid: UidPath, ae_title: AeTitleQuery = None) -> values.Pinned:
        with problems():
            return cache.pin(uid, pinned=False, ae_title=ae_title or "")

    return [delete_study, pin, unpin]


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE_BYTES):
            yield piece
