"""A small disk of a test's own, and a sender that says exactly how it was answered."""

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
        """Leave no more than so many bytes free, as another program might."""
        self.clear()
        with self._ballast.open("wb") as file:
            while (room := self.free - leave) > 0:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room)
                except OSError:  # somebody else has just taken a part of it
                    continue

    def clear(self) -> None:
        """Give back what `fill` took."""
        self._ballast.unlink(missing_ok=True)


def image(kilobytes: int = 20) -> Dataset:
    """A CT image with about so many kilobytes of pixel data, in a study of its own."""
    return synthetic.make_instance(rows=kilobytes, columns=500)  # of 16 bits


def store(association: Association, data_set: Dataset | None = None) -> int:
    """Send it, a small image if none is given; returns the status."""
    status: int = association.send_c_store(data_set or image()).Status
    return status


def submitted(service: LaunchedService) -> list[str]:
    """The SOP Instance UIDs of all started jobs, each as often as it occurs."""
    platform = PlatformFolder(service.configuration.parent / "platform")
    return sorted(entry["sopInstanceUid"] for job in platform.jobs for entry in job["instances"])
