"""A system clock for the service that is put forward and back, without the rights to set the clock of the machine.

The service adds an offset to the time of the machine, and reads the offset from a file. The folder `stepped_clock` is
first in the service's PYTHONPATH. Its `sitecustomize` adds the offset to `time.time` and `time.time_ns` in all
processes of the service. The times of log entries and files have no offset.
"""

from __future__ import annotations

import os
import shlex
import struct
import sys
import time
from pathlib import Path
from random import Random

from attrs import frozen

OFFSET = struct.Struct("=q")  # nanoseconds, as in `stepped_clock/sitecustomize.py`
VARIABLE = "FAULTS_CLOCK"  # environment variable with the path of the file
SITE = Path(__file__).resolve().parent / "stepped_clock"
LARGEST_STEPS = (2.0, 60.0, 3600.0, 86400.0)  # seconds, forward or back
START_OFFSET = 1.0  # seconds: largest offset at a start of the service
SLEW = 0.1  # rate at which the clock of the service approaches the system clock
MARGIN = 0.5  # seconds between a change of the offset and the reaction of the service, on a busy machine


@frozen
class ClockRange:
    """The difference of the service's clock to that of senders and composer, during the whole run."""

    behind: float = 0.0  # seconds; not negative
    ahead: float = 0.0


class ServiceClock:
    """The system clock that the service reads.

    The service also has a clock of its own, which follows the system clock slowly (SLEW). `range` is the range of that
    clock, calculated from the steps.

    Before each start of the service the system clock is set almost right. Otherwise the times in the ledger would be
    hours wrong, and `faults.count` could not compare them with the times of requests.
    """

    def __init__(self, file: Path, random: Random) -> None:
        self.steps = 0
        self._file = file
        self._random = random
        self._system = self._own = 0.0  # offsets of the system clock and of the service's clock, in seconds
        self._changed_at = time.monotonic()
        self._lowest = self._highest = 0.0
        self._write(0.0)
        self.python = file.with_suffix(".sh")  # a Python interpreter with this clock
        self.python.write_text(_script(file), encoding="utf-8")
        self.python.chmod(0o700)

    def step(self) -> None:
        """Put the clock forward or back while the service runs."""
        self._advance()
        largest = self._random.choice(LARGEST_STEPS)
        self._write(self._random.uniform(-largest, largest))
        self.steps += 1

    def set_for_start(self) -> None:
        """Set the clock almost right: the service starts, and its clock begins at this time."""
        self._start_at(self._random.uniform(-START_OFFSET, START_OFFSET))

    @property
    def range(self) -> ClockRange:
        """The range of the service's clock so far."""
        self._advance()
        return ClockRange(behind=MARGIN - self._lowest, ahead=MARGIN + self._highest) if self.steps else ClockRange()

    def _start_at(self, offset: float) -> None:
        self._advance()
        offset = offset if self.steps else 0.0
        self._write(offset)
        self._own = offset
        self._note()

    def _advance(self) -> None:
        """Move the calculated offset of the service's clock towards the system clock."""
        now = time.monotonic()
        limit = SLEW * (now - self._changed_at)
        self._own += max(-limit, min(limit, self._system - self._own))
        self._changed_at = now
        self._note()

    def _note(self) -> None:
        self._lowest, self._highest = min(self._lowest, self._own), max(self._highest, self._own)

    def _write(self, offset: float) -> None:
        self._system = offset
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, OFFSET.pack(round(offset * 1e9)), 0)
        finally:
            os.close(descriptor)


def _script(file: Path) -> str:
    path = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH"))))
    return (
        f"#!/bin/sh\n"
        f"export PYTHONPATH={shlex.quote(path)} {VARIABLE}={shlex.quote(str(file))}\n"
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
