"""A fixture that starts an adapter with notifications."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter.testing import Adapter, Plugin
from support.notification_bench import AE_TITLES, QUICK, KeptMessages, KeptMessagesPlugin, NotificationBench


@pytest.fixture
def make_bench(
    make_adapter: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., NotificationBench]:
    """Return a function that starts an adapter with notifications."""
    monkeypatch.setattr(KeptMessages, "messages", [])
    monkeypatch.setattr(KeptMessages, "attempts", [])
    monkeypatch.setattr(KeptMessages, "failure", None)

    def start(configuration: str = QUICK) -> NotificationBench:
        plugin = Plugin(KeptMessagesPlugin(), name="kept-messages")
        return NotificationBench(make_adapter(AE_TITLES + configuration, plugin))

    return start
