"""The real service, real senders, and what reached the platform's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import PlatformFolder


@pytest.fixture
def platform(tmp_path: Path) -> PlatformFolder:
    """What reached the platform of a service with `STORAGE`, launched under the default name."""
    return PlatformFolder(tmp_path / "service" / "platform")
