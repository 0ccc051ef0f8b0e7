"""Interrupted groups: a C-STORE that failed, a data set that was cut off, or an association without a release.

A job of an interrupted group is *marked*: it has the metadata `Interrupted`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dicom_adapter import AssociationStatus
from dicom_adapter.testing import Adapter, ExpectedJob, make_study

STUDIES = '[ae-titles.LUNG.settings]\npipeline-lung = "p-lung"\n'
REFUSED = {"OUT_OF_RESOURCES": 60}
OPEN, ABORTED, LOST = AssociationStatus.OPEN, AssociationStatus.ABORTED, AssociationStatus.LOST
RETURN = 300  # seconds after the start at which the sender returns


@pytest.fixture
def adapter(make_adapter: Callable[[str], Adapter]) -> Adapter:
    return make_adapter(STUDIES)


def interrupted(adapter: Adapter) -> list[str]:
    """Return the metadata `Interrupted` of each job, "" if there is none."""
    return [job.metadata.get("Interrupted", "") for job in adapter.jobs]


def problems(adapter: Adapter) -> list[str]:
    """Return the problem of each waiting group, as operators see it."""
    adapter.advance(0.5)  # the lane reports every half second
    return [group.problem for group in adapter.lanes["LUNG"].waiting]


def test_interrupted_groups_are_shown_first(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """If only some of many groups are shown, these are the ones that need an operator.

    Verified to fail when the groups are chosen by their due time only.
    """
    monkeypatch.setattr("dicom_adapter.flow.process.lane.SHOWN_GROUPS", 1)
    adapter.receive(*make_study(instances=1))
    adapter.receive(*make_study(instances=1), status=ABORTED)
    assert "" not in problems(adapter)
    assert 2 == adapter.lanes["LUNG"].groups


# --- evidence that something is missing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evidence",
    [
        {"failed": REFUSED},
        {"failed": REFUSED, "status": ABORTED},
        {"cut_off": 1, "status": ABORTED},
        {"cut_off": 1, "status": LOST},
    ],
)
def test_group_with_evidence_waits_and_is_submitted_with_what_is_known(adapter: Adapter, evidence: Any) -> None:
    """Half a study waits 600 s for its sender, then it becomes a job with the metadata `Interrupted`.

    Verified to fail when `association_changed` does nothing.
    """
    study = make_study(instances=4)
    adapter.receive(*study[:2], calling_ae_title="CT1", **evidence)
    [problem] = problems(adapter)
    adapter.expect_jobs(by=599)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study[:2], at=600), by=601)
    assert [problem] == interrupted(adapter)
    assert "of CT1" in problem
    assert ("60 C-STOREs failed (60 OUT_OF_RESOURCES)" if "failed" in evidence else "1 data set cut off") in problem


def test_group_waits_from_the_first_failure_of_an_open_association(adapter: Adapter) -> None:
    """The association stays open after a failure: its later instances do not mean that the sender has returned."""
    study = make_study(instances=4)
    adapter.receive(*study[:2], association_id="a" * 32, status=OPEN, failed={"OUT_OF_RESOURCES": 1})
    adapter.receive(study[2], association_id="a" * 32, status=OPEN, at=10)
    adapter.expect_jobs(by=100)
    adapter.receive(study[3], association_id="a" * 32, at=100)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=600), by=800)
    assert "1 C-STORE failed" in interrupted(adapter)[0]


def test_evidence_concerns_only_the_studies_that_are_known(adapter: Adapter) -> None:
    """Other studies of the association are not interrupted."""
    first, second = make_study(instances=2), make_study(instances=2)
    adapter.receive(*first, *second, failed=REFUSED, studies=[str(second[0].StudyInstanceUID)])
    adapter.expect_jobs(
        ExpectedJob("p-lung", instances=first, at=5), ExpectedJob("p-lung", instances=second, at=600), by=700
    )


def test_association_without_stored_instances_is_evidence_for_its_studies(adapter: Adapter) -> None:
    """The rest of a study is refused as a whole in another association."""
    study = make_study(instances=2)
    adapter.receive(*study)
    adapter.receive(at=4, failed=REFUSED, studies=[str(study[0].StudyInstanceUID)])
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=604), by=700)


def test_crash_of_the_receiver_is_evidence(adapter: Adapter) -> None:
    """It is unknown which instances the receiver refused before its crash."""
    study = make_study(instances=2)
    adapter.receive(*study, status=OPEN)
    adapter.crash_receiver()
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=600), by=700)
    assert "crashed" in interrupted(adapter)[0]


def test_group_by_another_attribute_is_interrupted_too(make_adapter: Callable[[str], Adapter]) -> None:
    """If a failed study has no group, every group of its association is interrupted: its patient may lack the study."""
    adapter = make_adapter(STUDIES + 'group-by = "patient"\n')
    study = make_study(instances=2)
    adapter.receive(*study, failed=REFUSED, studies=["1.2.3"])
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=600), by=700)


# --- return of the sender ---------------------------------------------------------------------------------------------


def test_sender_that_returns_completes_the_group(adapter: Adapter) -> None:
    """The rest arrives in a clean association: one job, five seconds later, which is not marked."""
    study = make_study(instances=4)
    adapter.receive(*study[:2], failed=REFUSED)
    adapter.receive(*study[2:], at=RETURN)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=RETURN + 5), by=700)
    assert [""] == interrupted(adapter)


def test_clean_association_of_duplicates_completes_the_group(adapter: Adapter) -> None:
    """The sender sends everything again, and nothing was missing: the group is due at once."""
    study = make_study(instances=2)
    adapter.receive(*study, status=LOST, cut_off=1)
    adapter.receive(*study, at=RETURN)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=RETURN), by=700)
    assert [""] == interrupted(adapter)


def test_group_that_is_continued_but_not_completed_is_marked(adapter: Adapter) -> None:
    """An arrival ends the wait; without a clean association the group may still be incomplete."""
    study = make_study(instances=4)
    adapter.receive(*study[:2], failed=REFUSED)
    adapter.receive(study[2], at=RETURN, status=OPEN)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study[:3], at=RETURN + 5), by=700)
    assert "more instances since" in interrupted(adapter)[0]


def test_return_that_fails_again_waits_again(adapter: Adapter) -> None:
    """Each interruption has its own wait."""
    study = make_study(instances=4)
    adapter.receive(*study[:2], failed=REFUSED)
    adapter.receive(study[2], at=RETURN, failed={"PROCESSING_FAILURE": 1})
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study[:3], at=RETURN + 600), by=1000)
    assert 2 == interrupted(adapter)[0].count("association ")


def test_parallel_association_is_no_return(adapter: Adapter) -> None:
    """An association that began before the failure does not complete the group, however it ends."""
    study = make_study(instances=6)
    adapter.receive(*study[:2], association_id="b" * 32, status=OPEN)
    adapter.receive(*study[2:4], failed=REFUSED, at=1)
    adapter.receive(*study[4:], association_id="b" * 32, at=2)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=601), by=700)
    assert "" not in interrupted(adapter)


def test_another_sender_of_another_study_is_no_return(make_adapter: Callable[[str], Adapter]) -> None:
    """In a group by patient, a study of another modality completes nothing."""
    adapter = make_adapter(STUDIES + 'group-by = "patient"\n')
    ct, mr = make_study(instances=2, patient_id="P"), make_study(instances=2, patient_id="P")
    adapter.receive(*ct, calling_ae_title="CT1", failed=REFUSED)
    adapter.receive(*mr, calling_ae_title="MR1", at=RETURN)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=[*ct, *mr], at=600), by=700)
    assert "" not in interrupted(adapter)


# --- ends without evidence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [ABORTED, LOST])
def test_association_without_a_release_delays_its_groups_for_a_minute(adapter: Adapter, status: Any) -> None:
    """Nothing is known to be missing: the group waits 60 s."""
    study = make_study(instances=2)
    adapter.receive(*study, status=status)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=60), by=700)
    assert f"{'aborted' if status is ABORTED else 'lost'}" in interrupted(adapter)[0]


def test_sender_that_never_releases_its_associations_is_not_waited_for(adapter: Adapter) -> None:
    """From its tenth association in a row on, its groups are due as usual, and are not marked.

    Verified to fail when each association counts as the first one.
    """
    studies = [make_study(instances=1) for _number in range(12)]
    for number, study in enumerate(studies):
        adapter.receive(*study, at=number * 100, status=ABORTED)
    delays = [60] * 9 + [5] * 3
    adapter.expect_jobs(
        *[
            ExpectedJob("p-lung", instances=study, at=number * 100 + delay)
            for number, (study, delay) in enumerate(zip(studies, delays, strict=True))
        ],
        by=2000,
    )
    assert [True] * 9 + [False] * 3 == [bool(text) for text in interrupted(adapter)]


def test_release_restarts_the_count_of_associations_without_a_release(adapter: Adapter) -> None:
    """Each sender has its own count."""
    for _number in range(15):
        adapter.receive(*make_study(instances=1), status=ABORTED, calling_ae_title="CT1")
    adapter.receive(*make_study(instances=1), status=ABORTED, calling_ae_title="CT2", at=1000)
    adapter.receive(*make_study(instances=1), calling_ae_title="CT1", at=2000)
    adapter.receive(*make_study(instances=1), status=ABORTED, calling_ae_title="CT1", at=3000)
    adapter.advance(1000)
    assert [1060, 2005, 3060] == [(job.created_at - adapter.started_at).total_seconds() for job in adapter.jobs[-3:]]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_interrupted_group_that_is_submitted_does_not_wait_but_is_marked(
    make_adapter: Callable[[str], Adapter],
) -> None:
    adapter = make_adapter(STUDIES + 'interrupted = "submit"\n')
    study = make_study(instances=2)
    adapter.receive(*study, failed=REFUSED)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=5), by=700)
    assert "" not in interrupted(adapter)


def test_max_wait_does_not_limit_the_interrupted_wait(make_adapter: Callable[[str], Adapter]) -> None:
    adapter = make_adapter(STUDIES + "interrupted-wait = 120\nmax-wait = 30\n")
    study = make_study(instances=2)
    adapter.receive(*study, failed=REFUSED)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=120), by=700)


def test_held_group_waits_until_an_operator_ends_the_wait(make_adapter: Callable[[str], Adapter]) -> None:
    adapter = make_adapter(STUDIES + 'interrupted = "hold"\n')
    study, other = make_study(instances=2), make_study(instances=2)
    adapter.receive(*study, failed=REFUSED)
    adapter.receive(*other, failed=REFUSED)
    adapter.expect_jobs(by=50_000)
    adapter.restart()
    adapter.end_wait("LUNG", str(study[0].StudyInstanceUID))
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=50_000), by=60_000)
    assert "an operator has ended the wait" in interrupted(adapter)[0]
    assert [None] == [group.until for group in adapter.lanes["LUNG"].waiting]


def test_held_group_is_submitted_when_its_sender_returns(make_adapter: Callable[[str], Adapter]) -> None:
    adapter = make_adapter(STUDIES + 'interrupted = "hold"\n')
    study = make_study(instances=4)
    adapter.receive(*study[:2], failed=REFUSED)
    adapter.receive(*study[2:], at=20_000)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=20_005), by=50_000)
    assert [""] == interrupted(adapter)


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_interruption_survives_restarts(adapter: Adapter) -> None:
    """The reports are delivered again with the pending instances.

    Verified to fail when the inbox deletes delivered reports that concern pending instances.
    """
    study = make_study(instances=4)
    adapter.receive(*study[:2], failed=REFUSED)
    for second in (2, 30, 300):
        adapter.expect_jobs(by=second)
        # At each new report, the inbox deletes those that concern no pending instance.
        adapter.receive(failed=REFUSED, calling_ae_title="CT2", studies=["1.2.3"])
        adapter.restart()
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study[:2], at=600), by=700)
    assert "" not in interrupted(adapter)


def test_interruption_while_the_host_is_down_is_noticed(adapter: Adapter) -> None:
    """The host starts long after the group was due by the normal rule."""
    study = make_study(instances=2)
    with adapter.down():
        adapter.receive(*study, failed=REFUSED)
        adapter.advance(100)
    adapter.expect_jobs(ExpectedJob("p-lung", instances=study, at=600), by=700)
    assert "" not in interrupted(adapter)
