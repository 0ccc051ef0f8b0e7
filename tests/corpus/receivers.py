"""The receivers that the corpus is sent to: the adapter, and receivers of other products that are installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path

import receive_products
from attrs import evolve

from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter, Plugin
from support import grouping

AE_TITLE = "CORPUS"
OWN = "dicom-adapter"
AT_ONCE = 16  # number of associations that are opened at the same time
CONFIGURATION = f"""
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[ae-titles.{AE_TITLE}]
processor = "by-study"
overwrite-same-instance = true
[ae-titles.{AE_TITLE}.settings]
pipeline-one = "p1"
"""
GROUPING = Plugin(grouping)
Open = Callable[[Path], AbstractContextManager[int]]  # runs a receiver in a folder and yields its port


@contextmanager
def adapter(folder: Path) -> Iterator[int]:
    """Run the adapter's receiver in this process."""
    own = Adapter(folder, CONFIGURATION, (GROUPING,))
    receiver = Receiver(own.config, own.resources, None)
    server = DicomServer(evolve(own.config.dicom, bind="127.0.0.1", port=0), receiver)
    try:
        yield server.start()
    finally:
        server.stop(0)
        receiver.close()
        own.close()


@contextmanager
def dcmtk(folder: Path) -> Iterator[int]:
    """Run DCMTK's storescp with all transfer syntaxes that it supports, and a process for each association."""
    with receive_products.storescp(folder, 1, ["+xa", "--fork"]) as running:
        yield running.port


@contextmanager
def orthanc(folder: Path) -> Iterator[int]:
    """Run Orthanc with many threads: each request that it cannot parse occupies a thread for 30 s."""
    with receive_products.orthanc(folder, 1, {"DicomThreadsCount": 64}) as running:
        yield running.port


@contextmanager
def pynetdicom(folder: Path) -> Iterator[int]:
    with receive_products.pynetdicom_application(folder, 1) as running:
        yield running.port


def other_receivers() -> Mapping[str, Open]:
    """Return the receivers of other products that are installed, by name and version."""
    installed: dict[str, Open] = {}
    for name, path, run in (
        ("DCMTK", receive_products.find_dcmtk(), dcmtk),
        ("Orthanc", receive_products.find_orthanc(), orthanc),
    ):
        version = re.search(r"\d+\.\d+\.\d+", receive_products.version_output(path)) if path else None
        if version:
            installed[f"{name} {version[0]}"] = run
    return {**installed, f"pynetdicom {metadata.version('pynetdicom')}": pynetdicom}


def associations_at_once(receiver: Open) -> int:
    """Return how many associations to open. Receivers with a limit also count those that have just ended."""
    return 4 if receiver in (orthanc, pynetdicom) else AT_ONCE
