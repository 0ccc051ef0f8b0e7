"""`dicom-adapter instances` and `ae-titles`: output, effects and exit status."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.testing import Adapter
from support.grouping import StudyProcessor

ONLY_B = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
[submitters.platform]
type = "memory"
[ae-titles.B]
processor = "by-study"
settings = { pipeline-b = "p2" }
"""
SETTINGS_A = 'settings = { required = "AdmissionID", pipeline-a = "p1" }'
CONFIGURATION = ONLY_B + f'[ae-titles.A]\nprocessor = "by-study"\n{SETTINGS_A}\n'
STUDY = "2.25.4711"
USER = pwd.getpwuid(os.getuid()).pw_name

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, memory_submitter: None) -> Command:
    """Return a function that runs a command for the adapter in `tmp_path` and checks its exit status."""

    def run(*arguments: object, status: int = 0, answer: str | None = None) -> Result:
        words = [str(argument) for argument in (*arguments, "-c", tmp_path / "adapter.toml")]
        result = CliRunner().invoke(app, words, env={"COLUMNS": "80"}, input=answer)
        assert status == result.exit_code, result.output
        return result

    return run


@pytest.fixture
def adapter(make_adapter: Callable[[str], Adapter], tmp_path: Path) -> Adapter:
    """An adapter with quarantined instances 1 to 3 at AE title A (1 and 2 of one study) and pending instance 4 at B."""
    (tmp_path / "adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    filled = make_adapter(CONFIGURATION)
    for study in (STUDY, STUDY, "2.25.1"):
        filled.receive(make_instance(rows=2, columns=2, patient_id="PID-4711", study_uid=study), ae_title="A")
    filled.receive(make_instance(rows=2, columns=2), ae_title="B")
    assert {"quarantined": 3, "pending": 1} == filled.states
    return filled


def listed(command: Command, *filters: object) -> list[int]:
    return [row["instanceId"] for row in json.loads(command("instances", "list", "--json", *filters).stdout)]


def test_instances_are_listed_by_filters(adapter: Adapter, command: Command) -> None:
    """The newest instance is first. An instance must match all filters."""
    assert [4, 3, 2, 1] == listed(command)
    assert [3, 2] == listed(command, "--state", "quarantined", "--limit", 2)
    assert [2, 1] == listed(command, "--study", STUDY, "--ae-title", "A", "--reason", "admissionid")
    assert [] == listed(command, "--reason", "100%")
    assert [4] == listed(command, "--state", "pending")
    text = command("instances", "list", "--ae-title", "A", "--limit", 1).stdout
    assert f"    {json.loads(command('instances', 'show', 3, '--json').stdout)['reason']}\n" in text
    assert "No instances.\n" == command("instances", "list", "--state", "released").stdout


def test_an_instance_is_shown_with_its_story_and_without_its_patient(adapter: Adapter, command: Command) -> None:
    shown = json.loads(command("instances", "show", 1, "--json").stdout)
    assert ("A", "quarantined", STUDY) == (shown["aeTitle"], shown["state"], shown["studyInstanceUid"])
    assert ["instance_quarantined"] == [event["event"] for event in shown["events"]]
    for output in (json.dumps(shown), command("instances", "show", 1).stdout, command("instances", "list").stdout):
        assert "PID-4711" not in output
    assert "there is no instance 99" in command("instances", "show", 99, status=1).stderr
    adapter.advance(5)
    assert [job.job_id for job in adapter.jobs] == json.loads(command("instances", "show", 4, "--json").stdout)["jobs"]


def test_requeue_reports_requeued_and_refused_instances(adapter: Adapter, command: Command) -> None:
    """The exit status is 1 if any instance is refused.

    After the configuration is corrected, requeued instances become a job.
    """
    refused = command("instances", "requeue", 1, 4, 99, "--json", status=1)
    assert {
        "requeued": [1],
        "refused": {
            "4": "it is pending: only quarantined instances can be requeued",
            "99": "there is no such instance",
        },
    } == json.loads(refused.stdout)
    adapter.host.run_until_idle()  # the instance is quarantined again
    output = command("instances", "requeue", "--all", "--ae-title", "A", "--study", STUDY).stdout
    assert "2 instances requeued\n" == output
    adapter.restart(CONFIGURATION.replace("AdmissionID", "StudyInstanceUID"))
    adapter.advance(5)
    assert [1, 2] == sorted(job.instance_count for job in adapter.jobs)
    assert USER in [event.detail.get("by") for event in adapter.events]


def test_discard_requires_confirmation(adapter: Adapter, command: Command) -> None:
    """Without confirmation nothing happens. With --yes the command does not ask.

    Verified to fail when `discard` does not ask.
    """
    asked = command("instances", "discard", "--all", "--study", STUDY, status=1, answer="n\n")
    assert "Discard 2 instances permanently?" in asked.stderr
    assert 3 == adapter.states["quarantined"]
    assert command("instances", "discard", 1, answer="y\n").stdout.endswith("1 instance discarded\n")
    assert "2 instances discarded\n" == command("instances", "discard", "--all", "--yes").stdout
    refused = command("instances", "discard", 4, "--yes", status=1).stderr
    assert "instance 4 is not discarded: it is pending at AE title 'B', which is served" in refused
    adapter.advance(60)
    assert {"reclaimed": 4} == adapter.states


def test_pending_instances_of_a_removed_ae_title_can_be_discarded(
    adapter: Adapter, command: Command, tmp_path: Path
) -> None:
    """Until the service is restarted without the AE title, the command refuses: the processor may use the instances."""
    without_b = CONFIGURATION.replace("[ae-titles.B]", "[ae-titles.C]")
    (tmp_path / "adapter.toml").write_text(without_b, encoding="utf-8")
    discard = ("instances", "discard", "--all", "--state", "pending", "--yes")
    assert "the running service serves" in command(*discard, status=1).stderr
    adapter.restart(without_b)
    [row] = json.loads(command("instances", "list", "--state", "pending", "--json").stdout)
    assert row["heldBecause"].startswith("it is not configured; 1 pending and 0 quarantined instances are held")
    assert row["heldBecause"] in " ".join(command("instances", "list", "--state", "pending").stdout.split())
    assert "1 instance discarded\n" == command(*discard).stdout


def test_export_writes_one_file_for_each_instance(adapter: Adapter, command: Command, tmp_path: Path) -> None:
    """Instances in any state are exported if they have a stored object. No file is overwritten."""
    out = tmp_path / "new" / "folder"
    assert "4 instances exported\n" == command("instances", "export", "--all", "--to", out).stdout
    assert ["1.dcm", "2.dcm", "3.dcm", "4.dcm"] == sorted(path.name for path in out.iterdir())
    assert (STUDY, 0o700) == (dcmread(out / "1.dcm").StudyInstanceUID, out.stat().st_mode & 0o777)
    refused = command("instances", "export", 1, 99, "--to", out, status=1).stderr
    assert f"instance 1 is not exported: {out / '1.dcm'} already exists" in refused
    assert "instance 99 is not exported: there is no such instance" in refused
    adapter.advance(60)
    reclaimed = command("instances", "export", 4, "--to", tmp_path / "other", status=1).stderr
    assert "instance 4 is not exported: it is reclaimed: its file was deleted" in reclaimed
    command("instances", "export", 1, "--to", out / "1.dcm", status=2)


@pytest.mark.parametrize("name", ["requeue", "discard", "export"])
@pytest.mark.parametrize("words", [(), (1, "--all"), (1, "--study", STUDY)], ids=["neither", "both", "filtered"])
def test_a_selection_must_be_either_ids_or_all_with_filters(
    adapter: Adapter, command: Command, tmp_path: Path, name: str, words: tuple[object, ...]
) -> None:
    """Any other selection is a usage error, and nothing happens."""
    where = ("--to", tmp_path / "out") if name == "export" else ()
    command("instances", name, *words, *where, status=2)
    assert {"quarantined": 3, "pending": 1} == adapter.states


@pytest.mark.parametrize("name", ["discard", "export"])
def test_the_option_state_requires_the_option_all(
    adapter: Adapter, command: Command, tmp_path: Path, name: str
) -> None:
    """The state of an instance is not checked if its id is given, so the option would have no effect."""
    where = ("--to", tmp_path / "out") if name == "export" else ()
    assert "filters need --all" in command("instances", name, 1, "--state", "pending", *where, status=2).stderr
    assert {"quarantined": 3, "pending": 1} == adapter.states


def test_ae_titles_are_listed_with_state_and_counts(adapter: Adapter, command: Command) -> None:
    lanes = {row["aeTitle"]: row for row in json.loads(command("ae-titles", "list", "--json").stdout)}
    assert {"A": ("running", 0, 3), "B": ("running", 1, 0)} == {
        name: (row["state"], row["pending"], row["quarantined"]) for name, row in lanes.items()
    }
    assert "running" in command("ae-titles", "list").stdout


def test_ae_titles_are_restarted_by_name(adapter: Adapter, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an AE title that cannot be restarted, the reason is reported and the exit status is 1."""
    opened: list[str] = []
    monkeypatch.setattr(StudyProcessor, "open", lambda self: opened.append(self.ae_title))
    result = command("ae-titles", "restart", "B", "NOBODY", status=1)
    assert ("B will be restarted\n", "warning: AE title 'NOBODY' is not configured\n") == (
        result.stdout,
        result.stderr,
    )
    adapter.advance(2)
    assert (["B"], LaneState.RUNNING) == (opened, adapter.lanes["B"].state)
    assert 1 == [event.event for event in adapter.events].count("lane_restarted")
