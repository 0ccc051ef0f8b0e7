"""Fixtures of the `dicomweb` tests: a scripted server, submitters, and one instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import SubmitterContext
from dicom_adapter_delivery.dicomweb_settings import DicomwebSettings
from dicom_adapter_delivery.dicomweb_submitter import DicomwebSubmitter
from support.stow_server import StowServer, serving

SECONDS = 20.0  # `timeout` of the submitters, long enough for a busy machine


@pytest.fixture
def server() -> Iterator[StowServer]:
    yield from serving(StowServer())


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., DicomwebSubmitter]]:
    """Return a function that makes an open submitter: `connect(url, **settings)`."""
    opened: list[DicomwebSubmitter] = []

    def make(url: str, **settings: Any) -> DicomwebSubmitter:
        context = SubmitterContext(name="archive", data_folder=tmp_path / "never-used")
        opened.append(DicomwebSubmitter(DicomwebSettings(url=url, **{"timeout": SECONDS, **settings}), context))
        opened[-1].open()
        return opened[-1]

    yield make
    for submitter in opened:
        submitter.close()


@pytest.fixture
def submitter(server: StowServer, connect: Callable[..., DicomwebSubmitter]) -> DicomwebSubmitter:
    """Return an open submitter for `server`."""
    return connect(server.url)
