"""The status of the service as operators see it, in one value for commands and pages."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from dicom_adapter.config.model import Config
from dicom_adapter.flow.acceptance import measure_space
from dicom_adapter.ledger import Transaction
from dicom_adapter.ledger.health import processes
from dicom_adapter.operations.status import (
    AeTitleStatus,
    LedgerStatus,
    Level,
    Problem,
    ServiceState,
    StorageStatus,
    assess,
    gather,
    refusal_of,
    service_state,
    worst_level,
)
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources


@frozen(kw_only=True)
class StatusReport:
    """The facts about the service, and the problems that follow from them."""

    config: Config
    facts: LedgerStatus
    service: ServiceState
    storage: StorageStatus
    problems: list[Problem]

    @property
    def level(self) -> Level:
        return worst_level(self.problems)

    @property
    def pids(self) -> dict[str, int]:
        """The PIDs of the service's processes, by name; empty if the service is not running."""
        if self.service is not ServiceState.RUNNING:
            return {}
        names = processes(self.config.dicom.receivers)
        parts = [part for name in names if (part := self.facts.parts.get(name)) is not None]
        return {part.part: part.pid for part in parts if part.pid is not None}

    def state_of(self, status: AeTitleStatus) -> str:
        """Return the state of an AE title in one or two words."""
        if self.service is not ServiceState.RUNNING and status.is_configured:
            return "not served"
        return "refusing" if status.state == "served" and self.refusal_of(status) else status.state

    def refusal_of(self, status: AeTitleStatus) -> str:
        """Return why an AE title refuses associations or instances; "" if it accepts them, or is not served."""
        if self.service is not ServiceState.RUNNING or not status.is_configured:
            return ""
        refusal = refusal_of(status, self.facts, self.storage, self.config)
        return "" if refusal is None else refusal.reason


def report_of_host(transaction: Transaction, config: Config, resources: Resources, now: datetime) -> StatusReport:
    """Return the status, in the host process of the running service."""
    facts = gather(transaction, config, now, resources.held_sizes.count)
    has_service = DataFolder.of(config).has_service or bool(resources.problem())  # its folder may have been replaced
    service = service_state(facts, service_runs=has_service, host_runs=True)
    storage = _storage_of_host(resources)
    problems = assess(facts, service, storage, config)
    return StatusReport(config=config, facts=facts, service=service, storage=storage, problems=problems)


def _storage_of_host(resources: Resources) -> StorageStatus:
    """Return the status of the opened storage."""
    problem = resources.problem()
    if problem:
        return StorageStatus(capacity=None, failure=problem)
    return StorageStatus.of(measure_space(resources.storage, resources.ledger, resources.problem))
