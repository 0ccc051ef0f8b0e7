"""Rollout of one configuration to the processes: first the host, then all receivers at the same time.

    waits for   report                         action
    the host    applied, or ready (*)          send the configuration to the receivers, and use it for restarts
    the host    not applied, failed or ended   refuse the configuration; the host keeps the previous configuration, or
                                               is restarted with it if the host failed or ended
    receivers   applied, or ended              complete after the last receiver has reported; a receiver that ended is
                                               restarted with the new configuration
    receivers   not applied                    stop the receiver; it is restarted with the new configuration

(*) A host that was restarted for the configuration reports "ready". The host is the first because it must serve every
AE title for which receivers accept instances. Instances for AE titles that a host does not serve wait in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST
from dicom_adapter.runtime.channel import APPLIED, ENDED, FAILED, NOT_APPLIED
from dicom_adapter.service.reload.requests import RolloutResult


class Processes(Protocol):
    """The processes of the service, as a rollout controls them."""

    def configure_host(self, requested: Configuration) -> bool:
        """Send the configuration to the host. Return False if no host runs: the next host starts with it."""

    def restart_host(self, requested: Configuration) -> bool:
        """Restart the host with the configuration. Return True if a host runs: it must end first."""

    def configure_receivers(self) -> set[str]:
        """Send the configuration that the host has applied to the running receivers. Return their names."""

    def restart_receiver(self, name: str) -> None:
        """Stop a receiver, which is then started again with the current configuration."""

    def roll_back(self) -> None:
        """Start processes with the previous configuration from now on."""


class Rollout:
    """One rollout, from its creation to its result. Not thread-safe: used by the supervisor's thread only."""

    def __init__(self, requested: Configuration, processes: Processes) -> None:
        self._processes = processes
        self._awaited = {HOST}  # names of the processes whose reports are missing
        self._note = ""
        assert requested.request is not None  # only the configuration at the start of the service has no request
        self._restarts_host = requested.request.restart_host
        if not self._restarts_host:
            is_sent = processes.configure_host(requested)
            self._restarts_host = not is_sent  # no host runs: the next host starts with the configuration
        # Reports of the old host, if there is one, are ignored until it has ended.
        self._is_old_host_ending = self._restarts_host and processes.restart_host(requested)

    def receive(self, name: str, report: Mapping[str, Any]) -> RolloutResult | None:
        """Receive a report of a process. Return the result when the rollout is complete or refused."""
        event = report["event"]
        if name not in self._awaited:
            return None
        if name == HOST:
            return self._receive_from_host(event, report)
        if event == NOT_APPLIED:
            self._processes.restart_receiver(name)
        if event in (APPLIED, NOT_APPLIED, ENDED):
            self._awaited.discard(name)
        return None if self._awaited else RolloutResult(note=self._note)

    def _receive_from_host(self, event: str, report: Mapping[str, Any]) -> RolloutResult | None:
        if self._is_old_host_ending:
            self._is_old_host_ending = event != ENDED
        elif event == ("ready" if self._restarts_host else APPLIED):
            hanging = report.get("hanging", ())
            if hanging:
                self._note = (
                    f"the processors of {', '.join(hanging)} hang, and are replaced when their calls return; "
                    "if these calls do not return, restart the service"
                )
            self._awaited = self._processes.configure_receivers()
            return None if self._awaited else RolloutResult(note=self._note)
        elif event in (NOT_APPLIED, FAILED, ENDED):
            self._processes.roll_back()
            return RolloutResult(refusal=report.get("reason") or f"the host ended with status {report['status']}")
        return None
