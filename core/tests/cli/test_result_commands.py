"""`dicom-adapter results`, and results in `explain`, `status`, `audit` and `instances`."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import dcmread
from sqlalchemy import update
from typer.testing import CliRunner

from dicom_adapter import Job, JobState, Permanent
from dicom_adapter.cli import app
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger.schema import InstanceState, instances
from dicom_adapter.operations.audit import Audit
from dicom_adapter.operations.repair import Repair
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, Site, output

Command = Callable[..., Result]

STORED = """
[storage]
path = "data"
backend = "files"
watermark-percent = 100
reserve = 0
durability = "process"
"""
REASON = "its Patient ID is not that of the inputs of its study"
USER = pwd.getpwuid(os.getuid()).pw_name
GOOD, BAD = 3, 4  # ids of the results: the job has the instances 1 and 2


@pytest.fixture
def command(tmp_path: Path, memory_submitter: None) -> Command:
    """Return a function that runs a command for the adapter in `tmp_path` and checks its exit status."""

    def run(*arguments: object, status: int = 0, answer: str | None = None) -> Result:
        words = [str(argument) for argument in (*arguments, "-c", tmp_path / "adapter.toml")]
        result = CliRunner().invoke(app, words, env={"COLUMNS": "80"}, input=answer)
        assert status == result.exit_code, result.output
        assert all(len(line) <= 80 for line in result.stdout.splitlines() if "`" not in line and "/" not in line)
        return result

    return run


@pytest.fixture
def site(make_adapter: Callable[[str], Adapter], tmp_path: Path) -> Site:
    """An adapter with the results of one job: a good one, a quarantined one, and an attachment."""
    (tmp_path / "adapter.toml").write_text(STORED + CONFIGURATION, encoding="utf-8")
    site = Site(make_adapter(STORED + CONFIGURATION))
    site.end_job({"a.dcm": output(1), "b.dcm": output(2, patient_id="OTHER"), "DOE^JOHN.JSON": b"{}"})
    return site


@pytest.fixture
def job(site: Site) -> Job:
    return site.adapter.jobs[0]


def shown(result: Result) -> str:
    """Return the text with single spaces."""
    return " ".join(result.output.split())


def test_results_are_listed_with_their_jobs_destinations_and_reasons(command: Command, job: Job) -> None:
    text = shown(command("results", "list", "--utc"))
    assert f"{BAD} LUNG quarantined since" in text
    assert f"from job {job.job_id}" in text
    assert REASON in text
    assert f"results export {BAD} --to FOLDER" in text
    assert "pacs: delivered at 2026-01-05 08:00:15" in text
    assert "archive: delivered at" in text


def test_a_listing_can_be_limited_to_a_state_and_a_job(command: Command, job: Job) -> None:
    """Names of outputs may contain patient data, and are not shown."""
    found = json.loads(command("results", "list", "--job", job.job_id[:8], "--json").output)
    assert [BAD, GOOD] == [one["instanceId"] for one in found if "instanceId" in one]
    assert [1] == [one["attachment"] for one in found if "attachment" in one]
    assert "DOE" not in json.dumps(found)
    found = json.loads(command("results", "list", "--state", "quarantined", "--json").output)
    assert [(BAD, REASON, [])] == [(one["instanceId"], one["reason"], one["deliveries"]) for one in found]
    assert "attachment 1" in command("results", "list", "--job", job.job_id).output


def test_no_results_are_reported(command: Command, site: Site) -> None:
    assert "No results." in command("results", "list", "--state", "pending").output
    assert "explain" in command("results", "list", "--study", "1.2.3").output


def test_an_unknown_job_is_an_error(command: Command, site: Site) -> None:
    assert "there is no job" in command("results", "list", "--job", "unknown", status=1).output


def test_the_id_of_a_job_is_not_that_of_a_result(command: Command, job: Job) -> None:
    error = shown(command("results", "show", job.job_id[:8], status=1))
    assert f"'{job.job_id[:8]}' is the id of a job, not of a result: `dicom-adapter results list --job" in error
    for unknown in ("99", "nothing", "9" * 30):
        error = shown(command("results", "show", unknown, status=1))
        assert f"there is no result {unknown}; `dicom-adapter results list -c" in error


@pytest.mark.parametrize("words", [("export", "--to", "out"), ("requeue",), ("discard", "--yes")])
def test_only_ids_of_results_select_results(command: Command, job: Job, words: tuple[str, ...]) -> None:
    """Other texts end the command before it changes anything.

    Verified to fail when the argument is a list of integers: then the error names no next step.
    """
    error = " ".join(command("results", *words, BAD, job.job_id[:8], status=1).stderr.split())
    assert f"'{job.job_id[:8]}' is the id of a job, not of a result: `dicom-adapter results list --job" in error
    error = " ".join(command("results", *words, BAD, "lost", status=1).stderr.split())
    assert "there is no result lost; `dicom-adapter results list -c" in error
    assert "quarantined since" in shown(command("results", "list"))


def test_jobs_with_attachments_only_are_listed(make_adapter: Callable[[str], Adapter], tmp_path: Path) -> None:
    """With the command to export them. Verified to fail when only results are listed."""
    (tmp_path / "adapter.toml").write_text(STORED + CONFIGURATION, encoding="utf-8")
    site = Site(make_adapter(STORED + CONFIGURATION))
    site.end_job({"a.json": b"{}", "b.json": b"[1]"})
    [job] = site.adapter.jobs
    for options, line in (
        ([], f"job {job.job_id}  2 attachments, 5 bytes"),
        (["--job", job.job_id], "attachment 2  3 bytes"),
    ):
        words = ["results", "list", *options, "-c", str(tmp_path / "adapter.toml")]
        listed = CliRunner().invoke(app, words, env={"COLUMNS": "80"}).output
        assert line in listed.splitlines()
        assert f"results export --all --job {job.job_id[:8]} --to FOLDER -c" in " ".join(listed.split())
        assert "No results" not in listed


def test_what_cannot_be_undone_needs_an_answer(command: Command, job: Job) -> None:
    """Ids are checked before the question. Without a terminal, the error names `--yes`."""
    unknown = command("results", "discard", "99", status=1)
    assert "result 99 is not discarded: there is no such result" in unknown.output
    assert "permanently?" not in unknown.output
    assert "instance 99 is not discarded" in (of_instances := command("instances", "discard", "99", status=1)).output
    assert "permanently?" not in of_instances.output
    refused = shown(command("results", "discard", BAD, 99, status=1))
    assert "Discard 1 result permanently? [y/N]" in refused
    assert "error: nothing was changed, because there was no answer: use a terminal, or add --yes" in refused
    assert "error: nothing was changed" in command("results", "discard", BAD, status=1, answer="n\n").output
    assert "1 result discarded" in command("results", "discard", BAD, answer="y\n").output


def test_a_result_is_shown_with_its_deliveries_and_events(command: Command, job: Job) -> None:
    text = shown(command("results", "show", GOOD, "--utc"))
    for expected in (f"job {job.job_id}", "deliveries pacs: delivered at", "archive: delivered at", "2.25.771"):
        assert expected in text
    text = shown(command("results", "show", BAD))
    assert "result_quarantined" in text
    assert "results requeue 4" in text
    found = json.loads(command("results", "show", GOOD, "--json").output)
    assert ["pacs", "archive"] == [one["destination"] for one in found["deliveries"]]
    assert "there is no result 1" in command("results", "show", 1, status=1).output


def test_results_and_attachments_are_exported(command: Command, job: Job, tmp_path: Path) -> None:
    """The name of an output never becomes a path: only its ending is used."""
    folder = tmp_path / "exported"
    text = command("results", "export", "--all", "--job", job.job_id, "--state", "quarantined", "--to", folder).output
    assert "1 result exported, and 1 attachment" in text
    assert ["4.dcm", "attachment-1.json"] == sorted(path.name for path in folder.iterdir())
    assert "OTHER" == dcmread(folder / "4.dcm").PatientID
    assert b"{}" == (folder / "attachment-1.json").read_bytes()
    assert "already exists" in command("results", "export", BAD, "--to", folder, status=1).output
    assert "there is no such result" in command("results", "export", 1, "--to", folder, status=1).output


def test_a_reclaimed_result_cannot_be_exported(command: Command, site: Site, tmp_path: Path) -> None:
    site.adapter.advance(120)
    text = command("results", "export", GOOD, "--to", tmp_path / "exported", status=1).output
    assert "its file was deleted" in text


def test_a_result_that_still_fails_the_check_is_not_requeued(command: Command, site: Site) -> None:
    text = shown(command("results", "requeue", BAD, status=1))
    assert f"result 4 is not requeued: {REASON}; `--force` delivers it nevertheless" in text
    assert 0 == len(site.events("result_requeued"))


def test_a_forced_result_is_delivered_to_each_destination(command: Command, site: Site) -> None:
    """The result keeps the reason of its quarantine."""
    found = json.loads(command("results", "requeue", "--all", "--force", "--json").output)
    assert ([BAD], {}, 2) == (found["requeued"], found["refused"], len(found["jobs"]))
    site.adapter.advance(10)
    assert 2 == len(site.delivered_to("pacs")) == len(site.delivered_to("archive"))
    assert [{"by": USER, "reason": REASON}] == site.events("result_requeued")
    assert "requeued by an operator, although its Patient ID" in shown(command("results", "show", BAD))
    assert "its file was deleted already" in shown(command("results", "requeue", BAD, status=1))


def test_a_result_that_passes_the_check_now_is_delivered(command: Command, site: Site) -> None:
    """Here, the Patient ID of an input was corrected in the ledger after the first check."""
    with site.adapter.ledger.write() as transaction:
        transaction.execute(update(instances).where(instances.c.instance_id == 1).values(patient_id="OTHER"))
    text = shown(command("results", "requeue", BAD))
    assert "1 result requeued" in text
    assert "delivers to pacs" in text
    site.adapter.advance(10)
    assert ["", ""] == [row.reason for row in site.results]
    assert 2 == len(site.delivered_to("pacs"))


def test_a_result_that_no_destination_could_accept_is_not_forced(command: Command, site: Site) -> None:
    site.end_job({"cut.dcm": output(9, "another")[:200]}, seed="another")
    text = shown(command("results", "requeue", site.results[-1].instance.instance_id, "--force", status=1))
    assert "no destination could accept it" in text


def test_a_requeued_result_without_a_destination_is_kept(command: Command, site: Site, tmp_path: Path) -> None:
    file = tmp_path / "adapter.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('to = ["pacs", "archive"]', ""), encoding="utf-8")
    assert "no destination is configured" in shown(command("results", "requeue", BAD, "--force"))
    site.adapter.advance(300)
    assert InstanceState.RELEASED is site.results[-1].state
    assert site.results[-1].keep_until is not None


def test_a_discarded_result_is_deleted(command: Command, site: Site) -> None:
    command("results", "discard", BAD, status=1, answer="n\n")
    assert "1 result discarded" in command("results", "discard", BAD, answer="y\n").output
    site.adapter.advance(120)
    assert [(InstanceState.RECLAIMED, "submitted"), (InstanceState.RECLAIMED, "discarded")] == [
        (row.state, row.outcome) for row in site.results
    ]
    assert f"discarded by an operator: {REASON}" in shown(command("results", "show", BAD))
    assert "was deleted already" in command("results", "discard", BAD, "-y", status=1).output


def test_a_result_that_a_job_needs_is_not_discarded(command: Command, site: Site) -> None:
    site.adapter.platform.fail("upload", Permanent("refused"), times=1, pipeline_id="results")
    site.end_job({"a.dcm": output(9, "another")}, seed="another")
    number = site.results[-1].instance.instance_id
    assert "needs it: cancel the job first" in shown(command("results", "discard", number, "-y", status=1))
    assert JobState.FAULTED in [job.state for job in site.deliveries]


def test_instances_commands_refuse_results(command: Command, site: Site) -> None:
    for action in (("requeue",), ("discard", "-y")):
        text = shown(command("instances", action[0], BAD, *action[1:], status=1))
        assert f"use `dicom-adapter results {action[0]}`" in text
    assert "No instances" in command("instances", "list", "--state", "quarantined").output
    assert "0 instances discarded" in command("instances", "discard", "--all", "-y").output


@pytest.mark.parametrize("words", [("requeue",), ("requeue", "1", "--all"), ("discard", "1", "--study", "1.2")])
def test_wrong_options_are_usage_errors(command: Command, site: Site, words: tuple[str, ...]) -> None:
    command("results", *words, status=2)


# --- other commands ---------------------------------------------------------------------------------------------------


def test_the_story_of_a_study_has_its_results(command: Command, site: Site) -> None:
    study = make_instance(seed="study").StudyInstanceUID
    text = shown(command("explain", study, "--utc"))
    assert "produced 1 result, 1 more that was quarantined and 1 attachment" in text
    assert f"1 result was quarantined: {REASON}." in text
    assert "was queued to deliver 1 result of job" in text
    assert "`dicom-adapter results requeue 4 -c " in text
    assert "2 instances in 1 series" in text


def test_the_story_of_a_result_names_its_job(command: Command, job: Job, site: Site) -> None:
    text = shown(command("explain", "2.25.771", "--utc"))
    assert f"Job {job.job_id[:8]} produced this result" in text
    assert "to pacs" in text
    text = shown(command("explain", job.job_id, "--utc"))
    assert "produced 1 result" in text
    assert "was queued to deliver 1 result" in text
    text = shown(command("explain", site.deliveries[0].job_id, "--utc"))
    assert "was queued to deliver 1 result" in text


def test_the_story_of_a_returned_result_says_so(command: Command, site: Site) -> None:
    source = make_instance(seed="study")
    site.adapter.receive(
        make_instance(seed="study", sop_uid="2.25.771", series_uid="2.25.77", study_uid=source.StudyInstanceUID)
    )
    text = shown(command("explain", "2.25.771"))
    assert "1 instance was not processed: the adapter has sent it itself (result 3), and it came back." in text


def test_status_shows_quarantined_results(command: Command, site: Site) -> None:
    text = shown(command("status", status=3))  # the service is not running
    assert "1 result quarantined: `dicom-adapter results list --state quarantined" in text
    assert "1 quarantined (" in text and ", 1 result among them)" in text


def test_the_audit_has_an_equation_of_results(command: Command, site: Site) -> None:
    text = command("audit").output
    assert "LUNG: 2 received = 2" in text
    assert "LUNG: 2 results = 1 quarantined + 1" in text
    found = json.loads(command("audit", "--json").output)
    assert [(2, 0)] == [(one["results"], one["difference"]) for one in found["results"]]


def test_a_missing_attachment_is_reported_and_not_repaired(job: Job, site: Site) -> None:
    """Verified to fail when the repair expects an instance id in each finding."""
    adapter = site.adapter
    adapter.storage.delete([attachment.storage_key for attachment in site.attachments(job)])
    resources = Resources(ledger=adapter.ledger, storage=adapter.storage, clock=adapter.clock)
    [result] = Repair(resources).run(Audit(resources, is_running=lambda: False).run())
    assert not result.repaired
    assert result.text.startswith("attachment 1 has no object: restore it from a copy of the storage")
