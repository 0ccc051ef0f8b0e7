"""UIDs from UUIDs (PS3.5 B.2)."""

from __future__ import annotations

import uuid

from pydicom.uid import UID


def make_uid(seed: str | int | None = None, role: str = "") -> UID:
    """A UID from a random UUID, or with a `seed` the one that belongs to `seed` and `role`."""
    made = uuid.uuid4() if seed is None else uuid.uuid5(uuid.NAMESPACE_OID, f"dicom-adapter/{seed}/{role}")
    return UID(f"2.25.{made.int}")
