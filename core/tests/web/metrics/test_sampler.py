"""How often samples are taken, and how long a request waits for one."""

from __future__ import annotations

import threading

import pytest
from structlog.testing import capture_logs

from dicom_adapter.web.metrics import sampler as module
from dicom_adapter.web.metrics.gauges import PENDING
from dicom_adapter.web.metrics.sample import Sample
from dicom_adapter.web.metrics.sampler import FIRST_WAIT_SECONDS, KEPT_SECONDS, PAUSE_FACTOR, Sampler

LONG = 3600.0


class Source:
    """A source of samples with a clock. Each sample takes `seconds`, and its value is its number."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.count = 0
        self.may_end = threading.Event()
        self.may_end.set()
        self.fails = False

    def take(self) -> Sample:
        self.count += 1
        number = self.count
        assert self.may_end.wait(60)
        self.now += self.seconds
        if self.fails:
            raise OSError("the disk fails")
        return Sample([(PENDING, ("LUNG",), number)])


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    """Return a source of samples. Requests wait for each sample, however busy the machine is."""
    monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 60.0)
    return Source()


def number_of(sampler: Sampler) -> float:
    ((_gauge, _labels, number),) = sampler.latest()[0].values
    return number


def test_a_sample_is_kept_for_a_second(source: Source) -> None:
    sampler = Sampler(source.take, lambda: source.now)
    assert [1, 1] == [number_of(sampler), number_of(sampler)]
    source.now += KEPT_SECONDS / 2
    assert 1 == number_of(sampler)
    assert KEPT_SECONDS / 2 == sampler.latest()[1]
    source.now += KEPT_SECONDS / 2
    assert 2 == number_of(sampler)
    assert 0 == sampler.latest()[1]


def test_a_slow_sample_is_kept_for_a_longer_time(source: Source) -> None:
    """With a huge ledger, the host is not busy with samples."""
    sampler = Sampler(source.take, lambda: source.now)
    source.seconds = 2.0
    assert 1 == number_of(sampler)
    source.now += PAUSE_FACTOR * 2.0 - 0.1
    assert 1 == number_of(sampler)
    source.now += 0.1
    assert 2 == number_of(sampler)


def test_a_request_gets_the_last_sample_while_the_next_one_hangs(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one thread hangs, however many requests there are. Verified to fail when a request takes the sample."""
    sampler = Sampler(source.take, lambda: source.now)
    assert 1 == number_of(sampler)
    source.may_end.clear()
    source.now += LONG
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    assert [1, 1] == [number_of(sampler), number_of(sampler)]
    assert LONG == sampler.latest()[1]
    assert 2 == source.count
    monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
    source.may_end.set()
    assert 2 == number_of(sampler)


def test_a_failed_sample_is_logged_and_the_last_one_is_used(source: Source) -> None:
    sampler = Sampler(source.take, lambda: source.now)
    assert 1 == number_of(sampler)
    source.fails = True
    source.now += LONG
    with capture_logs() as logged:
        assert 1 == number_of(sampler)
    assert ["metrics_not_read"] == [entry["event"] for entry in logged]
    assert LONG == sampler.latest()[1]


def test_the_first_request_waits_longer() -> None:
    """Otherwise the first scrape after each start would have no values."""
    assert FIRST_WAIT_SECONDS > 1
