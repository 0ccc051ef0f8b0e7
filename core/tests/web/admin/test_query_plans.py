"""The lists of the admin API stay fast in a large ledger: each filter uses an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from dicom_adapter.ledger import Ledger
from dicom_adapter.testing import make_study

STUDY = "2.25.1"
LARGE = ("instances", "jobs", "events", "job_instances", "series")  # tables that grow with the received instances
ALL_JOBS = ["SCAN jobs"]  # newest first, until the page is full: rows of jobs are few, compared with instances
INDEXED = [
    f"/api/jobs?studyInstanceUid={STUDY}",
    "/api/jobs?sopInstanceUid=1.2",
    "/api/jobs?aeTitle=LUNG",
    "/api/jobs?aeTitle=LUNG&submitter=memory&state=faulted",
    "/api/instances?state=pending",
    "/api/instances?state=pending&aeTitle=LUNG",
    "/api/instances?state=quarantined&aeTitle=LUNG",
    "/api/instances?state=quarantined&reason=unknown",
    "/api/instances?state=released",
    f"/api/instances?studyInstanceUid={STUDY}",
    "/api/instances?sopInstanceUid=1.2",
    "/api/instances/1",
    "/api/results?state=quarantined",
    "/api/results?state=quarantined&reason=unknown",
    "/api/results?state=pending&aeTitle=LUNG",
    f"/api/results?studyInstanceUid={STUDY}",
    "/api/events",
    "/api/events?aeTitle=LUNG",
    "/api/events?event=job_",
    "/api/senders?since=2026-01-01T00:00:00Z",
    "/api/senders?callingAeTitle=CT1",
    "/api/ae-titles",
    "/api/ae-titles/LUNG/groups",
    f"/api/stories/{STUDY}",
]


@contextmanager
def plans(ledger: Ledger) -> Iterator[list[str]]:
    """Collect the lines of the query plans of all statements that a request sends."""
    sent: list[tuple[str, Any]] = []
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        sent.append((statement, parameters))

    event.listen(ledger._engine, "before_cursor_execute", note)
    yield found
    event.remove(ledger._engine, "before_cursor_execute", note)
    with ledger.read() as transaction:
        for statement, parameters in sent:
            if statement.lstrip().upper().startswith(("SELECT", "WITH")):
                rows = transaction.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                found += [str(row[3]) for row in rows]


def scans(lines: list[str]) -> list[str]:
    """Return the lines that read a large table from one end to the other without an index."""
    return [line for line in lines if line.split()[0] == "SCAN" and line.split()[1] in LARGE and "INDEX" not in line]


@pytest.fixture(scope="module")
def filled(shared_api: Any) -> Any:
    shared_api.adapter.receive(*make_study(study_uid=STUDY))
    shared_api.adapter.advance(6)
    return shared_api


@pytest.mark.parametrize("path", INDEXED)
def test_a_filter_uses_an_index(filled: Any, path: str) -> None:
    """Verified to fail when the list of pending instances is sorted by their id instead of `id + 0`."""
    with plans(filled.adapter.ledger) as found:
        assert 200 == filled.operator.get(path).status_code
    assert found
    assert [] == scans(found)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/jobs", ALL_JOBS),
        ("/api/jobs?state=succeeded", ALL_JOBS),
        ("/api/jobs?submitter=memory", ALL_JOBS),
        ("/api/jobs?since=2026-01-01T00:00:00Z", ALL_JOBS),
        ("/api/instances", ["SCAN instances"]),
        ("/api/instances?state=reclaimed", ["SCAN instances"]),  # nearly all are reclaimed
    ],
)
def test_a_list_of_the_newest_is_not_sorted(filled: Any, path: str, expected: list[str]) -> None:
    """It is read from its end in the order of the rows, and only until the page is full."""
    with plans(filled.adapter.ledger) as found:
        assert 200 == filled.operator.get(path).status_code
    assert (expected, []) == (scans(found), [line for line in found if "TEMP B-TREE FOR ORDER BY" in line])


@pytest.mark.parametrize(
    "body", [{"studyInstanceUid": STUDY}, {"seriesInstanceUid": "1.2"}, {"accessionNumber": "A1"}, {"patientId": "P1"}]
)
def test_a_search_uses_an_index(filled: Any, body: dict[str, str]) -> None:
    with plans(filled.adapter.ledger) as found:
        assert 200 == filled.operator.post("/api/studies/search", json=body).status_code
    assert found
    assert [] == scans(found)
