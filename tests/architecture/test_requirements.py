"""The dependencies: their lower bounds, and the versions with which the tests are run."""

from __future__ import annotations

import re
from pathlib import Path

import tomli
from tools.requirements import lowest, normalized, numbers, projects

ROOT = Path(__file__).parents[2]

# The first versions without the vulnerabilities that were published when this list was written.
FIXED = {
    "certifi": "2024.7.4",  # CVE-2024-39689
    "grpcio": "1.66.2",  # CVE-2024-7246, CVE-2024-11407
    "h11": "0.16",  # CVE-2025-43859
    "idna": "3.7",  # CVE-2024-3651
    "jinja2": "3.1.6",  # CVE-2024-56201, CVE-2024-56326, CVE-2025-27516
    "litestar": "2.20",  # CVE-2024-52581, CVE-2025-59152 and later ones
    "mako": "1.3.11",  # CVE-2022-40023 and later ones
    "orjson": "3.11.6",  # CVE-2024-27454, CVE-2025-67221
    "protobuf": "6.33.5",  # CVE-2025-4565, CVE-2026-0994
    "pydicom": "3.0.2",  # a path traversal in file sets
    "starlette": "0.49.1",  # CVE-2024-47874, CVE-2025-54121, CVE-2025-62727
    "zipp": "3.19.1",  # CVE-2024-5569
}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return dict(pairs)


def test_lower_bounds_exclude_known_vulnerabilities() -> None:
    """Verified to fail when a bound is lowered, or one is removed."""
    bounds = lowest()
    assert {} == {
        name: bounds.get(name) for name, fixed in FIXED.items() if numbers(bounds.get(name, "0")) < numbers(fixed)
    }


def test_every_dependency_has_a_tested_version_that_is_allowed() -> None:
    """`constraints.txt` has the tested versions; `make constraints` writes it."""
    tested = constraints()
    assert {} == {
        name: tested.get(name) for name, bound in lowest().items() if numbers(tested.get(name, "0")) < numbers(bound)
    }


def test_every_dependency_has_a_lower_bound() -> None:
    """Without a bound, pip accepts an old version with known vulnerabilities.

    The project's own packages require each other in exact versions, so they are left out.
    """
    names = {
        normalized(re.split(r"[\\[<>=!~;]", dependency)[0])
        for path in projects()
        for dependency in tomli.loads(path.read_text(encoding="utf-8"))["project"]["dependencies"]
    }
    assert {name for name in names if not name.startswith("dicom-adapter")} == lowest().keys()
