"""The count finds every kind of error of kept instances and composed jobs: each case changes correct evidence.

The cache received two studies at 10 s. The job KEEP has both, at 20 s, and keeps them in the cache. The job GO has the
second, at 30 s, and deleted it afterwards. The first study was deleted at 40 s and received again at 50 s. GO was
requested again at 60 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from faults.adapter import AE_TITLES, CACHE
from faults.cached_instances import CachedInstance
from faults.clock import ClockRange
from faults.count import count
from faults.count_cache import STILL_ARRIVING
from faults.evidence import Evidence, LedgerInstance, LedgerJob, PlatformFile, PlatformJob
from faults.orders import Call, Deletion, Order, Orders
from faults.records import Sent

PIPELINE = AE_TITLES[CACHE].pipelines[0]
FIRST, SECOND = "2.25.11", "2.25.12"  # studies of one instance each, whose UID has one more component


def sent(study: str, began: float) -> Sent:
    """Return a C-STORE request that was acknowledged half a second later."""
    return Sent(
        ae_title=CACHE,
        study_instance_uid=study,
        sop_instance_uid=f"{study}.1",
        digest=f"bytes of {study}",
        began=began,
        status=0x0000,
        answered=began + 0.5,
    )


def row(number: int, study: str, received: float, state: str, changed: float) -> LedgerInstance:
    """Return the row of the study's instance."""
    return LedgerInstance(
        number=number,
        ae_title=CACHE,
        study_instance_uid=study,
        sop_instance_uid=f"{study}.1",
        state=state,
        storage_key=f"k{number}",
        is_replaced=False,
        received=received,
        changed=changed,
    )


def job(name: str, instances: tuple[int, ...]) -> LedgerJob:
    """Return a submitted job."""
    return LedgerJob(
        job_id=f"id of {name}",
        name=name,
        ae_title=CACHE,
        pipeline=PIPELINE,
        state="submitted",
        platform_job=f"platform's {name}",
        instances=instances,
    )


def started(name: str, created: float, studies: tuple[str, ...]) -> PlatformJob:
    """Return the same job on the platform."""
    files = tuple(PlatformFile(sop_instance_uid=f"{study}.1", digest=f"bytes of {study}") for study in studies)
    return PlatformJob(
        job_id=f"platform's {name}",
        adapter_job=f"id of {name}",
        pipeline=PIPELINE,
        is_started=True,
        created=created,
        files=files,
    )


KEEP = Order(key="KEEP", studies=(FIRST, SECOND), pipeline=PIPELINE)
GO = Order(key="GO", studies=(SECOND,), pipeline=PIPELINE, keep=False)
COMPOSED = (
    Call(order=KEEP, began=20.0, status=201, answered=20.5, job_id="id of KEEP"),
    Call(order=GO, began=30.0),  # the response was lost
    Call(order=GO, began=31.0, status=201, answered=31.5, job_id="id of GO"),
    Call(order=GO, began=60.0, status=201, answered=60.5, job_id="id of GO"),
)
DELETED = Deletion(study=FIRST, began=40.0, status=204, answered=40.5)
SENT = (sent(FIRST, 10.0), sent(SECOND, 10.0), sent(FIRST, 50.0))
ROWS = (
    row(1, FIRST, 10.2, "reclaimed", 40.2),
    row(2, SECOND, 10.2, "reclaimed", 35.0),
    row(3, FIRST, 50.2, "pending", 50.2),
)
JOBS = (job("KEEP", (1, 2)), job("GO", (2,)))
STARTED = (started("KEEP", 21.0, (FIRST, SECOND)), started("GO", 32.0, (SECOND,)))
GOOD = Evidence(
    sent=SENT,
    platform_jobs=STARTED,
    instances=ROWS,
    jobs=JOBS,
    stored=frozenset({"k3"}),
    orders=Orders(calls=COMPOSED, deletions=(DELETED,)),
    kept=(CachedInstance(study_instance_uid=FIRST, sop_instance_uid=f"{FIRST}.1", digest=f"bytes of {FIRST}"),),
)

Change = Callable[[Evidence], Evidence]


def rules(evidence: Evidence) -> set[str]:
    """Return the names of the broken rules."""
    return {finding.rule for finding in count(evidence)}


def changed(values_of: str, place: int, **changes: Any) -> Change:
    """Return a change of one of these values."""

    def change(good: Evidence) -> Evidence:
        values = list(getattr(good, values_of))
        values[place] = evolve(values[place], **changes)
        return evolve(good, **{values_of: tuple(values)})

    return change


def call(place: int, **changes: Any) -> Change:
    """Return a change of one of the calls."""

    def change(good: Evidence) -> Evidence:
        calls = list(COMPOSED)
        calls[place] = evolve(calls[place], **changes)
        return evolve(good, orders=evolve(good.orders, calls=tuple(calls)))

    return change


def also(**changes: Any) -> Change:
    """Return a change that adds an order of the first study at 70 s."""
    order = Order(key="MORE", studies=(FIRST,), pipeline=PIPELINE, insist=changes.pop("insist", False))
    more = Call(order=order, **{"began": 70.0, "answered": 70.5, **changes})
    return lambda good: evolve(good, orders=evolve(good.orders, calls=(*COMPOSED, more)))


def with_job(change: Change, instances: tuple[int, ...], **changes: Any) -> Change:
    """Return a change that adds a job for that order."""

    def whole(good: Evidence) -> Evidence:
        return evolve(
            change(good),
            jobs=(*JOBS, evolve(job("MORE", instances), **changes)),
            platform_jobs=(*STARTED, started("MORE", 71.0, (FIRST,))),
        )

    return whole


def deletions(*new_deletions: Deletion) -> Change:
    """Return a change that replaces the deletions."""
    return lambda good: evolve(good, orders=evolve(good.orders, deletions=new_deletions))


COMPOSED_MORE = also(status=201, job_id="id of MORE")
SECOND_AGAIN = row(4, SECOND, 25.0, "quarantined", 25.0)

WRONG: dict[str, tuple[Change, str]] = {
    "an acknowledged instance has no row": (
        lambda good: evolve(good, sent=(*SENT, sent("2.25.13", 15.0))),
        "stored",
    ),
    "the row of an acknowledged instance was deleted before it was sent": (
        lambda good: evolve(good, sent=(*SENT, sent(SECOND, 45.0))),
        "stored",
    ),
    "the row of an acknowledged instance has other bytes": (changed("sent", 1, digest="others"), "stored"),
    "a row was deleted with a job that should keep it": (
        lambda good: evolve(good, orders=evolve(good.orders, deletions=())),
        "gone",
    ),
    "a row was deleted before its study was deleted": (changed("instances", 0, changed=39.0), "gone"),
    "a row is kept although its job should have deleted it": (changed("instances", 1, state="pending"), "cleaned up"),
    "a row is kept although its study was deleted": (changed("instances", 0, state="pending"), "cleaned up"),
    "an order failed": (call(3, status=500), "composed"),
    "a repeated order is another job": (call(3, job_id="another"), "composed"),
    "the response has an unknown job": (call(0, job_id="another"), "composed"),
    "an order has two jobs": (
        lambda good: evolve(good, jobs=(*JOBS, evolve(JOBS[0], job_id="another"))),
        "composed",
    ),
    "an order without a response has two jobs": (
        lambda good: evolve(with_job(also(answered=None), (3,))(good), jobs=(*JOBS, *[job("MORE", (3,))] * 2)),
        "composed",
    ),
    "a job has another pipeline": (
        changed("jobs", 0, pipeline=AE_TITLES[CACHE].pipelines[1]),
        "composed",
    ),
    "a job was never ordered": (changed("jobs", 0, name="another"), "composed"),
    "a composed job was never started": (changed("platform_jobs", 0, is_started=False), "one job"),
    "a composed job was started twice": (
        lambda good: evolve(good, platform_jobs=(*STARTED, evolve(STARTED[0], job_id="another"))),
        "one job",
    ),
    "a job lacks a study": (changed("jobs", 0, instances=(1,)), "complete"),
    "a job has a study that was not ordered": (changed("jobs", 1, instances=(1, 2)), "complete"),
    "a job lacks an instance that was stored": (
        lambda good: evolve(
            good,
            sent=(*SENT, evolve(sent(FIRST, 12.0), sop_instance_uid=f"{FIRST}.2", digest="d2")),
            instances=(*ROWS, evolve(row(4, FIRST, 12.2, "reclaimed", 40.2), sop_instance_uid=f"{FIRST}.2")),
        ),
        "complete",
    ),
    "a job lacks an instance that was stored before the order was repeated": (
        with_job(lambda good: also(status=201, job_id="id of MORE")(later(good)), (3,)),
        "complete",
    ),
    "a refused order has a job": (with_job(also(status=404), (3,)), "refused"),
    "an order of a stored study is refused as unknown": (also(status=404), "refused"),
    "an order of an old study is refused as still arriving": (also(status=409, problem=STILL_ARRIVING), "refused"),
    "an order that insists is refused": (also(began=52.0, status=409, problem=STILL_ARRIVING, insist=True), "refused"),
    "an order is refused for another reason": (also(began=52.0, status=409, problem="about:blank"), "refused"),
    "a repeated order is refused": (call(3, status=404), "refused"),
    "a kept instance is not shown": (lambda good: evolve(good, kept=()), "shown"),
    "a kept instance is shown twice": (lambda good: evolve(good, kept=good.kept * 2), "shown"),
    "a deleted instance is shown": (changed("kept", 0, sop_instance_uid="2.25.99"), "shown"),
    "other bytes are shown": (changed("kept", 0, digest="others"), "shown"),
}

RIGHT: dict[str, Change] = {
    "everything is right": lambda good: good,
    "the response to the last order was lost": also(answered=None),
    "an order without a response has a job": with_job(also(answered=None), (3,)),
    "an order has a job": with_job(COMPOSED_MORE, (3,)),
    "an order was answered as busy": also(status=503),
    "an order of a study that is still arriving is refused": also(began=52.0, status=409, problem=STILL_ARRIVING),
    "an order of a study that is being deleted is refused as unknown": lambda good: evolve(
        also(status=404)(changed("instances", 2, state="reclaimed", changed=70.3)(good)),
        orders=Orders(
            calls=also(status=404)(good).orders.calls,
            deletions=(DELETED, evolve(DELETED, began=70.1, answered=70.4)),
        ),
        stored=frozenset(),
        kept=(),
    ),
    "a deletion found nothing": lambda good: deletions(DELETED, Deletion(study=FIRST, began=80.0, status=404))(good),
    "an instance is quarantined": lambda good: evolve(
        good, sent=(*SENT, sent(SECOND, 24.8)), instances=(*ROWS, SECOND_AGAIN), stored=frozenset({"k3", "k4"})
    ),
}


def later(good: Evidence) -> Evidence:
    """Add an instance of the first study that was acknowledged at 60 s."""
    more = {"sop_instance_uid": f"{FIRST}.2"}
    return evolve(
        good,
        sent=(*SENT, evolve(sent(FIRST, 60.0), digest="d2", **more)),
        instances=(*ROWS, evolve(row(4, FIRST, 60.2, "pending", 60.2), **more)),
        stored=frozenset({"k3", "k4"}),
        kept=(*good.kept, CachedInstance(study_instance_uid=FIRST, digest="d2", **more)),
    )


@pytest.mark.parametrize(("change", "rule"), WRONG.values(), ids=WRONG.keys())
def test_every_error_is_found(change: Change, rule: str) -> None:
    """The rule that is broken is among the findings."""
    assert rule in rules(change(GOOD))


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT.keys())
def test_correct_behaviour_is_no_finding(change: Change) -> None:
    assert set() == rules(change(GOOD))


@pytest.mark.parametrize("seconds", [-2.0, 2.0])
def test_the_times_of_rows_may_differ_by_the_range_of_the_clock(seconds: float) -> None:
    """The clock of the service was ahead of that of the senders, or behind it, because the system clock was set.

    Verified to fail when a rule compares the times of rows without the range.
    """
    rows = tuple(evolve(row, received=row.received + seconds, changed=row.changed + seconds) for row in ROWS)
    shifted = evolve(GOOD, instances=rows)
    assert rules(shifted)
    assert set() == rules(evolve(shifted, clock=ClockRange(behind=max(0.0, -seconds), ahead=max(0.0, seconds))))
