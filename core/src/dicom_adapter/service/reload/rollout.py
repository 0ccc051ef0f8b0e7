"""Rollout of one configuration to the processes: the host first, then all receivers at once.

    waits for     receives                    then
    host          applied, or ready (*)       the receivers get the configuration; the service uses it from now on
    host          not applied, or ended       refused: the host that runs, or is restarted, has the previous one
    receivers     applied, or ended           complete after the last one; a restarted process loads the new one
    receivers     not applied                 the receiver is stopped, and restarted with the new one

(*) from a host that was restarted for the configuration. The host comes first because it knows what to do with
everything that receivers may accept, by the old configuration and by the new one. What it does not know yet waits in
the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST
from dicom_adapter.runtime.channel import APPLIED, ENDED, NOT_APPLIED
from dicom_adapter.service.reload.requests import RolloutResult


class Processes(Protocol):
    """The processes of the service, as a rollout controls them."""

    def configure_host(self, requested: Configuration) -> bool:
        """Send the configuration to the host; False when no host runs: the next one is started with it."""

    def restart_host(self, requested: Configuration) -> bool:
        """Restart the host with the configuration; return whether a host runs that has to end before."""

    def configure_receivers(self) -> set[str]:
        """Send the host's configuration to the receivers; return the names of those that run."""

    def restart_receiver(self, name: str) -> None:
        """Stop a receiver; it is started again with the current configuration."""

    def roll_back(self) -> None:
        """Start processes with the previous configuration from now on."""


class Rollout:
    """One rollout, from its creation to its result. Not thread-safe: used by the supervisor's thread only."""

    def __init__(self, requested: Configuration, processes: Processes) -> None:
        self._processes = processes
        self._waiting = {HOST}
        self._note = ""
        assert requested.request is not None  # the service was not started with it
        self._restarts = requested.request.restart_host or not processes.configure_host(requested)
        # While the old host ends, its reports do not count.
        self._is_ending = self._restarts and processes.restart_host(requested)

    def receive(self, name: str, report: Mapping[str, Any]) -> RolloutResult | None:
        """Receive a report of a process; return the result when the rollout is complete or refused."""
        event = report["event"]
        if name not in self._waiting:
            return None
        if name == HOST:
            return self._receive_from_host(event, report)
        if event == NOT_APPLIED:
            self._processes.restart_receiver(name)
        if event in (APPLIED, NOT_APPLIED, ENDED):
            self._waiting.discard(name)
        return None if self._waiting else RolloutResult(note=self._note)

    def _receive_from_host(self, event: str, report: Mapping[str, Any]) -> RolloutResult | None:
        if self._is_ending:
            self._is_ending = event != ENDED
        elif event == ("ready" if self._restarts else APPLIED):
            hanging = report.get("hanging", ())
            if hanging:
                self._note = (
                    f"the processors of {', '.join(hanging)} hang, and are replaced when their calls return; "
                    "restart the service if they do not"
                )
            self._waiting = self._processes.configure_receivers()
            return None if self._waiting else RolloutResult(note=self._note)
        elif event in (NOT_APPLIED, "failed", ENDED):
            self._processes.roll_back()
            return RolloutResult(refusal=report.get("reason") or f"the host ended with status {report['status']}")
        return None
