"""Faults of the machine and the network around the adapter, while it runs and is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

from faults.adapter import Adapter
from faults.silence import ADDRESSES, silent_connections

# Share of the kills with each fault, which begins before the kill.
CLOCK_STEP = 0.3
STOPPED_READER = 0.25
LOST_MOUNT = 0.15
SILENCE = 0.1
FOR_GOOD = 0.3  # share of the stopped readers that stay stopped until the service ends
MAX_CONNECTIONS = 300  # to one port


class Surroundings:
    """The choice of the faults. `faults` counts them by kind."""

    def __init__(self, adapter: Adapter, random: Random) -> None:
        self.faults: Counter[str] = Counter()
        self._adapter = adapter
        self._random = random

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """Begin some of the faults, or none, and end them with the block."""
        with ExitStack() as ending:
            if self._happens(CLOCK_STEP) and self._adapter.step_clock():
                self.faults["clock steps"] += 1
            if self._happens(STOPPED_READER):
                self._stop_reader(ending)
            for port in (self._adapter.port, self._adapter.http_port):
                if self._happens(SILENCE):
                    number, address = self._random.randint(1, MAX_CONNECTIONS), self._random.choice(ADDRESSES)
                    ending.enter_context(silent_connections(port, number, address))
                    self.faults["crowds of silent connections"] += 1
            if self._happens(LOST_MOUNT):
                ending.callback(self._adapter.mount.restore)
                self._adapter.mount.lose()
                self.faults["lost mounts"] += 1
            yield

    def _stop_reader(self, ending: ExitStack) -> None:
        self._adapter.stop_log_reader()
        # The campaign learns from the log when the service listens, so the log must be read until then.
        if self._happens(FOR_GOOD) and self._adapter.listens:
            self.faults["log readers stopped for good"] += 1
        else:
            ending.callback(self._adapter.continue_log_reader)
            self.faults["log readers stopped for a while"] += 1

    def _happens(self, share: float) -> bool:
        return self._random.random() < share
