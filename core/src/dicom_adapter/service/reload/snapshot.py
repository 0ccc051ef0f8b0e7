"""`Snapshot`: a configuration as strings, which can be stored, compared and displayed. Secrets are digests.

Another process, which may have other plugins, uses a snapshot to compare the running configuration with a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, frozen

SECRET = "secret "  # noqa: S105 - the prefix of the digest of a secret


@frozen(kw_only=True)
class Snapshot:
    """A configuration, and the plugins with which it was read."""

    salt: str  # salt of the digests: only digests with the same salt can be compared
    service: Mapping[str, str]  # values by key, for all tables except AE titles and submitters
    submitters: Mapping[str, Mapping[str, str]]  # for each submitter, values by key
    ae_titles: Mapping[str, Mapping[str, str]]  # for each AE title, values by key
    plugins: Mapping[str, str]  # distribution and version of each enabled plugin, by the name of its entry point
    storage_plugin: str  # name of the entry point of the storage backend

    def to_json(self) -> dict[str, Any]:
        """Return the snapshot as JSON values: the keyword arguments of its constructor."""
        return asdict(self)
