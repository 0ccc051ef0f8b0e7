"""An Orthanc with its DICOMweb plugin, as an archive for tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # Debian's package orthanc-dicomweb
SECONDS = 30
USER, PASSWORD = "adapter", "secret"


class OrthancArchive:
    """A running Orthanc with DICOMweb and basic authentication. `settings` replace keys of its configuration."""

    def __init__(self, program: str, folder: Path, **settings: Any) -> None:
        folder.mkdir()
        self._port = _free_port()
        configuration = {
            "Name": "archive",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self._port,
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomServerEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **settings,
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(configuration), encoding="utf-8")
        self._log = (folder / "orthanc.log").open("wb")
        self._process = subprocess.Popen([program, path], stdout=self._log, stderr=subprocess.STDOUT)
        self._wait()

    @property
    def url(self) -> str:
        """The URL of the DICOMweb service."""
        return f"http://127.0.0.1:{self._port}/dicom-web"

    def call(self, path: str) -> bytes:
        """Send a GET to Orthanc's own API, and return the body of the response."""
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        root = f"http://127.0.0.1:{self._port}"
        passwords.add_password(None, root, USER, PASSWORD)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        with opener.open(root + path, timeout=SECONDS) as response:
            content: bytes = response.read()
        return content

    def instances(self) -> list[bytes]:
        """Return the Part 10 files of all instances."""
        return [self.call(f"/instances/{name}/file") for name in json.loads(self.call("/instances"))]

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(SECONDS)
        self._log.close()

    def _wait(self) -> None:
        pause = threading.Event()
        for _try in range(SECONDS * 5):
            try:
                self.call("/system")
            except urllib.error.URLError:
                assert self._process.poll() is None, "Orthanc has ended"
                pause.wait(0.2)
            else:
                return
        raise AssertionError("Orthanc does not answer")


def orthanc_archive(folder: Path) -> Iterator[OrthancArchive]:
    """Yield a running archive: the body of a fixture. Skip the test if Orthanc or its plugin is not installed."""
    program = shutil.which("Orthanc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None or not PLUGIN.exists():
        missing = "Orthanc is not installed" if program is None else "Orthanc's DICOMweb plugin is not installed"
        if "orthanc" in os.environ.get("DICOM_ADAPTER_TESTS_REQUIRE", ""):
            pytest.fail(f"{missing}, and DICOM_ADAPTER_TESTS_REQUIRE requires it")
        pytest.skip(missing)
    archive = OrthancArchive(program, folder)
    try:
        yield archive
    finally:
        archive.stop()


def _free_port() -> int:
    """Return a free port, because Orthanc cannot choose a port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
