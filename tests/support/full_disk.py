"""A small disk for tests that fill it, and a sender that returns the status of each C-STORE."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from attrs import frozen
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from dicom_adapter.dicom import synthetic
from dicom_adapter.service.launch import LaunchedService
from support import PlatformFolder

KB = 1000
MB = 1000 * KB


@frozen
class Disk:
    """A mounted file system."""

    path: Path

    @property
    def free(self) -> int:
        return shutil.disk_usage(self.path).free

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Fill the disk up to `leave` free bytes, as another program might."""
        self.clear()
        with self._ballast.open("wb") as file:
            while (excess := self.free - leave) > 0:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, excess)
                except OSError:  # another process has just used a part of the space
                    continue

    def clear(self) -> None:
        """Free the space that `fill` used."""
        self._ballast.unlink(missing_ok=True)


def image(kilobytes: int = 20) -> Dataset:
    """Return a CT image with this many kilobytes of pixel data, in a new study."""
    return synthetic.make_instance(rows=kilobytes, columns=500)  # 16 bits per pixel


def store(association: Association, data_set: Dataset | None = None) -> int:
    """Send a C-STORE, by default of a small image, and return the status."""
    status: int = association.send_c_store(data_set or image()).Status
    return status


def submitted(service: LaunchedService) -> list[str]:
    """Return the SOP Instance UIDs in all started jobs, duplicates included."""
    platform = PlatformFolder(service.configuration.parent / "platform")
    return sorted(entry["sopInstanceUid"] for job in platform.jobs for entry in job["instances"])
