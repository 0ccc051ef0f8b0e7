"""Find the configuration file. Every command looks for it in the same order."""

from __future__ import annotations

import os
from pathlib import Path

from dicom_adapter.api.errors import Refused

VARIABLE = "DICOM_ADAPTER_CONFIG"
DEFAULT_NAME = "dicom-adapter.toml"


def find_configuration(named: Path | None = None) -> Path:
    """Return the path of the configuration file, for a plugin's command that reads the configuration.

    The path is `named`; if it is None, the path in the environment variable DICOM_ADAPTER_CONFIG; if the variable is
    not set or empty, `dicom-adapter.toml` in the current folder. Raises Refused if this last file does not exist. The
    existence of the other files is not checked.
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
        "name the file with --config, or write one with `dicom-adapter init`"
    )
