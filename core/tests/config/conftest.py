"""A catalogue of small plugins, and fixtures that read configurations with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from dicom_adapter import (
    JobPriority,
    JobProcessorBase,
    NoSettings,
    Notification,
    Notifier,
    PipelineReference,
    Secret,
    StorageBackend,
    Submitter,
    at_least,
    not_empty,
    setting,
)
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config import Loaded, load

MINIMAL = """
[storage]
path = "data"
[submitters.clara]
type = "remote"
endpoint = "clara:50051"
[ae-titles.LUNG.settings]
pipeline-lung = "8abf"
"""


@frozen(kw_only=True)
class Grouping:
    priority: JobPriority = setting(default=JobPriority.NORMAL, help="How urgent.")
    timeout: int = setting(default=5, validator=at_least(5, "seconds"), help="Seconds to wait.")
    pipelines: Mapping[str, PipelineReference] = setting(
        prefix="pipeline-", factory=dict, validator=not_empty, help="Identifiers."
    )


class GroupingProcessor(JobProcessorBase[Grouping]):
    name = "aetitle"  # the default of [ae-titles.<AE title>] processor

    def handle_instance(self, instance: Any) -> None: ...


@frozen(kw_only=True)
class Endpoint:
    endpoint: str = setting(help="Where the platform is.")
    token: Secret | None = setting(default=None, help="Access token of the platform.")


class RemoteSubmitter(Submitter[Endpoint]):
    name = "remote"


@frozen(kw_only=True)
class Folders:
    depth: int = setting(default=2, validator=at_least(1), help="Levels of folders.")


class FoldersStorage(StorageBackend[Folders]):
    name = "local"


@frozen(kw_only=True)
class PagerNumber:
    number: str = setting(help="Number of the pager.")


class PagerNotifier(Notifier[PagerNumber]):
    name = "pager"

    def send(self, notification: Notification) -> None: ...


BROKEN = "plugin 'tape' of dicom-tape 1.0: failed to load: ImportError: no tape"
PLATFORMS: dict[str, Any] = {"remote": RemoteSubmitter}  # never constructed, so their methods may be missing
STORES: dict[str, Any] = {"local": FoldersStorage}
CATALOGUE = Catalogue(
    processors={"aetitle": GroupingProcessor},
    submitters=PLATFORMS,
    storage_backends=STORES,
    notifiers={"pager": PagerNotifier},
    broken=(BROKEN,),
)


@pytest.fixture
def minimal() -> str:
    """Return a configuration without mistakes, to which tests append lines."""
    return MINIMAL


@pytest.fixture
def broken() -> str:
    """Return the catalogue's message for a plugin that it could not load."""
    return BROKEN


@pytest.fixture
def catalogue() -> Catalogue:
    return CATALOGUE


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str | bytes], Loaded]:
    """Return a function that loads a whole configuration."""
    return lambda text: load(text, folder=tmp_path, catalogue=CATALOGUE)


@pytest.fixture
def problems(read: Callable[[str | bytes], Loaded]) -> Callable[[str], dict[str, str]]:
    """Return a function that appends lines to the minimal configuration and returns the problems by path."""
    return lambda lines: {problem.path: str(problem) for problem in read(MINIMAL + lines).problems}


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[type, str], tuple[Any, dict[str, str]]]:
    """Return a function that structures a processor's settings.

    The function returns the settings or None, and the problems by path.
    """

    def structure(settings_class: type, lines: str) -> tuple[Any, dict[str, str]]:
        class Mine(JobProcessorBase[NoSettings]):
            name = "mine"

            def handle_instance(self, instance: Any) -> None: ...

        Mine.settings_type = settings_class  # not a type argument, because it is known only at run time
        catalogue = Catalogue(processors={"mine": Mine}, submitters=PLATFORMS, storage_backends=STORES)
        head = MINIMAL.partition("[ae-titles")[0] + '[ae-titles.X]\nprocessor = "mine"\n[ae-titles.X.settings]\n'
        loaded = load(head + lines, folder=tmp_path, catalogue=catalogue)
        reported = {p.path.removeprefix("ae-titles.X.settings."): str(p) for p in loaded.problems}
        return loaded.config and loaded.config.ae_titles["X"].settings, reported

    return structure
