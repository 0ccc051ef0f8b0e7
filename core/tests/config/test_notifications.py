"""The tables [notifications.<name>]."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter import NoticeKind
from dicom_adapter.config import Loaded

PAGER = '[notifications.oncall]\ntype = "pager"\n'


def test_a_table_has_keys_of_the_core_and_of_the_notifier(read: Callable[[str], Loaded], minimal: str) -> None:
    lines = 'number = "7"\nevents = ["storage"]\nae-titles = ["LUNG"]\nsilent-hours = {CT1 = 24}\n'
    config = read(minimal + PAGER + lines).config
    assert config is not None
    table = config.notifications["oncall"]
    assert ("7", {"CT1": 24.0}) == (table.settings.number, dict(table.silent_hours))
    wanted = [(NoticeKind.STORAGE, ""), (NoticeKind.STORAGE, "HEAD"), (NoticeKind.PROCESS, "")]
    assert [True, False, False] == [table.wants(*each) for each in wanted]


@pytest.mark.parametrize(
    ("lines", "key", "problem"),
    [
        ("number = 7\n", "number", "must be a text in quotes"),
        ('numer = "7"\n', "numer", "is not a known key; did you mean 'number'?"),
        ('quiet-hours = ["22-6"]\n', "quiet-hours[0]", 'must be two different times of day, such as "22:00-06:00"'),
        ('quiet-hours = ["06:00-22:00", "22:00-06:00"]\n', "quiet-hours", "must not cover the whole day"),
        ('digest = ["24:00"]\n', "digest[0]", "must be a time of day"),
        ('time-zone = "Europe/Atlantis"\n', "time-zone", "must be the name of a time zone that this machine knows"),
        ('events = ["job-faultet"]\n', "events[0]", "must be one of job-faulted, job-failed"),
        ("silent-hours = {CT1 = 0}\n", "silent-hours", "must have hours from 0.1 to 8784; 'CT1' has 0"),
        ("pause = -1\n", "pause", "must be from 0 to 86400 seconds"),
    ],
)
def test_wrong_values_are_reported_with_their_place(
    problems: Callable[[str], dict[str, str]], lines: str, key: str, problem: str
) -> None:
    number = "" if lines.startswith("number") else 'number = "7"\n'
    found = problems(PAGER + number + lines)
    assert [f"notifications.oncall.{key}"] == list(found)
    assert problem in found[f"notifications.oncall.{key}"]


def test_an_unknown_notifier_is_reported_and_stops_nothing(read: Callable[[str], Loaded], minimal: str) -> None:
    loaded = read(minimal + '[notifications.oncall]\ntype = "pagr"\n')
    assert loaded.config is not None
    assert (
        "notifier 'pagr', which is not installed; did you mean 'pager'?"
        in loaded.config.notifications["oncall"].unavailable
    )
