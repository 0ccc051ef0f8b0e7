"""How the service hears of other configurations, through the ledger, and says what became of them.

Commands ask in the ledger; a SIGHUP has the service call such a command itself, so that both are checked alike: in a
process of its own, with the plugins that are installed at that time. Nothing here holds up the service's own thread.
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
from sqlalchemy.exc import SQLAlchemyError

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.ledger import Ledger, configurations
from dicom_adapter.ledger.configurations import Configuration, Leaving
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.workers import Worker
from dicom_adapter.service.reload.snapshot import Snapshot

log = structlog.get_logger("dicom_adapter.service")

LOOK_EVERY = timedelta(seconds=0.5)
RELOAD = "reload"  # the report to the service that a configuration is asked for


@frozen(kw_only=True)
class Begun:
    """What the service was started with."""

    path: str  # of the configuration file
    text: str
    folder: str
    settings: Snapshot


@frozen(kw_only=True)
class Outcome:
    """What became of a configuration that was asked for."""

    refusal: str = ""  # why it does not run; "" when it does
    note: str = ""  # what is not as it should be, although it runs


class Asking:
    """From `begin` to `close`; everything but the two workers' steps is for the service's own thread."""

    def __init__(self, begun: Begun, ledger: Ledger, clock: Clock, tell: Callable[[Mapping[str, Any]], None]) -> None:
        """`tell` is called, on another thread, with the report of a configuration that is asked for."""
        self._begun: Begun | None = begun  # None: it is written down
        self._path = begun.path
        self._ledger = ledger
        self._clock = clock
        self._tell = tell
        self._under_way: Configuration | None = None
        self._outcome: Outcome | None = None
        self._looking = Worker("reload", self.look, clock)
        self._calling = Worker("reload on SIGHUP", self.call, clock)
        self._hung_up = False

    def begin(self) -> None:
        """Write down what the service was started with: before anybody has reached it, and compares with what runs."""
        try:
            self._write_down()
        except SQLAlchemyError as failure:  # such as a full disk: the first look tries again
            log.warning("configuration_not_written", error=describe_failure(failure))

    def start(self) -> None:
        """Begin to look."""
        self._looking.start()
        self._calling.start()

    def finished(self, outcome: Outcome) -> None:
        """The configuration that was told of runs, or does not."""
        self._outcome = outcome
        self._looking.wake()

    def hang_up(self) -> None:
        """There was a SIGHUP: the file has changed."""
        self._hung_up = True
        self._calling.wake()

    def close(self) -> None:
        """Look no longer."""
        for worker in (self._looking, self._calling):
            worker.stop()
        self._looking.join(1.0)

    # --- on threads of their own ------------------------------------------------------------------------------------

    def look(self) -> datetime | None:
        """Look what is asked for, and write down what became of it. What fails is tried again."""
        self._write_down()
        if self._under_way is not None:
            if self._outcome is None:
                return None
            self._settle(self._under_way, self._outcome)
            self._under_way = self._outcome = None
        asked = self._next()
        if asked is not None:
            self._under_way = asked
            self._tell({"event": RELOAD, "asked": asked})
        return self._clock.now() + LOOK_EVERY

    def _write_down(self) -> None:
        begun = self._begun
        if begun is None:
            return
        with self._ledger.write() as transaction:
            configurations.begin(transaction, begun.text, begun.folder, begun.settings.to_json(), self._clock.now())
        self._begun = None

    def _next(self) -> Configuration | None:
        with self._ledger.read() as transaction:
            asked, running = configurations.asked(transaction), configurations.running(transaction)
        if asked is None or asked.wanted is None or running is None:
            return None
        with self._ledger.write() as transaction:
            if asked.wanted.replaces != running.number:
                why = "another configuration was applied meanwhile: compare again, then apply"
                configurations.refuse(transaction, asked.number, why, self._clock.now())
                return None
            # Before anything is changed: whatever is interrupted then, what leaves is not forgotten.
            configurations.let_leave(transaction, running.number, asked.wanted.leaving)
        log.info("reload_begun", number=asked.number)
        return asked

    def _settle(self, asked: Configuration, outcome: Outcome) -> None:
        assert asked.wanted is not None  # or it would not have been told of
        now = self._clock.now()
        with self._ledger.write() as transaction:
            if outcome.refusal:
                configurations.refuse(transaction, asked.number, outcome.refusal, now)
                configurations.let_leave(transaction, asked.wanted.replaces, Leaving())
            else:
                configurations.run(transaction, asked.number, outcome.note, now)
        if outcome.refusal:
            log.error("reload_failed", number=asked.number, reason=outcome.refusal)
        elif outcome.note:
            log.error("reload_not_complete", number=asked.number, reason=outcome.note)
        else:
            log.info("reload_applied", number=asked.number)

    def call(self) -> datetime | None:
        """Have the file applied, if there was a SIGHUP."""
        if not self._hung_up:
            return None
        self._hung_up = False  # before: another SIGHUP meanwhile is another change
        log.info("reload_called", path=self._path)
        command = [sys.executable, "-m", "dicom_adapter", "reload", self._path, "--apply", "--json"]
        called = subprocess.run(  # noqa: S603 - ourselves
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        _tell_result(called)
        return self._clock.now() if self._hung_up else None


def _tell_result(called: subprocess.CompletedProcess[bytes]) -> None:
    try:
        result = json.loads(called.stdout)
    except ValueError:  # it ended early, such as for a file that cannot be read
        said = called.stderr.decode(errors="replace").splitlines()
        log.error("reload_refused", problems=said or [f"`dicom-adapter reload` ended with status {called.returncode}"])
        return
    if result["problems"]:
        log.error("reload_refused", problems=result["problems"])
    elif result["applied"] is None:
        log.info("reload_not_needed")
