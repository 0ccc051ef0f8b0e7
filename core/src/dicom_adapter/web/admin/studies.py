"""`/api/studies` and `/api/stories`: look for studies, and explain what happened to a study, instance or job.

A value that identifies a patient is in the body of a request, never in its address: proxies log addresses.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get, post
from litestar.exceptions import ClientException, PermissionDeniedException
from litestar.params import JSONBody, PathParameter

from dicom_adapter.ledger.filters import Filters
from dicom_adapter.operations.documents.stories import story_as_json
from dicom_adapter.operations.documents.studies import matches_as_json, patient_as_json
from dicom_adapter.operations.look_up import MOST_STUDIES, Matches, find_studies
from dicom_adapter.operations.not_entered import read_with_log, series_of
from dicom_adapter.operations.story import Unknown, make_story
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.paging import END
from dicom_adapter.web.admin.parameters import AeTitleText, PlainText, Uid
from dicom_adapter.web.admin.routes import ApiValue, Json, not_found, route_arguments, time_of, view
from dicom_adapter.web.site import Site

TAGS = ["studies"]
SubjectPath = Annotated[
    str,
    PathParameter(
        pattern=rf"^([0-9.]{{1,64}}|[0-9a-f]{{8,32}}){END}",
        description="A Study, Series or SOP Instance UID, or the id of a job or its first 8 or more characters",
    ),
]


class StudySearch(ApiValue, frozen=True, kw_only=True):
    """The values to look for. At least one UID, the Accession Number or the Patient ID is required."""

    study_instance_uid: Uid | None = None
    series_instance_uid: Uid | None = None
    sop_instance_uid: Uid | None = None
    accession_number: PlainText | None = None  # needs the role operator
    patient_id: PlainText | None = None  # needs the role operator
    calling_ae_title: AeTitleText | None = None
    ae_title: AeTitleText | None = None
    since: datetime | None = None
    until: datetime | None = None


class StudyView(ApiValue, frozen=True, kw_only=True):
    """A study of which instances have arrived."""

    study_instance_uid: str
    instances: int  # number of the instances that were looked for
    modalities: list[str]
    calling_ae_titles: list[str]
    ae_titles: list[str]
    first_at: datetime
    last_at: datetime
    jobs: dict[str, int]  # number of jobs by state
    patient: dict[str, list[str]] | None = None  # only for operators: attributes of the patient and the study


class StudyMatches(ApiValue, frozen=True, kw_only=True):
    """The studies that were found, the newest first."""

    items: list[StudyView]
    more: bool  # there are more studies: narrow the search


class EntryView(ApiValue, frozen=True, kw_only=True):
    """One event, which may have occurred several times in a row, or a current state (`at` is null)."""

    kind: str
    at: datetime | None
    text: str
    fields: Json


class SectionView(ApiValue, frozen=True, kw_only=True):
    """The entries of one AE title."""

    ae_title: str
    entries: list[EntryView]


class StoryView(ApiValue, frozen=True, kw_only=True):
    """The events of a study, series, SOP instance or job."""

    kind: str
    name: str
    title: str
    created_at: datetime
    sections: list[SectionView]
    patient: dict[str, list[str]] | None = None  # only for operators


def study_routes(site: Site) -> list[Any]:
    """Return the routes."""
    return [_search(site), _explain(site)]


def _search(site: Site) -> Any:
    @post(
        "/api/studies/search",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER,
            *(413, 415),
            status_code=200,
            tags=TAGS,
            summary="Look for studies by UID, Accession Number or Patient ID",
            operation_id="searchStudies",
        ),
    )
    def search(request: Request[Any, Any, Any], data: JSONBody[StudySearch]) -> StudyMatches:
        is_operator = principal_of(request).is_operator
        if not is_operator and (data.accession_number is not None or data.patient_id is not None):
            raise PermissionDeniedException("Looking for patients needs a token with the role operator.")
        uids = (data.study_instance_uid, data.series_instance_uid, data.sop_instance_uid)
        if all(one is None for one in (*uids, data.accession_number, data.patient_id)):
            raise ClientException("A UID, accessionNumber or patientId is required.")
        with read_with_log(site.resources.ledger, site.config().storage.path) as (transaction, not_entered):
            found = find_studies(transaction, _filters(data), not_entered)
        matches = Matches(studies=found[:MOST_STUDIES], are_more=len(found) > MOST_STUDIES)
        document = matches_as_json(matches, shows_patient=is_operator)
        return StudyMatches(items=[view(one, StudyView) for one in document["studies"]], more=matches.are_more)

    return search


def _explain(site: Site) -> Any:
    @get(
        "/api/stories/{subject:str}",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER,
            *(404, 409),
            tags=TAGS,
            summary="Explain what happened to a study, series, SOP instance or job",
            operation_id="explain",
        ),
    )
    def explain(request: Request[Any, Any, Any], subject: SubjectPath) -> StoryView:
        try:
            with read_with_log(site.resources.ledger, site.config().storage.path) as (transaction, not_entered):
                story = make_story(transaction, subject, site.resources.clock.now(), not_entered)
                is_operator = principal_of(request).is_operator
                series = series_of(transaction, story.studies, not_entered) if is_operator else None
        except Unknown as unknown:
            raise not_found(f"{str(unknown)[0].upper()}{str(unknown)[1:]}.") from None
        patient = None if series is None else patient_as_json(series)
        return view({**story_as_json(story), "patient": patient}, StoryView)

    return explain


def _filters(data: StudySearch) -> Filters:
    return Filters(
        study_instance_uid=data.study_instance_uid,
        series_instance_uid=data.series_instance_uid,
        sop_instance_uid=data.sop_instance_uid,
        accession_number=data.accession_number,
        patient_id=data.patient_id,
        calling_ae_title=data.calling_ae_title,
        ae_title=data.ae_title,
        since=time_of(data.since),
        until=time_of(data.until),
    )
