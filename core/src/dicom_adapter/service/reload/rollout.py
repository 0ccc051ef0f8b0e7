"""One configuration on its way to the processes: the host first, then all receivers at once.

    waits for     hears                  then
    host          taken, or ready (*)    the receivers are given it; the service works with it from now on
    host          not taken, or gone     refused: the host that runs, or comes back, has the earlier one
    receivers     taken, or gone         done, when it was the last one; who is gone comes back with the new one
    receivers     not taken              it is stopped, and comes back with the new one

(*) of a host that was restarted for it. The host comes first because it knows what to do with everything that
receivers may take, by the old configuration and by the new one; what it has not yet heard of waits in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.ledger.health import HOST
from dicom_adapter.runtime.channel import GONE, NOT_TAKEN, TAKEN
from dicom_adapter.service.reload.requests import Outcome


class Processes(Protocol):
    """What the service does for it."""

    def give_host(self, asked: Configuration) -> bool:
        """Have the host work with it; whether there is one that could, else it is started with it."""

    def restart_host(self, asked: Configuration) -> bool:
        """Have another host begin with it; whether there is one that has to end before."""

    def give_receivers(self) -> set[str]:
        """Have the receivers work with what the host works with; returns the names of those that run."""

    def renew_receiver(self, name: str) -> None:
        """Have a receiver begin anew."""

    def go_back(self) -> None:
        """Have whatever is started work with the earlier one."""


class Passing:
    """Used by one thread."""

    def __init__(self, asked: Configuration, processes: Processes) -> None:
        self._asked = asked
        self._processes = processes
        self._waiting = {HOST}
        self._note = ""
        assert asked.wanted is not None  # it is asked for
        self._restarts = asked.wanted.restart_host or not processes.give_host(asked)
        self._is_ending = self._restarts and processes.restart_host(asked)  # the old host, whose words do not count

    def hear(self, name: str, report: Mapping[str, Any]) -> Outcome | None:
        """A process has said something; returns the outcome when there is one."""
        event = report["event"]
        if name not in self._waiting:
            return None
        if name == HOST:
            return self._hear_host(event, report)
        if event == NOT_TAKEN:
            self._processes.renew_receiver(name)
        if event in (TAKEN, NOT_TAKEN, GONE):
            self._waiting.discard(name)
        return None if self._waiting else Outcome(note=self._note)

    def _hear_host(self, event: str, report: Mapping[str, Any]) -> Outcome | None:
        if self._is_ending:
            self._is_ending = event != GONE
        elif event == ("ready" if self._restarts else TAKEN):
            hanging = report.get("hanging", ())
            if hanging:
                self._note = (
                    f"the processors of {', '.join(hanging)} hang, and are exchanged when they come to an end; "
                    "restart the service if they do not"
                )
            self._waiting = self._processes.give_receivers()
            return None if self._waiting else Outcome(note=self._note)
        elif event in (NOT_TAKEN, "failed", GONE):
            self._processes.go_back()
            return Outcome(refusal=report.get("reason") or f"the host ended with status {report['status']}")
        return None
