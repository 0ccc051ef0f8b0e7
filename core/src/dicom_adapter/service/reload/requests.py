"""Requests to reload: they are read from the ledger, and their results are written to the ledger.

The command `dicom-adapter reload` writes a request to the ledger. On SIGHUP, the service runs this command: so each
configuration is checked in a separate process, with the plugins that are installed at that time. Nothing in this module
blocks the supervisor's thread.
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
from dicom_adapter.ledger import configurations
from dicom_adapter.ledger.configurations import Configuration, Draining
from dicom_adapter.ledger.ledger_file import LedgerFile
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import Worker
from dicom_adapter.service.blueprint import Blueprint

log = structlog.get_logger("dicom_adapter.service")

POLL_EVERY = timedelta(seconds=0.5)
RELOAD = "reload"  # the report to the supervisor that a configuration is requested
RELOADED = "reloaded"  # the report to the supervisor that a SIGHUP was handled, with whatever result


@frozen(kw_only=True)
class RolloutResult:
    """The result of a rollout."""

    refusal: str = ""  # why the configuration was not applied; "" if it was applied
    note: str = ""  # a problem, although the configuration was applied


class ReloadRequests:
    """Receiver of requests for other configurations, from `start` to `close`.

    Call `record_configuration` before `start`.
    Two workers run `poll` and `run_command` on their own threads. All other methods are for the supervisor's thread.
    """

    def __init__(
        self, blueprint: Blueprint, ledger: LedgerFile, clock: Clock, report: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """`report` is called on other threads: with RELOAD for each requested configuration, and with RELOADED."""
        self._blueprint = blueprint
        self._is_recorded = False  # the configuration of the start is in the ledger
        self._ledger = ledger
        self._clock = clock
        self._report = report
        self._current: Configuration | None = None  # the configuration whose rollout is in progress
        self._result: RolloutResult | None = None
        self._poller = Worker("reload", self.poll, clock)
        self._caller = Worker("reload on SIGHUP", self.run_command, clock)
        self._hung_up = False  # a SIGHUP was received, and the command was not run yet

    def record_configuration(self) -> None:
        """Record the configuration of the start, with which commands compare files."""
        try:
            self._record_start()
        except LedgerError as failure:  # for example, the disk is full; the first poll retries
            log.warning("configuration_write_failed", error=describe_failure(failure))

    def start(self) -> None:
        """Begin to poll for requests."""
        self._poller.start()
        self._caller.start()

    def finish(self, result: RolloutResult) -> None:
        """Receive the result of the current rollout. `poll` records the result."""
        self._result = result
        self._poller.wake()

    def hang_up(self) -> None:
        """Receive a SIGHUP: apply the changed file."""
        self._hung_up = True
        self._caller.wake()

    def close(self) -> None:
        """Stop polling."""
        for worker in (self._poller, self._caller):
            worker.stop()
        self._poller.join(1.0)

    # --- on the threads of the workers -------------------------------------------------------------------------------

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
        blueprint = self._blueprint
        with self._ledger.write() as transaction:
            configurations.record_start(
                transaction, blueprint.configuration, blueprint.folder, blueprint.settings.to_json(), self._clock.now()
            )
        self._is_recorded = True

    def _next_request(self) -> Configuration | None:
        with self._ledger.read() as transaction:
            requested, running = configurations.requested(transaction), configurations.running(transaction)
        if requested is None or requested.request is None or running is None:
            return None
        with self._ledger.write() as transaction:
            if requested.request.replaces != running.number:
                reason = "another configuration was applied meanwhile: run the command again"
                configurations.mark_refused(transaction, requested.number, reason, self._clock.now())
                return None
            # Recorded before anything is changed, so that the drain survives an interruption of the rollout.
            configurations.set_draining(transaction, running.number, requested.request.draining)
        log.info("reload_started", number=requested.number)
        return requested

    def _record_result(self, requested: Configuration, result: RolloutResult) -> None:
        assert requested.request is not None  # checked by `_next_request`
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
        """Run the command that applies the file if a SIGHUP was received."""
        if not self._hung_up:
            return None
        self._hung_up = False  # before the call, because a SIGHUP during the call means another change
        log.info("reload_signalled", path=self._blueprint.path)
        command = [sys.executable, "-m", "dicom_adapter", "reload", self._blueprint.path, "--apply", "--json"]
        completed = subprocess.run(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        _log_result(completed)
        if self._hung_up:
            return self._clock.now()
        self._report({"event": RELOADED})
        return None


def _log_result(completed: subprocess.CompletedProcess[bytes]) -> None:
    try:
        result = json.loads(completed.stdout)
    except ValueError:  # the command ended early, for example because the file cannot be read
        lines = completed.stderr.decode(errors="replace").splitlines()
        problems = lines or [f"`dicom-adapter reload` ended with status {completed.returncode}"]
        log.error("reload_refused", problems=problems)
        return
    if result["problems"]:
        log.error("reload_refused", problems=result["problems"])
    elif result["applied"] is None:
        log.info("reload_not_needed")
