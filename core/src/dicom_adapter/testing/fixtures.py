"""The pytest plugin of the package. The plugin imports the adapter only when a test uses a fixture of this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from dicom_adapter.simulation.adapter import Plugin
    from dicom_adapter.testing.adapter import Adapter
    from dicom_adapter.testing.service import Service

from dicom_adapter.testing.job_list import JobList

# Modules with assertions that pytest must rewrite, so that failures show the values
SUITES = (
    "processor_suite",
    "storage_records",
    "storage_suite",
    "submitter_suite",
    "submitter_ends",
    "submitter_attachments",
)
pytest.register_assert_rewrite(*(f"dicom_adapter.testing.{suite}" for suite in SUITES))

MakeAdapter = Callable[..., "Adapter"]
LaunchService = Callable[..., "Service"]


@pytest.fixture
def adapter_configuration() -> str:
    """The configuration of the fixture `adapter`: TOML with at least one AE title. Tests override this fixture."""
    pytest.fail(
        "the fixture `adapter` needs a configuration: define a fixture `adapter_configuration`, in the test's module "
        "or in conftest.py, that returns TOML with a table [ae-titles.<AE title>]",
        pytrace=False,
    )


@pytest.fixture
def adapter_plugins() -> Sequence[Plugin]:
    """Plugins that the fixture `adapter` uses in addition to the installed plugins. Tests may override this fixture."""
    return ()


@pytest.fixture
def adapter(make_adapter: MakeAdapter, adapter_configuration: str, adapter_plugins: Sequence[Plugin]) -> Adapter:
    """An `Adapter` with the configuration that the fixture `adapter_configuration` returns."""
    return make_adapter(adapter_configuration, *adapter_plugins)


@pytest.fixture
def make_adapter(tmp_path: Path) -> Iterator[MakeAdapter]:
    """A factory of adapters in the test's temporary folder. Arguments: TOML, and plugins that are not installed."""
    from dicom_adapter.testing.adapter import Adapter

    made: list[Adapter] = []

    def make(configuration: str, *plugins: Plugin) -> Adapter:
        made.append(Adapter(tmp_path, configuration, plugins))
        return made[-1]

    yield make
    for adapter in made:
        adapter.close()


@pytest.fixture
def launch_service(tmp_path: Path) -> Iterator[LaunchService]:
    """A function that starts `dicom-adapter run` on a free port. The service is killed after the test.

    `configuration` is TOML, which is written to the folder `tmp_path / name`. This folder also contains the data: a
    second launch with the same name restarts the service with the same data.
    """
    from dicom_adapter.testing.service import Service

    launched: list[Service] = []

    def launch(configuration: str, *arguments: str, name: str = "service", **options: str) -> Service:
        path = tmp_path / name / "adapter.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(configuration, encoding="utf-8")
        launched.append(Service(path, "--port", "0", *arguments, **options))
        return launched[-1]

    yield launch
    for service in launched:
        service.kill()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Explain a failed `assert` on the jobs of an adapter by a description of the adapter."""
    jobs = next((side for side in (left, right) if isinstance(side, JobList)), None)
    if jobs is None:
        return None
    return [f"{_shorten(left)} {op} {_shorten(right)}", *jobs.describe_adapter().splitlines()]


def _shorten(side: object) -> str:
    return f"<{len(side)} jobs>" if isinstance(side, JobList) else repr(side)
