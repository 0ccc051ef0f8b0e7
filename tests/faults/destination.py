"""A destination of results: a real product, which fails in many ways while results are delivered to it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import TypeAlias

from faults.disk import DestinationDisk
from faults.evidence import PlatformFile
from faults.link import DestinationLink
from faults.products import PRODUCTS, DestinationProduct, ProductMissing
from support.requirements import VARIABLE, is_required
from support.restartable import free_ports

CALM_SECONDS = (0.5, 6.0)  # between two faults
FAULT_SECONDS = (0.5, 8.0)  # of a fault; some are longer than the time limits of the adapter
PAUSES = (0.1, 1.0)  # seconds before each piece of data on a slow link
BREAKS_THERE, BREAKS_BACK = (1, 60_000), (1, 1200)  # bytes; an association request has about 300

Fault: TypeAlias = Callable[[], AbstractContextManager[None]]


class Destination:
    """One product, the link to it, and its disk. `faults` counts the faults by kind."""

    def __init__(self, product: DestinationProduct, disk: DestinationDisk, random: Random) -> None:
        self.name = product.name
        self.faults: Counter[str] = Counter()
        self._product = product
        self._disk = disk
        self._random = random
        [port] = free_ports(1)
        self._link = DestinationLink(port, product.port, random)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"destination {self.name}", daemon=True)
        self._failure: Exception | None = None

    def configuration(self, retries: str) -> str:
        """Return the table of the submitter."""
        return f"\n[submitters.{self.name}]{self._product.settings(self._link.port)}{retries}\n"

    def start(self) -> None:
        """Start the product, and begin and end faults from now on."""
        self._product.start()
        self._link.open()
        self._thread.start()

    def calm_down(self) -> None:
        """End the faults. Raises the exception that has ended them earlier, if any."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._failure is not None:
            raise RuntimeError(f"the faults of {self.name} have ended: {self._failure}") from self._failure

    def ensure_running(self) -> None:
        """Start the product if it has ended unexpectedly."""
        if not self._product.process.is_running:
            self.faults["ended"] += 1
            self._product.start()

    def files(self) -> tuple[PlatformFile, ...]:
        """Return the instances that the product has."""
        self.ensure_running()
        self._product.wait()
        return self._product.files()

    def end(self) -> None:
        """Kill the product, and unmount its disk. Idempotent."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._link.close()
        self._product.process.kill()
        self._disk.end()

    # --- the faults -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        faults: dict[str, Fault] = {
            "killed": self._killed,
            "stopped": self._stopped,
            "slow": self._slow,
            "breaking connections": self._breaking,
            "failing": self._failing,
        }
        if self._product.is_web:
            faults["unavailable"] = lambda: self._link.with_faults(is_unavailable=True)
        if self._disk.can_be_full:
            faults["full"] = self._disk.full
        try:
            while not self._ending.wait(self._random.uniform(*CALM_SECONDS)):
                name = self._random.choice(list(faults))
                with faults[name]():
                    self.faults[name] += 1
                    self._ending.wait(self._random.uniform(*FAULT_SECONDS))
                self.ensure_running()
        except Exception as failure:  # noqa: BLE001 - raised by `calm_down` in the main thread
            self._failure = failure

    @contextmanager
    def _killed(self) -> Iterator[None]:
        """Kill the product. Until it is started again, connections are refused."""
        with self._link.closed():
            self._product.process.kill()
            yield
            self._product.start()

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self._product.process.pause()
        yield
        self._product.process.resume()

    def _slow(self) -> AbstractContextManager[None]:
        return self._link.with_faults(pause=self._random.uniform(*PAUSES))

    def _breaking(self) -> AbstractContextManager[None]:
        if self._random.random() < 0.5:
            return self._link.with_faults(there=BREAKS_THERE)
        return self._link.with_faults(back=BREAKS_BACK)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        self._product.process.kill()
        self._product.start_failing(self._random)
        yield
        self._product.process.kill()
        self._product.start()


def make_destinations(folder: Path, seed: str) -> tuple[list[Destination], list[str]]:
    """Return the destinations whose products are installed, and what is left out, with the reason.

    Raises RuntimeError if something is missing that is required.
    """
    made: list[Destination] = []
    left_out: list[str] = []
    try:
        for kind in PRODUCTS:
            try:
                product = kind(folder / kind.name / "program", folder / kind.name / "disk")
            except ProductMissing as missing:
                left_out.append(f"{kind.name}: {missing}")
                continue
            disk = DestinationDisk(folder / kind.name / "disk")
            made.append(Destination(product, disk, Random(f"{seed}/{kind.name}")))
            if not disk.can_be_full:
                left_out.append(f"{kind.name}: full disks, because {_no_tmpfs()}")
    except BaseException:
        for destination in made:
            destination.end()
        raise
    return made, left_out


def _no_tmpfs() -> str:
    """Return the reason. Raises RuntimeError if full disks are required."""
    if is_required("tmpfs"):
        raise RuntimeError(f"no tmpfs can be mounted, and {VARIABLE} requires it")
    return "no tmpfs can be mounted"
