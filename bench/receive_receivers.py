"""The receivers that the benchmark compares: dicom-adapter and its neighbours."""

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
from receive_neighbours import (
    find_dcmtk,
    find_orthanc,
    orthanc,
    pynetdicom_application,
    pynetdicom_minimal,
    storescp,
    told_version,
)
from receive_values import Running

Start = Callable[[Path, int], AbstractContextManager[Running]]  # in a folder, for so many associations


@frozen
class Product:
    """What has to be installed."""

    name: str
    find: Callable[[], str | None]  # its program; None when it is not installed
    version: Callable[[], str]  # asked only when it is


@frozen(kw_only=True)
class Receiver:
    """Something that receives instances."""

    key: str  # in results
    name: str  # in tables
    syncs: bool  # whether an instance is on disk before it is acknowledged
    holds: int  # associations that it is asked to hold while one more comes
    product: Product
    start: Start


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _version_told(find: Callable[[], str | None]) -> str:
    """The number in the first line of what the program says about its version."""
    [number] = re.findall(r"\d+(?:\.\d+)+", told_version(str(find())).partition("\n")[0])
    return str(number)


def _python() -> str:
    """What comes with this environment."""
    return sys.executable


ADAPTER = Product("dicom-adapter", _python, partial(_version, "dicom-adapter"))
DCMTK = Product("DCMTK", find_dcmtk, partial(_version_told, find_dcmtk))
ORTHANC = Product("Orthanc", find_orthanc, partial(_version_told, find_orthanc))
PYNETDICOM = Product("pynetdicom", _python, partial(_version, "pynetdicom"))

# `holds`: some neighbours serve few associations at a time, DCMTK's single process one, Orthanc four. A busy plugin's
# use of CPU and memory hides what idle associations cost.
RECEIVERS = (
    Receiver(key="adapter", name="dicom-adapter", product=ADAPTER, syncs=True, holds=990, start=adapter),
    Receiver(
        key="adapter-busy",
        name="dicom-adapter, busy plugin",
        product=ADAPTER,
        syncs=True,
        holds=0,
        start=partial(adapter, is_busy=True),
    ),
    Receiver(key="orthanc", name="Orthanc", product=ORTHANC, syncs=True, holds=3, start=orthanc),
    Receiver(key="storescp", name="DCMTK storescp", product=DCMTK, syncs=False, holds=0, start=storescp),
    Receiver(
        key="storescp-b",
        name="DCMTK storescp +B",
        product=DCMTK,
        syncs=False,
        holds=0,
        start=partial(storescp, options=("+B",)),
    ),
    Receiver(
        key="storescp-fork",
        name="DCMTK storescp --fork +B",
        product=DCMTK,
        syncs=False,
        holds=40,
        start=partial(storescp, options=("--fork", "+B")),
    ),
    Receiver(
        key="pynetdicom",
        name="pynetdicom storescp",
        product=PYNETDICOM,
        syncs=False,
        holds=8,
        start=pynetdicom_application,
    ),
    Receiver(
        key="pynetdicom-minimal",
        name="minimal pynetdicom SCP",
        product=PYNETDICOM,
        syncs=False,
        holds=40,
        start=pynetdicom_minimal,
    ),
)
