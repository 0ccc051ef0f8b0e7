"""Find the configuration file: every command does it in the same order."""

from __future__ import annotations

import os
from pathlib import Path

from dicom_adapter.api.errors import Refused

VARIABLE = "DICOM_ADAPTER_CONFIG"
DEFAULT_NAME = "dicom-adapter.toml"


def find_configuration(named: Path | None = None) -> Path:
    """Return the named file, else the one in DICOM_ADAPTER_CONFIG, else `dicom-adapter.toml` in the current folder.

    For commands of plugins that read the configuration. Raise Refused if there is no file to try; a file that was named
    is not checked.
    """
    if named is not None:
        return named
    variable = os.environ.get(VARIABLE)
    if variable:
        return Path(variable)
    if Path(DEFAULT_NAME).exists():
        return Path(DEFAULT_NAME)
    raise Refused(
        f"no configuration file: none was named, {VARIABLE} is not set, and {Path.cwd()} has no {DEFAULT_NAME}; "
        "name the file with --config"
    )
