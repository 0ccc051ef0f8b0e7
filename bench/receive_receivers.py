"""The receivers that the benchmark compares: dicom-adapter and other products."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from attrs import frozen
from receive_adapter import adapter
from receive_products import (
    find_dcmtk,
    find_orthanc,
    orthanc,
    pynetdicom_application,
    pynetdicom_minimal,
    storescp,
    version_output,
)
from receive_values import Running

Start = Callable[[Path, int], AbstractContextManager[Running]]  # (folder, number of associations) → receiver


@frozen
class Product:
    """A product that must be installed for its receivers."""

    name: str
    find: Callable[[], str | None]  # returns the program of the product, or None if it is not installed
    version: Callable[[], str]  # called only if the product is installed


@frozen(kw_only=True)
class Receiver:
    """A receiver that is measured."""

    key: str  # in results
    name: str  # in tables
    syncs: bool  # whether an instance is on disk before it is acknowledged
    idle_associations: int  # number of associations that are held idle, to measure their cost; 0: it is not measured
    product: Product
    start: Start


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _program_version(find: Callable[[], str | None]) -> str:
    """Return the version number in the first line that the program prints."""
    [number] = re.findall(r"\d+(?:\.\d+)+", version_output(str(find())).partition("\n")[0])
    return str(number)


def _python() -> str:
    """Return the interpreter of this environment, which runs the receivers that are installed in the environment."""
    return sys.executable


ADAPTER = Product("dicom-adapter", _python, partial(_version, "dicom-adapter"))
DCMTK = Product("DCMTK", find_dcmtk, partial(_program_version, find_dcmtk))
ORTHANC = Product("Orthanc", find_orthanc, partial(_program_version, find_orthanc))
PYNETDICOM = Product("pynetdicom", _python, partial(_version, "pynetdicom"))

# `idle_associations`: while they are held, one more association is opened, and some products serve only a few at once.
# Orthanc serves four, so that three are held. DCMTK without --fork serves one, so that nothing is measured. Nothing is
# measured with the busy plugin either: its use of CPU and memory would hide the cost of idle associations.
RECEIVERS = (
    Receiver(key="adapter", name="dicom-adapter", product=ADAPTER, syncs=True, idle_associations=990, start=adapter),
    Receiver(
        key="adapter-busy",
        name="dicom-adapter, busy plugin",
        product=ADAPTER,
        syncs=True,
        idle_associations=0,
        start=partial(adapter, is_busy=True),
    ),
    Receiver(key="orthanc", name="Orthanc", product=ORTHANC, syncs=True, idle_associations=3, start=orthanc),
    Receiver(key="storescp", name="DCMTK storescp", product=DCMTK, syncs=False, idle_associations=0, start=storescp),
    Receiver(
        key="storescp-b",
        name="DCMTK storescp +B",
        product=DCMTK,
        syncs=False,
        idle_associations=0,
        start=partial(storescp, options=("+B",)),
    ),
    Receiver(
        key="storescp-fork",
        name="DCMTK storescp --fork +B",
        product=DCMTK,
        syncs=False,
        idle_associations=40,
        start=partial(storescp, options=("--fork", "+B")),
    ),
    Receiver(
        key="pynetdicom",
        name="pynetdicom storescp",
        product=PYNETDICOM,
        syncs=False,
        idle_associations=8,
        start=pynetdicom_application,
    ),
    Receiver(
        key="pynetdicom-minimal",
        name="minimal pynetdicom SCP",
        product=PYNETDICOM,
        syncs=False,
        idle_associations=40,
        start=pynetdicom_minimal,
    ),
)
