"""Write the software bill of materials of this Python environment: `python sbom.py FILE`.

The file is JSON of CycloneDX 1.6 (ECMA-424). It lists the Python distributions with their versions and package URLs.
Packages of the operating system are not in it.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

PRODUCT = "dicom-adapter"


def package_url(name: str, version: str) -> str:
    """Return the package URL of a Python distribution; its type requires the normalized name."""
    return f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{version}"


def component(found: Distribution, kind: str = "library") -> dict[str, Any]:
    """Return the component of a distribution."""
    url = package_url(found.name, found.version)
    described = {"type": kind, "bom-ref": url, "name": found.name, "version": found.version, "purl": url}
    licence = found.metadata.get("License-Expression")
    return {**described, "licenses": [{"expression": licence}]} if licence else described


def sbom() -> dict[str, Any]:
    """Return the bill of materials of the environment of this interpreter."""
    found = {each.name: each for each in distributions()}
    python = {"type": "platform", "bom-ref": "python", "name": "python", "version": platform.python_version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(found[PRODUCT], "application")},
        "components": [python, *(component(found[name]) for name in sorted(found) if name != PRODUCT)],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(sbom(), indent=2) + "\n", encoding="utf-8")
