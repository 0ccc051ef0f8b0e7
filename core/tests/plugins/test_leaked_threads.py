"""Threads that plugins leave behind are counted, and in whose calls they began is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dicom_adapter.plugins import leaked_threads
from dicom_adapter.plugins.leaked_threads import describe_leak
from dicom_adapter.plugins.measured import Calls
from dicom_adapter.runtime.parts import lane_part

LEFT = 5


@pytest.fixture
def calls() -> Iterator[Calls]:
    """One plugin leaves threads behind, another ends what it began."""
    end, begun = threading.Event(), list[threading.Thread]()

    def leak() -> None:
        begun.extend(threading.Thread(target=end.wait, daemon=True) for _number in range(LEFT))
        for thread in begun:
            thread.start()

    def tidy() -> None:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()

    made = Calls()
    made.of("plugin 'leaky'", lane_part("A"))("handle_instance", leak)
    made.of("plugin 'tidy'", lane_part("B"))("handle_instance", tidy)
    yield made
    end.set()
    for thread in begun:
        thread.join()


def test_the_plugin_in_whose_calls_they_began_is_named(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """With about how many; one that ends its threads is not. Whatever code they run, a library's even."""
    monkeypatch.setattr(leaked_threads, "MOST_OF_PLUGINS", 0)
    assert describe_leak(calls, own=0).endswith(f": about {LEFT} began in calls of plugin 'leaky'")


def test_as_many_as_may_be_are_not_told_of(calls: Calls) -> None:
    """A pool of some threads is nobody's business."""
    assert "" == describe_leak(calls, own=0)


def test_threads_of_nobody_are_told_as_such(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """Such as those that were begun elsewhere."""
    monkeypatch.setattr(leaked_threads, "MOST_OF_PLUGINS", 0)
    assert describe_leak(Calls(), own=0).endswith(": none began in calls of plugins")
