"""The count finds whatever is wrong with what was kept and composed: each case changes evidence that is right.

Two studies came to the cache at 10 s. KEEP has a job of both, at 20 s, and left them there. GO has one of the second,
at 30 s, and took it along. The first study was deleted at 40 s, and came again at 50 s. GO was asked for again at 60 s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from faults.adapter import AE_TITLES, CACHE
from faults.count import count
from faults.count_cache import STILL_ARRIVING
from faults.evidence import Evidence, LedgerInstance, LedgerJob, PlatformFile, PlatformJob
from faults.orders import Call, Deletion, Order, Orders
from faults.records import Sent
from faults.shelf import Kept

PIPELINE = AE_TITLES[CACHE].pipelines[0]
FIRST, SECOND = "2.25.11", "2.25.12"  # studies of one instance each, whose UID has one more part


def sent(study: str, began: float) -> Sent:
    """An instance that was acknowledged half a second later."""
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
    """Its row."""
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
    """A submitted job."""
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
    """The same on the platform."""
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
    Call(order=GO, began=30.0),  # the answer was lost
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
    kept=(Kept(study_instance_uid=FIRST, sop_instance_uid=f"{FIRST}.1", digest=f"bytes of {FIRST}"),),
)

Change = Callable[[Evidence], Evidence]


def rules(evidence: Evidence) -> set[str]:
    """The rules that are broken."""
    return {finding.rule for finding in count(evidence)}


def changed(values_of: str, place: int, **changes: Any) -> Change:
    """One of these values is otherwise."""

    def change(good: Evidence) -> Evidence:
        values = list(getattr(good, values_of))
        values[place] = evolve(values[place], **changes)
        return evolve(good, **{values_of: tuple(values)})

    return change


def call(place: int, **changes: Any) -> Change:
    """One of the calls was otherwise."""

    def change(good: Evidence) -> Evidence:
        calls = list(COMPOSED)
        calls[place] = evolve(calls[place], **changes)
        return evolve(good, orders=evolve(good.orders, calls=tuple(calls)))

    return change


def also(**changes: Any) -> Change:
    """An order of the first study was given at 70 s, without an answer."""
    order = Order(key="MORE", studies=(FIRST,), pipeline=PIPELINE, insist=changes.pop("insist", False))
    more = Call(order=order, **{"began": 70.0, "answered": 70.5, **changes})
    return lambda good: evolve(good, orders=evolve(good.orders, calls=(*COMPOSED, more)))


def with_job(change: Change, instances: tuple[int, ...], **changes: Any) -> Change:
    """That order has a job."""

    def whole(good: Evidence) -> Evidence:
        return evolve(
            change(good),
            jobs=(*JOBS, evolve(job("MORE", instances), **changes)),
            platform_jobs=(*STARTED, started("MORE", 71.0, (FIRST,))),
        )

    return whole


def deletions(*made: Deletion) -> Change:
    """Other studies were deleted."""
    return lambda good: evolve(good, orders=evolve(good.orders, deletions=made))


COMPOSED_MORE = also(status=201, job_id="id of MORE")
SECOND_AGAIN = row(4, SECOND, 25.0, "quarantined", 25.0)

WRONG: dict[str, tuple[Change, str]] = {
    "an acknowledged instance has no row": (
        lambda good: evolve(good, sent=(*SENT, sent("2.25.13", 15.0))),
        "stood for",
    ),
    "it had gone before it was sent": (lambda good: evolve(good, sent=(*SENT, sent(SECOND, 45.0))), "stood for"),
    "its row has other bytes": (changed("sent", 1, digest="others"), "stood for"),
    "a row went with a job that was to keep it": (
        lambda good: evolve(good, orders=evolve(good.orders, deletions=())),
        "gone",
    ),
    "a row went before its study was deleted": (changed("instances", 0, changed=39.0), "gone"),
    "a row stays although its job took it along": (changed("instances", 1, state="pending"), "cleaned up"),
    "a row stays although its study was deleted": (changed("instances", 0, state="pending"), "cleaned up"),
    "an order failed": (call(3, status=500), "composed"),
    "a repeated order is another job": (call(3, job_id="another"), "composed"),
    "the answer names no job of the ledger": (call(0, job_id="another"), "composed"),
    "an order has two jobs": (
        lambda good: evolve(good, jobs=(*JOBS, evolve(JOBS[0], job_id="another"))),
        "composed",
    ),
    "a lost order has two jobs": (
        lambda good: evolve(with_job(also(answered=None), (3,))(good), jobs=(*JOBS, *[job("MORE", (3,))] * 2)),
        "composed",
    ),
    "a job is of another pipeline": (
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
    "a job lacks an instance that was there": (
        lambda good: evolve(
            good,
            sent=(*SENT, evolve(sent(FIRST, 12.0), sop_instance_uid=f"{FIRST}.2", digest="d2")),
            instances=(*ROWS, evolve(row(4, FIRST, 12.2, "reclaimed", 40.2), sop_instance_uid=f"{FIRST}.2")),
        ),
        "complete",
    ),
    "a job lacks an instance that came before the order was given again": (
        with_job(lambda good: also(status=201, job_id="id of MORE")(later(good)), (3,)),
        "complete",
    ),
    "what was refused has a job": (with_job(also(status=404), (3,)), "refused"),
    "a study that was there is unknown": (also(status=404), "refused"),
    "a study that came long ago is arriving": (also(status=409, problem=STILL_ARRIVING), "refused"),
    "who insists is refused": (also(began=52.0, status=409, problem=STILL_ARRIVING, insist=True), "refused"),
    "it is refused for something else": (also(began=52.0, status=409, problem="about:blank"), "refused"),
    "a repeated order is refused": (call(3, status=404), "refused"),
    "a kept instance is not shown": (lambda good: evolve(good, kept=()), "shown"),
    "a kept instance is shown twice": (lambda good: evolve(good, kept=good.kept * 2), "shown"),
    "what is gone is shown": (changed("kept", 0, sop_instance_uid="2.25.99"), "shown"),
    "other bytes are shown": (changed("kept", 0, digest="others"), "shown"),
}

RIGHT: dict[str, Change] = {
    "everything is right": lambda good: good,
    "the last order was lost": also(answered=None),
    "a lost order has a job": with_job(also(answered=None), (3,)),
    "an order has a job": with_job(COMPOSED_MORE, (3,)),
    "the adapter was busy": also(status=503),
    "a study that arrives is refused": also(began=52.0, status=409, problem=STILL_ARRIVING),
    "a study that is being deleted is unknown": lambda good: evolve(
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
    """One more instance of the first study was acknowledged at 60 s."""
    more = {"sop_instance_uid": f"{FIRST}.2"}
    return evolve(
        good,
        sent=(*SENT, evolve(sent(FIRST, 60.0), digest="d2", **more)),
        instances=(*ROWS, evolve(row(4, FIRST, 60.2, "pending", 60.2), **more)),
        stored=frozenset({"k3", "k4"}),
        kept=(*good.kept, Kept(study_instance_uid=FIRST, digest="d2", **more)),
    )


@pytest.mark.parametrize(("change", "rule"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(change: Change, rule: str) -> None:
    """The rule that is broken is among the findings."""
    assert rule in rules(change(GOOD))


@pytest.mark.parametrize("change", RIGHT.values(), ids=RIGHT.keys())
def test_what_may_be_is_no_finding(change: Change) -> None:
    """Nothing is found where the adapter kept its word."""
    assert set() == rules(change(GOOD))
