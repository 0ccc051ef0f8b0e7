"""The routes of the dashboard. A page reads what it shows from the ledger; changes go through the API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from litestar import Request, Response, get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Stream

from dicom_adapter.operations.installed import plugin_rows
from dicom_adapter.operations.job_log import last_lines
from dicom_adapter.operations.not_entered import read_with_log
from dicom_adapter.web.access.principal import Role, only, principal_of
from dicom_adapter.web.pages.configuration_page import configuration_page
from dicom_adapter.web.pages.event_list import events_page
from dicom_adapter.web.pages.held_list import quarantine_page
from dicom_adapter.web.pages.job_list import JobListFilter, job_list
from dicom_adapter.web.pages.job_page import find_job, job_page
from dicom_adapter.web.pages.live import Live
from dicom_adapter.web.pages.rendering import HEADERS, fragment, html, page, static_files, static_version
from dicom_adapter.web.pages.sender_list import senders_page
from dicom_adapter.web.pages.snapshots import TOPICS, Snapshots
from dicom_adapter.web.pages.study_search import newest_studies, search, study_page
from dicom_adapter.web.site import Site

STATIC_HEADERS = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
PAGE: dict[str, Any] = {"sync_to_thread": True, "include_in_schema": False}
LOG_LINES = 300  # last lines of a log that are shown
AnyRequest = Request[Any, Any, Any]


def page_routes(site: Site, live: Live, snapshots: Snapshots) -> Sequence[Any]:
    """Return all routes of the dashboard."""
    return [
        static_route(),
        sign_in_route(),
        live_route(live),
        overview_route(site, snapshots),
        *job_routes(site),
        *study_routes(site),
        *other_routes(site),
    ]


def static_route() -> Any:
    """Return the route of the static files."""

    @get("/static/{digest:str}/{name:str}", sync_to_thread=False, include_in_schema=False)
    def static(digest: FromPath[str], name: FromPath[str]) -> Response[bytes]:
        found = static_files().get(name)
        if found is None or digest != static_version():
            raise NotFoundException("There is no such file.")
        content, media_type = found
        return Response(content, media_type=media_type, headers=STATIC_HEADERS)

    return static


def sign_in_route() -> Any:
    """Return the route of the page to sign in."""

    @get("/sign-in", sync_to_thread=False, include_in_schema=False)
    def sign_in(request: AnyRequest) -> Response[str]:
        return html(fragment("sign_in.html", next=request.query_params.get("next", "/")))

    return sign_in


def live_route(live: Live) -> Any:
    """Return the route of the live updates."""

    @get("/live/{topic:str}", include_in_schema=False)
    async def updates(topic: FromPath[str]) -> Stream:
        if topic not in TOPICS:
            raise NotFoundException("There are no updates with this name.")
        headers = {**HEADERS, "X-Accel-Buffering": "no"}  # nginx must not collect the updates
        return Stream(live.open(topic), media_type="text/event-stream", headers=headers)

    return updates


def overview_route(site: Site, snapshots: Snapshots) -> Any:
    """Return the route of the overview."""

    @get("/", **PAGE)
    def overview(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = snapshots.overview(transaction)
        return page(request, "overview.html", view=view)

    return overview


def job_routes(site: Site) -> Sequence[Any]:
    """Return the routes of jobs."""

    @get("/jobs", **PAGE)
    def all_jobs(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = job_list(transaction, JobListFilter.of(request.query_params), _now(site))
        config = site.config()
        return page(
            request,
            "jobs.html",
            view=view,
            ae_titles=list(config.ae_titles),
            submitters=list(config.submitters),
        )

    @get("/jobs/{job_id:str}", **PAGE)
    def one_job(request: AnyRequest, job_id: FromPath[str]) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = job_page(transaction, job_id, _now(site))
        return page(request, "job.html", view=view)

    @get("/jobs/{job_id:str}/log", guards=[only(Role.OPERATOR)], **PAGE)
    def log_of_job(job_id: FromPath[str]) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            job = find_job(transaction, job_id).job
        return html(fragment("job_log.html", lines=last_lines(job, site.config(), site.plugins, LOG_LINES)))

    return [all_jobs, one_job, log_of_job]


def study_routes(site: Site) -> Sequence[Any]:
    """Return the routes of studies."""

    @get("/studies", **PAGE)
    def studies(request: AnyRequest) -> Response[str]:
        with read_with_log(site.resources.ledger, site.config().storage.path) as (transaction, not_entered):
            lines = newest_studies(transaction, not_entered, shows_patient=principal_of(request).is_operator)
        return page(request, "studies.html", lines=lines)

    @post("/studies/search", status_code=200, include_in_schema=False)
    async def found(request: AnyRequest) -> dict[str, str]:
        body = await request.json()
        value = body.get("value") if isinstance(body, dict) else None
        return await asyncio.to_thread(answer, request, value if isinstance(value, str) else "")

    def answer(request: AnyRequest, value: str) -> dict[str, str]:
        shows_patient = principal_of(request).is_operator
        with read_with_log(site.resources.ledger, site.config().storage.path) as (transaction, not_entered):
            view = search(transaction, value, _now(site), not_entered, shows_patient=shows_patient)
        return {"goTo": view.go_to, "html": "" if view.go_to else fragment("found.html", view=view)}

    @get("/studies/{name:str}", **PAGE)
    def one_study(request: AnyRequest, name: FromPath[str]) -> Response[str]:
        shows_patient = principal_of(request).is_operator
        with read_with_log(site.resources.ledger, site.config().storage.path) as (transaction, not_entered):
            view = study_page(transaction, name, _now(site), not_entered, shows_patient=shows_patient)
        return page(request, "study.html", view=view)

    return [studies, found, one_study]


def other_routes(site: Site) -> Sequence[Any]:
    """Return the routes of the quarantine, senders, events, the configuration and plugins."""

    @get("/quarantine", **PAGE)
    def quarantine(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = quarantine_page(transaction, request.query_params)
        return page(request, "quarantine.html", view=view)

    @get("/senders", **PAGE)
    def senders(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = senders_page(transaction, request.query_params, _now(site))
        return page(request, "senders.html", view=view, port=site.config().dicom.port)

    @get("/events", **PAGE)
    def events(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = events_page(transaction, request.query_params)
        return page(request, "events.html", view=view, ae_titles=list(site.config().ae_titles))

    @get("/configuration", **PAGE)
    def configuration(request: AnyRequest) -> Response[str]:
        with site.resources.ledger.read() as transaction:
            view = configuration_page(transaction)
        return page(request, "configuration.html", view=view)

    @get("/plugins", **PAGE)
    def plugins(request: AnyRequest) -> Response[str]:
        return page(request, "plugins.html", rows=plugin_rows(site.plugins))

    return [quarantine, senders, events, configuration, plugins]


def _now(site: Site) -> datetime:
    return site.resources.clock.system_time()
