"""The products to which results are delivered: DCMTK's storescp, and Orthanc over C-STORE and over DICOMweb."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import receive_products
from pydicom.errors import InvalidDicomError

from faults.evidence import PlatformFile, platform_file
from support import orthanc_archive, storescp_node
from support.orthanc_archive import OrthancArchive, find_orthanc
from support.requirements import VARIABLE, is_required
from support.restartable import RestartableProcess
from support.storescp_node import StorescpNode

# A Lua script with which Orthanc answers each HTTP request with 403.
FORBID = "function IncomingHttpRequestFilter() return false end\n"


class ProductMissing(Exception):
    """A product is not installed."""


class DestinationProduct(ABC):
    """A product with an empty archive on a disk."""

    name: ClassVar[str]  # of the destination, a submitter
    is_web: ClassVar[bool] = False  # DICOMweb, not C-STORE
    process: RestartableProcess
    port: int

    @abstractmethod
    def start(self) -> None:
        """Start it, and do not wait until it answers."""

    @abstractmethod
    def start_failing(self, random: Random) -> None:
        """Start it in a way in which it fails, or answers slowly."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until it answers."""

    @abstractmethod
    def files(self) -> tuple[PlatformFile, ...]:
        """Return the instances that it has. It is running."""

    @abstractmethod
    def settings(self, port: int) -> str:
        """Return the settings of the submitter that delivers to `port`."""


class Storescp(DestinationProduct):
    """DCMTK's storescp."""

    name = "storescp"
    FAILURES = (("--abort-after",), ("--abort-during",), ("--refuse",), ("--sleep-after", "1"), ("--sleep-during", "1"))

    def __init__(self, folder: Path, disk: Path) -> None:
        program = receive_products.find_dcmtk()
        if program is None:
            raise _missing("dcmtk", "DCMTK's storescp is not installed")
        self.process = self._node = StorescpNode(program, folder, disk)
        self.port = self._node.port

    def start(self) -> None:
        self._node.start()

    def start_failing(self, random: Random) -> None:
        self._node.start(*random.choice(self.FAILURES))

    def wait(self) -> None:
        self._node.wait()

    def files(self) -> tuple[PlatformFile, ...]:
        return tuple(map(_stored, self._node.files()))

    def settings(self, port: int) -> str:
        return _dicom(port, storescp_node.AE_TITLE)


class OrthancNode(DestinationProduct):
    """Orthanc, over C-STORE."""

    name = "orthanc"
    FAILURES: tuple[Mapping[str, Any], ...] = (
        {"DicomCheckCalledAet": True, "DicomAet": "ANOTHER"},  # rejects associations
        {"DicomAlwaysAllowStore": False},  # refuses to store
    )

    def __init__(self, folder: Path, disk: Path) -> None:
        program, missing = find_orthanc()
        if program is None:
            raise _missing("orthanc", missing)
        self.process = self._archive = OrthancArchive(
            program, folder, StorageDirectory=str(disk), IndexDirectory=str(disk)
        )
        self._folder = folder
        self.port = self._archive.http_port if self.is_web else self._archive.dicom_port

    def start(self) -> None:
        self._archive.start()

    def start_failing(self, random: Random) -> None:
        self._archive.start(**random.choice(self.FAILURES))

    def wait(self) -> None:
        self._archive.wait()

    def files(self) -> tuple[PlatformFile, ...]:
        folder = self._folder / "instances"
        folder.mkdir()
        found = []
        for number, content in enumerate(self._archive.instances()):
            path = folder / f"{number}.dcm"
            path.write_bytes(content)
            found.append(_stored(path))
        return tuple(found)

    def settings(self, port: int) -> str:
        return _dicom(port, orthanc_archive.AE_TITLE)


class OrthancWeb(OrthancNode):
    """Orthanc, over DICOMweb."""

    name = "web"
    is_web = True

    def start_failing(self, random: Random) -> None:
        script = self._folder / "forbid.lua"
        script.write_text(FORBID, encoding="utf-8")
        self._archive.start(LuaScripts=[str(script)])

    def settings(self, port: int) -> str:
        password = self._folder / "password"
        password.write_text(orthanc_archive.PASSWORD, encoding="utf-8")
        return f"""
type = "dicomweb"
url = "http://127.0.0.1:{port}/dicom-web"
user = "{orthanc_archive.USER}"
password = {{ file = "{password}" }}
timeout = 3
upload-timeout = 5
parallel = 2
"""


PRODUCTS: tuple[type[Storescp | OrthancNode], ...] = (Storescp, OrthancNode, OrthancWeb)


def _stored(path: Path) -> PlatformFile:
    """Read a file of a product. A file without an instance is a finding: no result has its name as UID."""
    try:
        return platform_file(path)
    except (InvalidDicomError, EOFError):
        return PlatformFile(sop_instance_uid=f"(unreadable file {path})", digest="")


def _dicom(port: int, ae_title: str) -> str:
    return f"""
type = "dicom"
host = "127.0.0.1"
port = {port}
ae-title = "{ae_title}"
connect-timeout = 2
response-timeout = 3
upload-timeout = 5
idle-timeout = 0.5
"""


def _missing(requirement: str, missing: str) -> Exception:
    """Return the error if a product is not installed."""
    if is_required(requirement):
        return RuntimeError(f"{missing}, and {VARIABLE} requires it")
    return ProductMissing(missing)
