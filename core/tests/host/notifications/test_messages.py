"""Failures are reported, and only once, also after failures and restarts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from attrs import evolve

from dicom_adapter import NoticeKind, Permanent, Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.acceptance import Space
from dicom_adapter.host.notifications import conditions
from dicom_adapter.host.notifications.event_notices import kind_of_part
from dicom_adapter.ledger import senders
from dicom_adapter.ledger.health import PartState
from dicom_adapter.ledger.schema import events as events_table
from dicom_adapter.ledger.senders import Sender
from support.notification_bench import AE_TITLES, QUICK, KeptMessages, NotificationBench

MakeBench = Callable[..., NotificationBench]
PATIENT = "Nobody^Norbert"


def test_a_faulted_job_is_reported_with_ae_title_submitter_and_id(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.fault_job()
    bench.run()
    (message,) = bench.messages
    (notice,) = message.notices
    job = bench.adapter.jobs[0]
    assert (NoticeKind.JOB_FAULTED, "LUNG", "submitter memory", 1) == (
        notice.kind,
        notice.ae_title,
        notice.subject,
        notice.count,
    )
    assert (job.job_id,) == notice.job_ids
    assert "job-faulted at LUNG" in message.title
    assert "`dicom-adapter jobs list --state faulted`" in message.text


def test_a_quarantined_instance_is_reported(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.adapter.receive(make_instance(StudyDescription=""), ae_title="LUNG")
    bench.run()
    assert [["quarantined"]] == bench.kinds


def test_events_of_other_kinds_and_ae_titles_are_not_sent(make_bench: MakeBench) -> None:
    bench = make_bench(QUICK + 'events = ["job-faulted", "storage"]\nae-titles = ["HEAD"]\n')
    bench.fault_job("LUNG")
    bench.record("lane_stopped", "HEAD", reason="")
    bench.record("part_failing", part="storage", reason="disk full")
    bench.fault_job("HEAD")
    bench.run()
    assert [["storage", "job-faulted"]] == bench.kinds


def test_events_before_the_first_start_are_not_reported(make_bench: MakeBench) -> None:
    bench = make_bench("")
    bench.fault_job()
    config = bench.adapter.config
    bench.adapter.restart(AE_TITLES + QUICK)
    bench.start()
    bench.run(10)
    assert config != bench.adapter.config
    assert [] == bench.messages


def test_events_while_the_host_is_down_are_reported_after_its_start(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.fault_job()  # no step runs after it
    bench.start()
    assert [["job-faulted"]] == bench.kinds
    bench.start()
    bench.run(3600)
    assert 1 == len(bench.messages)


def test_a_message_that_fails_is_repeated_with_the_same_id_and_later_events(make_bench: MakeBench) -> None:
    """A dead server is visible in the health after three failures; nothing is lost.

    Verified to fail when the notices are removed before `send` returns.
    """
    bench = make_bench()
    KeptMessages.failure = Retriable("no answer from hooks.example")
    bench.fault_job()
    bench.run()
    assert PartState.OK is bench.finding().state
    bench.run(5)
    bench.record("instance_quarantined", "LUNG")
    bench.run(10)
    assert (PartState.DEGRADED, "2 notices not sent: no answer from hooks.example") == (
        bench.finding().state,
        bench.finding().reason,
    )
    bench.start()  # a restart tries again at once
    KeptMessages.failure = None
    bench.run(600)
    assert [["job-faulted", "quarantined"]] == bench.kinds
    assert 1 == len({attempt.notification_id for attempt in KeptMessages.attempts})
    assert PartState.OK is bench.finding().state


def test_a_permanent_failure_is_visible_at_once(make_bench: MakeBench) -> None:
    bench = make_bench()
    KeptMessages.failure = Permanent("hooks.example answered with status 404")
    bench.fault_job()
    bench.run()
    assert "1 notice not sent: hooks.example answered with status 404" == bench.finding().reason


def test_the_message_of_an_unexpected_error_is_not_shown(make_bench: MakeBench) -> None:
    bench = make_bench()
    KeptMessages.failure = ValueError(PATIENT)
    bench.fault_job()
    for seconds in (0, 5, 10):
        bench.run(seconds)
    assert "ValueError at" in bench.finding().reason
    assert PATIENT not in bench.finding().reason


def test_attempts_become_rare_and_never_end(make_bench: MakeBench) -> None:
    bench = make_bench()
    KeptMessages.failure = Retriable("no answer")
    bench.fault_job()
    bench.run()
    for _step in range(6 * 60):
        bench.run(60)
    assert 6 * 6 <= len(KeptMessages.attempts) <= 6 * 6 + 10


def test_the_end_of_a_reported_condition_is_reported_once(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.record("platform_down", part="platform memory", reason=PATIENT)
    bench.run()
    bench.start()
    bench.record("platform_up", part="platform memory", reason="")
    bench.run()
    bench.record("platform_up", part="platform memory", reason="")
    bench.run()
    assert [(False, "platform memory"), (True, "platform memory")] == [
        (notice.is_over, notice.subject) for message in bench.messages for notice in message.notices
    ]
    assert "platform memory is over" in bench.messages[1].title
    assert PATIENT not in "".join(map(repr, bench.messages))


def test_a_condition_that_was_not_reported_has_no_end(make_bench: MakeBench) -> None:
    bench = make_bench(QUICK + "recoveries = false\n")
    bench.record("part_recovered", part="host", reason="")
    bench.record("part_failing", part="host", reason="failed")
    bench.run()
    bench.record("part_recovered", part="host", reason="")
    bench.run()
    assert [["process"]] == bench.kinds


def test_its_own_failure_is_not_reported_by_a_notification(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.record("part_degraded", part="notification oncall", reason="")
    bench.record("part_degraded", part="notification other", reason="")
    bench.run()
    assert ["notification other"] == [notice.subject for message in bench.messages for notice in message.notices]


def test_a_lack_of_space_is_reported_when_it_lasts_and_when_it_ends(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    with monkeypatch.context() as full:
        full.setattr(conditions, "measure_space", lambda *_: Space(problem="the disk is not mounted"))
        bench.run(60)
        assert [] == bench.messages
        bench.run(60)
    assert [["storage"]] == bench.kinds
    assert "free space: associations are rejected: the disk is not mounted" in bench.messages[0].text
    bench.run(60)
    bench.run(60)
    assert ["free space is over"] == [message.title.partition(": ")[2] for message in bench.messages[1:]]


def test_a_silent_sender_is_reported_and_its_return(make_bench: MakeBench) -> None:
    bench = make_bench(QUICK + "silent-hours = {CT1 = 24}\n")
    _end_association(bench, "CT1")
    bench.run(60)
    bench.run(23 * 3600)
    assert [] == bench.messages
    bench.run(3600)
    bench.run(60)
    assert [["sender-silent"]] == bench.kinds
    assert "sender CT1: no association for 24 hours; the last ended at 2026-01-05 08:00 UTC" in bench.messages[0].text
    _end_association(bench, "CT1")
    bench.run(60)
    bench.run(60)
    assert [["sender-silent"], ["sender-silent"]] == bench.kinds


def test_an_unknown_number_of_failures_is_one_notice(make_bench: MakeBench) -> None:
    """However many events wait, a message stays small, and so does the state."""
    bench = make_bench('[notifications.oncall]\ntype = "kept"\ngather = 60\n')
    failed = bench.event("job_failed", "LUNG")
    bench.record_all([failed] * 2500)
    bench.record_all(bench.event("part_failing", part=f"server {number}", reason="") for number in range(2500))
    for _page in range(6):
        bench.run()
    bench.run(60)
    (message,) = bench.messages
    assert 501 == len(message.notices)  # the failed jobs, 499 servers and the others
    assert 5000 == sum(notice.count for notice in message.notices)


def test_a_restored_ledger_does_not_stop_the_notifications(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.record("job_failed", "LUNG")
    bench.run()
    with bench.adapter.ledger.write() as transaction:
        transaction.execute(events_table.delete())
    bench.start()
    bench.record("job_failed", "LUNG")
    bench.run()
    assert 2 == len(bench.messages)


def test_a_damaged_state_is_replaced(make_bench: MakeBench) -> None:
    bench = make_bench()
    (file,) = (bench.adapter.config.storage.path / "notifications").iterdir()
    file.write_text("{", encoding="utf-8")
    bench.start()
    bench.fault_job()
    bench.run()
    assert [["job-faulted"]] == bench.kinds


def test_a_reload_replaces_only_changed_notifications(make_bench: MakeBench) -> None:
    bench = make_bench(QUICK + '[notifications.other]\ntype = "kept"\n')
    before = bench.notifications.parts()
    config = bench.adapter.config
    changed = evolve(config.notifications["other"], pause=1.0)
    bench.apply(evolve(config, notifications={**config.notifications, "other": changed}))
    after = bench.notifications.parts()
    assert [True, False] == [before[part] == after[part] for part in before]
    bench.apply(evolve(config, notifications={}))
    assert {} == bench.notifications.parts()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("AE title LUNG", NoticeKind.AE_TITLE),
        ("platform watch lung-ai", NoticeKind.PLATFORM),
        ("submitter lung-ai", NoticeKind.PLATFORM),
        ("storage", NoticeKind.STORAGE),
        ("certificates", NoticeKind.CERTIFICATE),
        ("receiver 2", NoticeKind.PROCESS),
        ("service", NoticeKind.PROCESS),
        ("refusals of receiver", NoticeKind.PART),
        ("server http", NoticeKind.PART),
    ],
)
def test_the_kind_follows_from_the_part(part: str, kind: NoticeKind) -> None:
    assert kind is kind_of_part(part)


def _end_association(bench: NotificationBench, name: str) -> None:
    now = bench.adapter.clock.now()
    ended = Sender(
        calling_ae_title=name,
        ae_title="LUNG",
        peer_address="10.0.0.7",
        first_at=now - timedelta(minutes=1),
        last_at=now,
        associations=1,
        instances=1,
        refused=0,
    )
    with bench.adapter.ledger.write() as transaction:
        senders.add_associations(transaction, [ended])


PLANTED = ("Planted^Name", "PLANTED-ID", "PLANTED-ACC", "Planted description", "1.2.3.99887766")


def test_no_patient_data_and_no_uid_is_in_a_message_or_in_the_state(make_bench: MakeBench) -> None:
    """Values of instances, and messages of a platform that repeat them, are planted in everything that can fail."""
    name, patient, accession, description, uid = PLANTED
    planted = {"patient_name": name, "patient_id": patient, "accession_number": accession, "study_uid": uid}
    bench = make_bench()
    bench.adapter.platform.fail("create_job", Permanent(" ".join(PLANTED)))
    bench.adapter.receive(make_instance(**planted, StudyDescription=description), ae_title="LUNG")
    bench.adapter.advance(10)
    bench.adapter.receive(make_instance(**planted, StudyDescription=""), ae_title="LUNG")
    for event in ("platform_down", "part_failing", "part_degraded", "part_hangs"):
        for part in ("platform memory", "AE title LUNG", "submitter memory", "refusals of receiver", "server http"):
            bench.record(event, "LUNG", part=part, reason=" ".join(PLANTED))
    for event in ("job_incomplete", "lane_stopped", "instance_quarantined", "result_quarantined"):
        bench.record(event, "LUNG", reason=" ".join(PLANTED))
    KeptMessages.failure = Retriable("no answer")
    bench.run()
    KeptMessages.failure = None
    folder = bench.adapter.config.storage.path / "notifications"
    states = "".join(file.read_text(encoding="utf-8") for file in folder.iterdir())
    bench.run(5)
    (message,) = bench.messages
    assert 9 == len(message.notices)
    everything = states + repr(message)
    assert [] == [value for value in PLANTED if value in everything]
