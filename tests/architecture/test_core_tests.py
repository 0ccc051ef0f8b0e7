"""The tests of the core use no plugin package: the tests pass when only `dicom-adapter-core` is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, discover

ROOT = Path(__file__).resolve().parents[2]
CORE = "dicom-adapter-core"
KEYS = {PROCESSOR: "processor", SUBMITTER: "type"}  # key of the configuration, for each kind of component


def plugin_packages() -> list[str]:
    """Return the import names of all plugin packages of this repository."""
    return sorted(folder.name for folder in ROOT.glob("plugins/*/src/*") if (folder / "__init__.py").exists())


def forbidden() -> re.Pattern[str]:
    """Return a pattern of imports of plugin packages, and of configurations of their processors and submitters."""
    components = [
        component
        for component in discover().components
        if component.kind in KEYS and component.plugin.distribution != CORE
    ]
    selections = [
        rf"""{KEYS[component.kind]} ?= ?\\?["']{re.escape(component.name)}\\?["']""" for component in components
    ]
    return re.compile("|".join([rf"\b{package}\b" for package in plugin_packages()] + selections))


def uses_of_plugins(folder: Path) -> Iterator[str]:
    """Yield place and text of each use of a plugin package in the modules below `folder`."""
    pattern = forbidden()
    for path in sorted(folder.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for use in pattern.finditer(line):
                yield f"{path.relative_to(folder)}:{number}: {use[0]}"


def test_the_tests_of_the_core_use_no_plugin_package() -> None:
    """Tests use the processor `by-study` of `support.grouping` and the submitter `memory` instead.

    `core/tests/conftest.py` hides plugin packages at run time, which also finds an AE title without `processor`.
    """
    assert [] == list(uses_of_plugins(ROOT / "core" / "tests"))


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("from dicom_adapter_aetitle import AeTitleJobProcessor", "dicom_adapter_aetitle"),
        ("    import dicom_adapter_clara_client.fake as fake", "dicom_adapter_clara_client"),
        ('type = "fake"', 'type = "fake"'),
        ("CONFIGURATION = '[submitters.p]\\ntype = \"clara-grpc\"\\n'", 'type = "clara-grpc"'),
        ('config = SubmitterConfig(type="clara-rest")', 'type="clara-rest"'),
        ('processor = "aetitle"', 'processor = "aetitle"'),
        ('processor = "cache"', 'processor = "cache"'),
    ],
)
def test_a_use_of_a_plugin_package_is_found(tmp_path: Path, line: str, use: str) -> None:
    """Imports, configurations in TOML and configuration values are found."""
    (tmp_path / "test_it.py").write_text(f'type = "memory"\nprocessor = "by-study"\n{line}\n', encoding="utf-8")
    assert [f"test_it.py:3: {use}"] == list(uses_of_plugins(tmp_path))
