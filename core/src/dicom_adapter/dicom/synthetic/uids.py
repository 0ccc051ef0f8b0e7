"""UIDs from UUIDs (PS3.5 B.2)."""

from __future__ import annotations

import uuid

from pydicom.uid import UID


def make_uid(seed: str | int | None = None, role: str = "") -> UID:
    """Return a UID made from a random UUID or, with a `seed`, from a UUID derived from `seed` and `role`."""
    source = uuid.uuid4() if seed is None else uuid.uuid5(uuid.NAMESPACE_OID, f"dicom-adapter/{seed}/{role}")
    return UID(f"2.25.{source.int}")
