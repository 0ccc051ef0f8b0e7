"""Fixtures of the acceptance tests: the real service with real senders and a platform that is a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import PlatformFolder


@pytest.fixture
def platform(tmp_path: Path) -> PlatformFolder:
    """The platform of a service with `support.STORAGE` in its configuration, launched without `name=`."""
    return PlatformFolder(tmp_path / "service" / "platform")
