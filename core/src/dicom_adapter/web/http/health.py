"""`GET /health`: the result of `dicom-adapter status`, for monitoring systems."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from attrs import field, frozen
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.config.model import Config
from dicom_adapter.operations.status import Level, ServiceState
from dicom_adapter.operations.status_report import report_of_host
from dicom_adapter.runtime.resources import Resources


@frozen(kw_only=True)
class Reason:
    """A problem because of which the health is not green."""

    level: str  # "yellow" or "red"
    part: str
    reason: str = field(repr=False)


@frozen(kw_only=True)
class Health:
    """The health of the service."""

    health: str  # "green", "yellow" or "red"
    service: str
    problems: list[Reason]


Examine = Callable[[], Health]


def examine(config: Config, resources: Resources) -> Health:
    """Determine the health of the service, in the host process."""
    try:
        with resources.ledger.read() as transaction:
            report = report_of_host(transaction, config, resources, resources.clock.system_time())
    except LedgerError as failure:
        reasons = [Reason(level=Level.RED.value, part="ledger", reason=str(failure))]
        return Health(health=Level.RED.value, service=ServiceState.RUNNING.value, problems=reasons)
    reasons = [Reason(level=each.level.value, part=each.part, reason=each.reason) for each in report.problems]
    return Health(health=report.level.value, service=report.service.value, problems=reasons)


def health_handler(examine: Examine) -> HTTPRouteHandler:
    """Return the route. It responds to red health with 503, which monitoring systems detect without the body."""

    @get(
        "/health",
        sync_to_thread=True,
        summary="Health of the service and its parts",
        operation_id="health",
        tags=["service"],
        responses={503: ResponseSpec(data_container=Health, description="A part of the service does not work")},
    )
    def health() -> Response[Health]:
        result = examine()
        is_red = result.health == Level.RED.value
        return Response(result, status_code=HTTPStatus.SERVICE_UNAVAILABLE if is_red else HTTPStatus.OK)

    return health
