"""Rejected senders in the health, in `status` and in `senders`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.ledger.senders import Rejected, Sender
from dicom_adapter.operations.senders import rejected_for_long

NOW = datetime.now(timezone.utc).replace(microsecond=0)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
CONFIGURATION = """
[storage]
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""


def a_rejection(at: datetime = NOW, **values: Any) -> Rejected:
    defaults: dict[str, Any] = {
        "peer_address": "10.0.0.7",
        "calling_ae_title": "CT1",
        "ae_title": "LUNGG",
        "cause": "called-ae-title",
        "reason": "the called AE title is not configured",
        "count": 1,
        "first_at": at,
        "last_at": at,
        "since": at,
    }
    return Rejected(**{**defaults, **values})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Return the ledger of a configuration in the current folder."""
    (tmp_path / "dicom-adapter.toml").write_text(CONFIGURATION)
    (tmp_path / "data").mkdir()
    opened = Ledger(f"sqlite:///{tmp_path / 'data' / 'ledger.sqlite'}", durable=False)
    opened.migrate()
    yield opened
    opened.close()


def run(tmp_path: Path, *arguments: str, columns: int = 80) -> str:
    command = [*arguments, "--config", str(tmp_path / "dicom-adapter.toml")]
    return CliRunner().invoke(app, command, env={"COLUMNS": str(columns)}).output


@pytest.mark.parametrize(
    ("one", "is_long"),
    [
        (a_rejection(NOW - MINUTE, since=NOW - 2 * HOUR), True),
        (a_rejection(NOW - MINUTE, since=NOW - 50 * MINUTE), False),
        (a_rejection(NOW - 2 * HOUR, since=NOW - 4 * HOUR), False),  # the sender has given up
        (a_rejection(NOW - MINUTE, since=None), False),  # an association was accepted since then
        (a_rejection(NOW - MINUTE, since=NOW - 2 * HOUR, cause="not-dicom"), False),
        (a_rejection(NOW - MINUTE / 2, since=NOW - 2 * MINUTE, cause="limit"), True),
        (a_rejection(NOW - 2 * MINUTE, since=NOW - 5 * MINUTE, cause="limit"), False),
        (a_rejection(NOW - MINUTE, since=NOW - 2 * HOUR, cause="tls", calling_ae_title="", ae_title=""), True),
    ],
)
def test_a_sender_that_is_rejected_for_long_is_a_problem(one: Rejected, is_long: bool) -> None:
    """For an hour, or for a minute at a limit."""
    assert is_long is bool(rejected_for_long([one], NOW))


def test_a_rejected_sender_is_yellow_by_name_until_it_is_accepted(ledger: Ledger, tmp_path: Path) -> None:
    """`status` lists the rejections of the last 24 hours. Verified to fail when `assess` ignores the senders."""
    first = a_rejection(NOW - 2 * HOUR)
    with ledger.write() as transaction:
        for number in range(5):
            at = NOW - 2 * HOUR + number * timedelta(minutes=29)
            senders.add_rejections(transaction, [evolve(first, first_at=at, last_at=at)])
    shown = json.loads(run(tmp_path, "status", "--json"))
    [problem] = [listed_problem for listed_problem in shown["problems"] if listed_problem["part"].startswith("sender")]
    assert ("yellow", "sender CT1 (10.0.0.7)") == (problem["level"], problem["part"])
    assert "5 associations to LUNGG: the called AE title is not configured" in problem["reason"]
    [rejection] = shown["rejections"]
    assert ("CT1", "LUNGG", "called-ae-title", 5) == tuple(
        rejection[key] for key in ("callingAeTitle", "aeTitle", "cause", "count")
    )
    assert "CT1 (10.0.0.7): 5 associations to LUNGG" in run(tmp_path, "status", columns=200)
    accepted = Sender(
        calling_ae_title="CT1",
        ae_title="LUNGG",
        peer_address="10.0.0.7",
        first_at=NOW,
        last_at=NOW,
        associations=1,
        instances=10,
        refused=1,
    )
    with ledger.write() as transaction:
        senders.add_associations(transaction, [accepted])
    shown = json.loads(run(tmp_path, "status", "--json"))
    assert [] == [listed_problem for listed_problem in shown["problems"] if listed_problem["part"].startswith("sender")]
    assert "; accepted since then" in " ".join(run(tmp_path, "senders").split())


def test_senders_are_listed_by_name_and_else_by_address(ledger: Ledger, tmp_path: Path) -> None:
    """The text fits in 80 columns, apart from commands with long paths. It has the next step for each sender."""
    with ledger.write() as transaction:
        senders.add_rejections(
            transaction,
            [
                a_rejection(NOW - 3 * HOUR),
                a_rejection(NOW - HOUR),
                a_rejection(cause="tls", calling_ae_title="", ae_title="", reason="WRONG_VERSION_NUMBER"),
            ],
        )
    assert "No senders.\n" == run(tmp_path, "senders", "--calling", "MR1")
    text = run(tmp_path, "senders")
    assert max(len(line) for line in text.splitlines() if "`" not in line) <= 80
    words, file = " ".join(text.split()), tmp_path / "dicom-adapter.toml"
    assert f"`dicom-adapter ae-titles list -c {file}` shows the AE titles), or add LUNGG to the configuration" in words
    assert f"`dicom-adapter check -c {file}` shows the certificates of the adapter" in words
    assert re.search(r"^CT1 \(10\.0\.0\.7\)  silent for 1 h \d+ min$", text, re.MULTILINE)
    assert "rejected 2 associations to LUNGG: the called AE title is not configured\n" in text
    assert re.search(r"^10\.0\.0\.7  silent for \d+ min$", text, re.MULTILINE)
    assert "rejected 1 connection: TLS failed: WRONG_VERSION_NUMBER\n" in text
    [named, other] = json.loads(run(tmp_path, "senders", "--json"))
    assert ("CT1", ["10.0.0.7"], 0, 2) == (
        named["callingAeTitle"],
        named["peers"],
        named["associations"],
        named["rejections"][0]["count"],
    )
    assert "" == other["callingAeTitle"]
    [recent] = json.loads(run(tmp_path, "senders", "--json", "--since", "90m", "--ae-title", "LUNGG"))
    assert 1 == recent["rejections"][0]["count"]
