"""The disk with the adapter's data: a folder that is renamed away and back, as when a disk is unmounted and mounted."""

from __future__ import annotations

import time
from pathlib import Path

from attrs import frozen


@frozen
class Outage:
    """A time in which the disk was not mounted, in seconds since 1970."""

    began: float
    ended: float


class Mount:
    """A mount point. While the disk is not mounted, it is an empty folder, and nothing may be created in it."""

    def __init__(self, point: Path) -> None:
        """Mount a new disk, which is not empty: like a real one, it has a folder `lost+found`."""
        self.outages: list[Outage] = []
        self.created: list[str] = []  # what was created on the mount point during outages
        self._point = point
        self._disk = point.with_name(f"{point.name}.unmounted")
        self._began: float | None = None
        (point / "lost+found").mkdir(parents=True)

    @property
    def is_lost(self) -> bool:
        return self._began is not None

    def lose(self) -> None:
        """Unmount the disk although it is used: open files stay open, like after `umount --lazy`."""
        self._began = time.time()
        self._point.rename(self._disk)
        self._point.mkdir()

    def restore(self) -> None:
        """Mount the disk again. Idempotent."""
        if self._began is None:
            return
        wrong = self._point.with_name(f"{self._point.name}.{len(self.outages)}")
        self._point.rename(wrong)
        self._disk.rename(self._point)
        self.created += [str(path.relative_to(wrong)) for path in sorted(wrong.rglob("*"))]
        if not any(wrong.iterdir()):
            wrong.rmdir()
        self.outages.append(Outage(self._began, time.time()))
        self._began = None
