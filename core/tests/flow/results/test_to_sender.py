"""`to-sender = true`: results are delivered to the AE titles that have sent the instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from attrs import evolve

from dicom_adapter import JobState, Retriable
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.results.destinations import DestinationFacts, Destinations, choose, list_sender_notices
from dicom_adapter.flow.results.operators import Requeue, ResultChanges
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.operations.story import make_story
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, WAIT_S, Site, output

MakeAdapter = Callable[..., Adapter]

PACS_KNOWS_CT1 = CONFIGURATION.replace(
    '[submitters.pacs]\ntype = "memory"', '[submitters.pacs]\ntype = "memory"\nae-title = "CT1"'
)
TO_SENDER = PACS_KNOWS_CT1.replace('to = ["pacs", "archive"]', "to-sender = true")
TO_BOTH = TO_SENDER.replace("to-sender = true", 'to = ["archive"]\nto-sender = true')
KNOWN = {
    "platform": DestinationFacts(node_ae_title=None),
    "ct1": DestinationFacts(node_ae_title="CT1"),
    "pacs": DestinationFacts(node_ae_title="PACS"),
    "pacs-tls": DestinationFacts(node_ae_title="PACS"),
}


def run_job(site: Site, *senders: str) -> str:
    """Let a job with one instance of each sender end with a result; return its id."""
    for number, sender in enumerate(senders, 1):
        site.adapter.receive(make_instance(seed="study", instance_number=number), calling_ae_title=sender)
    site.adapter.advance(WAIT_S)
    return site.end_job({"a.dcm": output()}, site.adapter.jobs[-1]).job_id


def requeue(site: Site, known: dict[str, DestinationFacts], settings: ResultsConfig) -> ResultChanges:
    """Requeue all results with other submitters and settings, as after a change of the configuration."""
    return Requeue(
        resources=site.adapter.resources,
        settings={"LUNG": settings},
        known=known,
        history=timedelta(days=30),
        by="operator",
    ).run([row.instance.instance_id for row in site.results])


@pytest.mark.parametrize(
    ("to", "senders", "expected", "unknown"),
    [
        ((), ["CT1"], ["ct1"], []),
        ((), ["CT1", "PACS"], ["ct1", "pacs"], []),
        (("pacs-tls",), ["CT1", "PACS"], ["pacs-tls", "ct1"], []),
        (("ct1",), ["CT1"], ["ct1"], []),
        (("ct1",), ["CT1", "MR1", "ct1"], ["ct1"], ["MR1", "ct1"]),
        ((), [], [], []),
    ],
)
def test_each_known_sender_is_a_destination_once(
    to: Sequence[str], senders: Sequence[str], expected: Sequence[str], unknown: Sequence[str]
) -> None:
    """A submitter of `to` that has the AE title of the sender is enough. AE titles are case-sensitive."""
    settings = ResultsConfig(to=to, to_sender=True)
    assert Destinations(submitters=expected, unknown_senders=unknown) == choose(settings, senders, KNOWN)
    assert Destinations(submitters=list(to)) == choose(ResultsConfig(to=to), senders, KNOWN)


def test_notices_name_what_does_not_work() -> None:
    settings = ResultsConfig(to_sender=True)
    [notice] = list_sender_notices(settings, {"platform": DestinationFacts(node_ae_title=None)})
    assert "no submitter sends to a DICOM node: add a [submitters.<name>] table" in notice
    [notice] = list_sender_notices(settings, KNOWN)
    assert "the sender PACS go to the submitter pacs, the first that sends to this AE title" in notice
    assert not list_sender_notices(ResultsConfig(to=("pacs-tls",), to_sender=True), KNOWN)
    assert not list_sender_notices(ResultsConfig(), {})


def test_the_sender_gets_the_results(make_adapter: MakeAdapter) -> None:
    """Verified to fail when the AE titles of the submitters are not read."""
    site = Site(make_adapter(TO_SENDER))
    run_job(site, "CT1")
    assert [output()] == site.delivered_to("pacs")
    assert not site.delivered_to("archive")
    assert not site.events("results_sender_unknown")


def test_a_sender_that_is_named_as_a_destination_gets_the_results_once(make_adapter: MakeAdapter) -> None:
    """Verified to fail when the submitters of `to` are not compared with those of the senders."""
    site = Site(make_adapter(PACS_KNOWS_CT1 + "to-sender = true\n"))
    run_job(site, "CT1")
    assert ["pacs", "archive"] == [job.submitter for job in site.deliveries]
    assert [output()] == site.delivered_to("pacs")


def test_results_for_an_unknown_sender_are_kept_and_delivered_later(make_adapter: MakeAdapter) -> None:
    """The known destination gets them at once. Verified to fail when `keep_until` ignores unknown senders."""
    site = Site(make_adapter(TO_BOTH))
    job_id = run_job(site, "CT1", "MR1")
    assert ["archive", "pacs"] == [job.submitter for job in site.deliveries]
    assert [{"senders": ["MR1"]}] == site.events("results_sender_unknown")
    with site.adapter.ledger.read() as transaction:
        story = make_story(transaction, job_id, site.adapter.clock.now())
    [text] = [entry.text for entry in story.sections[0].entries if entry.kind == "results_sender_unknown"]
    assert "are not delivered to MR1" in text
    assert f"results requeue --all --state released --job {job_id[:8]}" in text
    site.wait_days(20)
    assert [InstanceState.RELEASED] == [row.state for row in site.results]

    settings = ResultsConfig(to=("archive",), to_sender=True)
    [refusal] = requeue(site, {"pacs": DestinationFacts(node_ae_title="CT1")}, settings).refused.values()
    assert "no submitter sends to 'MR1'; add a [submitters.<name>] table" in refusal

    known = {"pacs": DestinationFacts(node_ae_title="CT1"), "platform": DestinationFacts(node_ae_title="MR1")}
    changes = requeue(site, known, settings)
    assert (["platform"], set()) == ([job.submitter for job in changes.jobs], changes.unknown_senders)
    assert [None] == [row.keep_until for row in site.results]
    [refusal] = requeue(site, known, settings).refused.values()
    assert "it is released and may be deleted at any moment" in refusal


def test_a_removed_submitter_gets_no_further_results_of_a_sender(make_adapter: MakeAdapter) -> None:
    """It only finishes its work. Otherwise, it would get more while its node is down, and drain for ever.

    Verified to fail when draining submitters are destinations of senders.
    """
    site = Site(make_adapter(TO_SENDER))
    site.adapter.platform.fail("upload", Retriable("down"), times=99, pipeline_id="results")
    run_job(site, "CT1")
    left = {name: table for name, table in site.adapter.config.submitters.items() if name != "pacs"}
    site.adapter.configure(evolve(site.adapter.config, submitters=left), Draining(submitters=["pacs"]))
    site.adapter.receive(make_instance(seed="other"), calling_ae_title="CT1")
    site.adapter.advance(WAIT_S)
    site.end_job({"a.dcm": output(2, seed="other")}, site.adapter.jobs[-1])
    assert ["pacs"] == [job.submitter for job in site.deliveries]
    assert [{"senders": ["CT1"]}] == site.events("results_sender_unknown")


def test_a_result_is_not_delivered_twice_to_a_destination(make_adapter: MakeAdapter) -> None:
    site = Site(make_adapter(TO_BOTH + "keep-days = 3\n"))
    run_job(site, "CT1")
    changes = requeue(site, KNOWN | {"pacs": DestinationFacts(node_ae_title="CT1")}, ResultsConfig(to=("pacs",)))
    assert (["each destination has a delivery job of it"], []) == (list(changes.refused.values()), changes.jobs)


def test_the_return_of_a_result_starts_no_job(make_adapter: MakeAdapter) -> None:
    """The sender is this adapter itself: what it sends to itself is acknowledged, and not processed."""
    site = Site(make_adapter(TO_SENDER))
    run_job(site, "CT1")
    jobs = len(site.adapter.jobs)
    returned = make_instance(
        seed="study",
        sop_uid="2.25.771",
        series_uid="2.25.77",
        study_uid=make_instance(seed="study").StudyInstanceUID,
    )
    site.adapter.receive(returned, calling_ae_title="CT1")
    site.adapter.advance(10 * WAIT_S)
    assert jobs == len(site.adapter.jobs)
    assert 1 == len(site.events("result_returned"))
    assert JobState.SUBMITTED is site.deliveries[0].state
