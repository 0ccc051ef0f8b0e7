"""Fixture for a DICOM server that listens on a real port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter.config.listening import DicomConfig
from support.listening import Listen, Listening


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Return a function that starts a server with `DicomConfig(**settings)` on a free port.

    The server is stopped at the end of the test.
    """
    listening: list[Listening] = []
    with capture_logs() as logged:

        def start(**settings: Any) -> Listening:
            listening.append(Listening(DicomConfig(port=0, bind="127.0.0.1", **settings), logged))
            return listening[-1]

        yield start
        for server in listening:
            server.stop()
