"""An Orthanc with its DICOMweb plugin, as an archive for tests."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import receive_products

from support.requirements import required
from support.restartable import RestartableProcess, free_ports

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # Debian's package orthanc-dicomweb
SECONDS = 30
USER, PASSWORD = "adapter", "secret"
AE_TITLE = "ORTHANC"


class OrthancArchive(RestartableProcess):
    """A running Orthanc with C-STORE, DICOMweb and basic authentication: always the same folder and ports.

    `settings` replace keys of its configuration.
    """

    def __init__(self, program: str, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True)
        super().__init__(folder / "orthanc.log")
        self._program = program
        self._folder = folder
        self.http_port, self.dicom_port = free_ports(2)
        self._settings = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomPort": self.dicom_port,
            "DicomAet": AE_TITLE,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **settings,
        }

    def start(self, **settings: Any) -> None:
        """Start Orthanc. `settings` replace keys of its configuration for this process."""
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps({**self._settings, **settings}), encoding="utf-8")
        self.launch(self._program, path)

    @property
    def url(self) -> str:
        """The URL of the DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def call(self, path: str) -> bytes:
        """Send a GET to Orthanc's own API, and return the body of the response."""
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        root = f"http://127.0.0.1:{self.http_port}"
        passwords.add_password(None, root, USER, PASSWORD)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        with opener.open(root + path, timeout=SECONDS) as response:
            content: bytes = response.read()
        return content

    def instances(self) -> list[bytes]:
        """Return the Part 10 files of all instances."""
        return [self.call(f"/instances/{name}/file") for name in json.loads(self.call("/instances"))]

    def wait(self) -> None:
        """Wait until Orthanc answers."""
        pause = threading.Event()
        for _try in range(SECONDS * 5):
            try:
                self.call("/system")
            except OSError:  # URLError is one
                assert self.is_running, "Orthanc has ended"
                pause.wait(0.2)
            else:
                return
        raise AssertionError("Orthanc does not answer")


def find_orthanc() -> tuple[str | None, str]:
    """Return the path of Orthanc, and "". Without Orthanc or its DICOMweb plugin, return None and what is missing."""
    program = receive_products.find_orthanc()
    if program is None:
        return None, "Orthanc is not installed"
    return (program, "") if PLUGIN.exists() else (None, "Orthanc's DICOMweb plugin is not installed")


def orthanc_archive(folder: Path) -> Iterator[OrthancArchive]:
    """Yield a running archive: the body of a fixture. Skip the test if Orthanc or its plugin is not installed."""
    program, missing = find_orthanc()
    archive = OrthancArchive(required(program, "orthanc", missing), folder)
    try:
        archive.start()
        archive.wait()
        yield archive
    finally:
        archive.stop()
