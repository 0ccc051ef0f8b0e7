"""Requests to reload: received through the ledger, answered there.

A command writes its request to the ledger. On SIGHUP the service runs the same command itself, so that both check a
configuration alike: in a process of its own, with the plugins that are installed at that time. Nothing here blocks the
supervisor's thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import LedgerError, describe_failure
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.configurations import Configuration, Draining
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import Worker
from dicom_adapter.service.blueprint import Blueprint

log = structlog.get_logger("dicom_adapter.service")

POLL_EVERY = timedelta(seconds=0.5)
RELOAD = "reload"  # the report to the supervisor that a configuration is requested


@frozen(kw_only=True)
class RolloutResult:
    """The result of a rollout."""

    refusal: str = ""  # why the configuration does not run; "" when it does
    note: str = ""  # what is not as it should be, although it runs


class ReloadRequests:
    """Requests for other configurations, from `begin` to `close`.

    The steps of the two workers run on threads of their own; everything else is for the supervisor's thread.
    """

    def __init__(
        self, blueprint: Blueprint, ledger: Ledger, clock: Clock, report: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """`report` is called, on another thread, with a RELOAD report for each requested configuration."""
        self._blueprint = blueprint
        self._is_recorded = False  # the ledger has the configuration that the service was started with
        self._ledger = ledger
        self._clock = clock
        self._report = report
        self._current: Configuration | None = None  # the rollout of this one is in progress
        self._result: RolloutResult | None = None
        self._poller = Worker("reload", self.poll, clock)
        self._caller = Worker("reload on SIGHUP", self.run_command, clock)
        self._hung_up = False

    def begin(self) -> None:
        """Record what the service was started with, before a command can compare with it."""
        try:
            self._record_start()
        except LedgerError as failure:  # such as a full disk: the first poll retries
            log.warning("configuration_write_failed", error=describe_failure(failure))

    def start(self) -> None:
        """Begin to poll for requests."""
        self._poller.start()
        self._caller.start()

    def finish(self, result: RolloutResult) -> None:
        """Receive the result of the current rollout."""
        self._result = result
        self._poller.wake()

    def hang_up(self) -> None:
        """Receive a SIGHUP: the file has changed."""
        self._hung_up = True
        self._caller.wake()

    def close(self) -> None:
        """Stop polling."""
        for worker in (self._poller, self._caller):
            worker.stop()
        self._poller.join(1.0)

    # --- on threads of their own ------------------------------------------------------------------------------------

    def poll(self) -> datetime | None:
        """Record the result of the current rollout, then report the next request. Failures are retried."""
        self._record_start()
        if self._current is not None:
            if self._result is None:
                return None
            self._record_result(self._current, self._result)
            self._current = self._result = None
        requested = self._next_request()
        if requested is not None:
            self._current = requested
            self._report({"event": RELOAD, "requested": requested})
        return self._clock.now() + POLL_EVERY

    def _record_start(self) -> None:
        if self._is_recorded:
            return
        begun = self._blueprint
        with self._ledger.write() as transaction:
            configurations.record_start(
                transaction, begun.configuration, begun.folder, begun.settings.to_json(), self._clock.now()
            )
        self._is_recorded = True

    def _next_request(self) -> Configuration | None:
        with self._ledger.read() as transaction:
            requested, running = configurations.requested(transaction), configurations.running(transaction)
        if requested is None or requested.request is None or running is None:
            return None
        with self._ledger.write() as transaction:
            if requested.request.replaces != running.number:
                why = "another configuration was applied meanwhile: compare again, then apply"
                configurations.mark_refused(transaction, requested.number, why, self._clock.now())
                return None
            # Before anything is changed: a drain survives whatever interrupts the rollout.
            configurations.set_draining(transaction, running.number, requested.request.draining)
        log.info("reload_started", number=requested.number)
        return requested

    def _record_result(self, requested: Configuration, result: RolloutResult) -> None:
        assert requested.request is not None  # or it would not have been reported
        now = self._clock.now()
        with self._ledger.write() as transaction:
            if result.refusal:
                configurations.mark_refused(transaction, requested.number, result.refusal, now)
                configurations.set_draining(transaction, requested.request.replaces, Draining())
            else:
                configurations.mark_running(transaction, requested.number, result.note, now)
        if result.refusal:
            log.error("reload_failed", number=requested.number, reason=result.refusal)
        elif result.note:
            log.error("reload_incomplete", number=requested.number, reason=result.note)
        else:
            log.info("reload_applied", number=requested.number)

    def run_command(self) -> datetime | None:
        """Run the command that applies the file, if a SIGHUP was received."""
        if not self._hung_up:
            return None
        self._hung_up = False  # before the call: another SIGHUP meanwhile is another change
        log.info("reload_signalled", path=self._blueprint.path)
        command = [sys.executable, "-m", "dicom_adapter", "reload", self._blueprint.path, "--apply", "--json"]
        completed = subprocess.run(  # noqa: S603 - ourselves
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        _log_result(completed)
        return self._clock.now() if self._hung_up else None


def _log_result(completed: subprocess.CompletedProcess[bytes]) -> None:
    try:
        result = json.loads(completed.stdout)
    except ValueError:  # it ended early, for example because the file cannot be read
        lines = completed.stderr.decode(errors="replace").splitlines()
        problems = lines or [f"`dicom-adapter reload` ended with status {completed.returncode}"]
        log.error("reload_refused", problems=problems)
        return
    if result["problems"]:
        log.error("reload_refused", problems=result["problems"])
    elif result["applied"] is None:
        log.info("reload_not_needed")
