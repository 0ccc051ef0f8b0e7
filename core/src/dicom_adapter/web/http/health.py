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
from dicom_adapter.flow.acceptance import measure_space
from dicom_adapter.operations.status import (
    Level,
    ServiceState,
    StorageStatus,
    assess,
    gather,
    service_state,
    worst_level,
)
from dicom_adapter.runtime.data_folder import DataFolder
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
            facts = gather(transaction, config, resources.clock.system_time())
    except LedgerError as failure:
        reasons = [Reason(level=Level.RED.value, part="ledger", reason=str(failure))]
        return Health(health=Level.RED.value, service=ServiceState.RUNNING.value, problems=reasons)
    has_service = DataFolder.of(config).has_service or bool(resources.problem())  # its folder may have been replaced
    service = service_state(facts, service_runs=has_service, host_runs=True)
    problems = assess(facts, service, _storage_status(resources), config)
    reasons = [Reason(level=each.level.value, part=each.part, reason=each.reason) for each in problems]
    return Health(health=worst_level(problems).value, service=service.value, problems=reasons)


def _storage_status(resources: Resources) -> StorageStatus:
    problem = resources.problem()
    if problem:
        return StorageStatus(capacity=None, failure=problem)
    return StorageStatus.of(measure_space(resources.storage, resources.ledger, resources.problem))


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
