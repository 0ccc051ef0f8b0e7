"""Stories of events that an earlier version of the adapter has recorded, with fewer members of their details."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from dicom_adapter.dicom.synthetic import make_study
from dicom_adapter.ledger import events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.schema import events as events_table
from dicom_adapter.operations.story import Story
from dicom_adapter.testing import Adapter

STUDY = "2.25.1"
CONFIGURATION = """
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
"""
OF_A_JOB = (
    "job_created", "job_attempt_failed", "job_faulted", "job_failed", "job_retried", "job_clean_up_failed",
    "job_metadata_incomplete", "job_platform_state", "results_collected", "results_sender_unknown",
)  # fmt: skip
OF_AN_INSTANCE = (
    "instance_ignored", "instance_quarantined", "instance_requeued", "instance_noted", "result_quarantined",
    "result_requeued", "result_discarded", "result_returned",
)  # fmt: skip


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter]) -> Adapter:
    return make_adapter(CONFIGURATION)


def texts(story: Story) -> list[str]:
    return [entry.text for section in story.sections for entry in section.entries]


@pytest.mark.parametrize("associations", [1, 4], ids=["single", "together"])
def test_an_end_of_an_association_without_members_is_shown(
    adapter: Adapter, associate: Callable[..., str], story_of: Callable[..., Story], associations: int
) -> None:
    """Verified to fail when the story requires the members `how` and `statuses`."""
    study = make_study(instances=associations, study_uid=STUDY, rows=2, columns=2)
    names = [associate(adapter, [instance]) for instance in study]
    duplicate = associate(adapter, study[:1], caller="PACS")
    with adapter.ledger.write() as transaction:
        transaction.execute(events_table.update().where(events_table.c.event == "association_closed").values(detail={}))
    found = texts(story_of(adapter, STUDY))
    if associations == 1:
        assert f"CT1 (127.0.0.1) sent 1 instance; association {names[0]} ended at 08:00:00." == found[0]
    else:
        assert "CT1 (127.0.0.1) sent 4 instances, in 4 associations; 4 have no recorded end." == found[0]
    assert found[1].startswith(f"1 duplicate arrived in association {duplicate}. It was not kept: ")


def test_each_event_without_members_is_shown(
    adapter: Adapter, associate: Callable[..., str], story_of: Callable[..., Story]
) -> None:
    """No sentence has a colon or parentheses for a text that is missing."""
    associate(adapter, make_study(instances=1, study_uid=STUDY, rows=2, columns=2))
    adapter.advance(6)
    [job] = adapter.jobs
    at = adapter.clock.now()
    recorded = [Event(at=at, event=name, ae_title="LUNG", job_id=job.job_id) for name in OF_A_JOB]
    recorded += [Event(at=at, event=name, ae_title="LUNG", instance_id=1) for name in OF_AN_INSTANCE]
    with adapter.ledger.write() as transaction:
        events.record(transaction, recorded)
    found = texts(story_of(adapter, STUDY))
    assert [] == [text for text in found if re.search(r" [ .,)]|[:(][.,)]", text)]
    assert len(found) > len(OF_A_JOB)
