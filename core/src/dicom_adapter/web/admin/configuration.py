"""`/api/configuration`, `/api/plugins` and `/api/audit`."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

from litestar import Request, get, post
from litestar.params import JSONBody

from dicom_adapter.api.errors import Refused
from dicom_adapter.ledger import configurations, events
from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.events import Event
from dicom_adapter.operations.documents.status import configuration_as_json
from dicom_adapter.operations.installed import plugin_rows
from dicom_adapter.service.reload.snapshot import SECRET, Snapshot
from dicom_adapter.web.access.access import NO_AE_TITLE
from dicom_adapter.web.access.principal import Role, principal_of
from dicom_adapter.web.admin.commands import NO_PATH, Audits, CommandProcess, RunState
from dicom_adapter.web.admin.routes import ApiValue, Json, conflict, route_arguments, view
from dicom_adapter.web.admin.status import ConfigurationStateView
from dicom_adapter.web.site import Site

TAGS = ["configuration"]
PLAN_SECONDS = 60.0  # time limit for the comparison of the file with the running configuration
APPLY_SECONDS = 2.0  # the request does not wait longer, because a changed table [http] restarts this server
HIDDEN = "secret"  # instead of the value of a secret


class ConfigurationView(ApiValue, frozen=True, kw_only=True):
    """The configuration that the service uses, without secrets, and the newest one."""

    running: ConfigurationStateView | None
    newest: ConfigurationStateView | None  # the last that was requested; it may be refused or not applied yet
    service: Json  # values by key
    submitters: dict[str, Json]
    ae_titles: dict[str, Json]
    plugins: dict[str, str]  # distribution and version by plugin


class RemovalChoice(str, Enum):
    """Treatment of the open work of removed AE titles and submitters."""

    KEEP = "keep"
    DRAIN = "drain"


class Application(ApiValue, frozen=True, kw_only=True):
    """A request to apply the configuration file."""

    removed: RemovalChoice = RemovalChoice.KEEP


class PlanView(ApiValue, frozen=True, kw_only=True):
    """The difference between the running configuration and the file, as `dicom-adapter reload --json` prints it."""

    plan: Json | None  # null if the file is not valid
    applied: int | None  # number of the applied configuration
    problems: list[str]  # why the file was not or cannot be applied
    is_finished: bool = True  # false: the service is still applying it; GET /api/configuration shows the result


class PluginView(ApiValue, frozen=True, kw_only=True):
    """A plugin, or a component that it provides."""

    kind: str
    name: str
    plugin: str
    distribution: str
    version: str
    problem: str
    disabled: str


class AuditRequest(ApiValue, frozen=True, kw_only=True):
    """A request to start an audit."""

    verify: bool = False  # also read every stored object


class AuditView(ApiValue, frozen=True, kw_only=True):
    """The last audit that was started over HTTP since the server has started."""

    state: RunState
    started_at: datetime | None
    finished_at: datetime | None
    by: str
    problem: str  # why it failed
    report: Json | None  # as `dicom-adapter audit --json` prints it


def configuration_routes(site: Site, audits: Audits) -> list[Any]:
    """Return the routes."""
    return [_shown(site), *_reload(site), _plugins(site), *_audit(site, audits)]


def _shown(site: Site) -> Any:
    @get(
        "/api/configuration",
        sync_to_thread=True,
        **route_arguments(
            Role.VIEWER,
            tags=TAGS,
            summary="The configuration in use, without secrets",
            operation_id="showConfiguration",
        ),
    )
    def show() -> ConfigurationView:
        with site.resources.ledger.read() as transaction:
            running, newest = configurations.running(transaction), configurations.newest(transaction)
        settings = None if running is None else Snapshot(**running.settings)
        return ConfigurationView(
            running=_state(running),
            newest=_state(newest),
            service={} if settings is None else _plain(settings.service),
            submitters={} if settings is None else {name: _plain(one) for name, one in settings.submitters.items()},
            ae_titles={} if settings is None else {name: _plain(one) for name, one in settings.ae_titles.items()},
            plugins={} if settings is None else dict(settings.plugins),
        )

    return show


def _state(one: Configuration | None) -> ConfigurationStateView | None:
    return None if one is None else view(configuration_as_json(one), ConfigurationStateView)


def _plain(values: Mapping[str, str]) -> Json:
    return {key: without_secrets(json.loads(value)) for key, value in values.items()}


def without_secrets(value: Any) -> Any:
    """Return a value of a snapshot without the digests of secrets."""
    if isinstance(value, str):
        return HIDDEN if value.startswith(SECRET) else value
    if isinstance(value, dict):
        return {key: without_secrets(part) for key, part in value.items()}
    return [without_secrets(part) for part in value] if isinstance(value, list) else value


def _reload(site: Site) -> list[Any]:
    lock = threading.Lock()  # one command at a time, because each needs the time and memory of a process

    @post(
        "/api/configuration/plan",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR,
            409,
            status_code=200,
            tags=TAGS,
            summary="Compare the configuration file with the running service; changes nothing",
            operation_id="planReload",
        ),
    )
    def plan() -> PlanView:
        found = _run_reload(site, lock, PLAN_SECONDS, "--plan")
        if found is None:
            raise Refused(f"The comparison took longer than {PLAN_SECONDS:g} seconds.")
        return found

    @post(
        "/api/configuration/apply",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR,
            *(409, 413, 415),
            status_code=202,
            tags=TAGS,
            summary="Apply the configuration file to the running service",
            operation_id="applyReload",
        ),
    )
    def apply(request: Request[Any, Any, Any], data: JSONBody[Application]) -> PlanView:
        _record(site, "reload_requested", request, {"removed": data.removed.value})
        found = _run_reload(site, lock, APPLY_SECONDS, "--apply", "--removed", data.removed.value)
        return found or PlanView(plan=None, applied=None, problems=[], is_finished=False)

    return [plan, apply]


def _run_reload(site: Site, lock: threading.Lock, seconds: float, *options: str) -> PlanView | None:
    """Run `dicom-adapter reload`; return None if it takes longer than `seconds`."""
    if not site.path:
        raise conflict(NO_PATH)
    if not lock.acquire(blocking=False):
        raise conflict("Another request compares or applies the file: try again.")
    try:
        finished = CommandProcess("reload", site.path, "--json", *options).wait(seconds)
    finally:
        lock.release()
    if finished is None:
        return None
    if finished.document is None:
        return PlanView(plan=None, applied=None, problems=[finished.problem])
    return view(finished.document, PlanView)


def _plugins(site: Site) -> Any:
    @get(
        "/api/plugins",
        sync_to_thread=False,
        **route_arguments(Role.VIEWER, tags=TAGS, summary="List the loaded plugins", operation_id="listPlugins"),
    )
    def list_plugins() -> list[PluginView]:
        return [view(row, PluginView) for row in plugin_rows(site.plugins)]

    return list_plugins


def _audit(site: Site, audits: Audits) -> list[Any]:
    def current() -> AuditView:
        return AuditView(
            state=audits.state,
            started_at=audits.started_at,
            finished_at=audits.finished_at,
            by=audits.by,
            problem=audits.problem,
            report=audits.report,
        )

    @get(
        "/api/audit",
        sync_to_thread=False,
        **route_arguments(
            Role.VIEWER, tags=["audit"], summary="The last audit and its report", operation_id="showAudit"
        ),
    )
    def show() -> AuditView:
        return current()

    @post(
        "/api/audit",
        sync_to_thread=True,
        **route_arguments(
            Role.OPERATOR,
            *(409, 413, 415),
            status_code=202,
            tags=["audit"],
            summary="Start an audit of ledger and storage",
            operation_id="startAudit",
        ),
    )
    def begin(request: Request[Any, Any, Any], data: JSONBody[AuditRequest]) -> AuditView:
        audits.begin(principal_of(request).name, verify=data.verify)
        _record(site, "audit_started", request, {"verify": data.verify})
        return current()

    return [show, begin]


def _record(site: Site, event: str, request: Request[Any, Any, Any], more: Mapping[str, object]) -> None:
    """Record what an operator has started, with the name."""
    detail = {"by": principal_of(request).name, **more}
    with site.resources.ledger.write() as transaction:
        events.record(
            transaction, [Event(at=site.resources.clock.now(), event=event, ae_title=NO_AE_TITLE, detail=detail)]
        )
