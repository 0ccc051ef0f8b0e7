"""`dicom-adapter jobs` in a terminal of 80 columns: output, effects and exit status."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_adapter import Job, JobState, Permanent, Retriable
from dicom_adapter.cli import app
from dicom_adapter.cli import jobs as commands
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger.schema import job_instances
from dicom_adapter.testing import Adapter, Plugin, make_instance
from support.scripted_platform import ScriptedPlatform

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0
durability = "process"
[submitters.platform]
type = "scripted"
retry-first = 2
retry-most = 64
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "8abf244aff7647989d4f6b3987a85759" }
[ae-titles.HEAD]
processor = "by-study"
settings = { pipeline-two = "p2" }
"""
STUDY = "2.25.302926829370518469812370501237816283469012"
ERROR = "the platform answered 503 Service Unavailable; the volume with the payloads has no free space, see page 12"
COLUMNS = 80

Command = Callable[..., Result]


class Platform(ScriptedPlatform):
    """A platform that fails every call with `error`, if there is one."""

    error: Exception | None = None

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def adapter(make_adapter: Callable[..., Adapter], tmp_path: Path, platform: Platform) -> Adapter:
    (tmp_path / "adapter.toml").write_text(CONFIGURATION, encoding="utf-8")
    adapter: Adapter = make_adapter(CONFIGURATION, Plugin(platform, name="scripted"))
    return adapter


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs a command for the adapter in `tmp_path` and checks its exit status."""

    def run(*words: object, status: int = 0, answer: str | None = None) -> Result:
        arguments = [str(word) for word in (*words, "-c", tmp_path / "adapter.toml")]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": str(COLUMNS)}, input=answer)
        assert status == result.exit_code, result.output
        return result

    return run


def receive(adapter: Adapter, study: str = STUDY, ae_title: str = "LUNG", instances: int = 2) -> None:
    """Receive a study and wait until its group is due."""
    for number in range(1, instances + 1):
        adapter.receive(make_instance(rows=2, columns=2, study_uid=study, instance_number=number), ae_title=ae_title)
    adapter.advance(6)


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that sets the local zone of this process."""

    def choose(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_a_faulted_job_is_listed_with_its_study_its_whole_reason_and_the_command(
    adapter: Adapter, platform: Platform, command: Command, tmp_path: Path
) -> None:
    """No value is cut at 80 columns; the reason wraps. The command has the configuration file that was named.

    Verified to fail when the lines are cut at the width of the terminal.
    """
    platform.error = Permanent(ERROR)
    receive(adapter)
    [job] = adapter.jobs
    shown = command("jobs", "list").stdout
    lines = shown.splitlines()
    assert f"{job.job_id}  faulted since 2026-01-05 08:00:05 UTC" == lines[0]
    assert f"    {job.name}" == lines[1]
    assert "    AE title LUNG, pipeline 8abf244aff7647989d4f6b3987a85759, priority normal" == lines[2]
    assert f"    2 instances of study {STUDY}" == lines[3]
    assert f"attempt 1 failed: {ERROR}" in one_line(shown)
    retry = f"dicom-adapter jobs retry {job.job_id[:8]} -c {tmp_path / 'adapter.toml'}"
    assert any(retry in line for line in lines), "a command is not wrapped, so that it can be copied"
    assert f"waits for an operator: `{retry}`, or `jobs cancel`" in one_line(shown)
    assert [] == [line for line in lines if len(line) > COLUMNS and str(tmp_path) not in line]


def test_a_postponed_job_is_listed_with_the_time_of_its_next_attempt(
    adapter: Adapter, platform: Platform, command: Command
) -> None:
    platform.error = Retriable("no answer")
    receive(adapter)
    [job] = adapter.jobs
    assert job.next_attempt_at is not None
    shown = one_line(command("jobs", "list").stdout)
    next_attempt = f"next attempt to create it on the platform at {job.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    assert f"attempt {job.attempts} failed: no answer {next_attempt}" in shown


def test_a_job_of_several_studies_is_listed_with_their_number_and_shown_with_all_of_them(
    adapter: Adapter, command: Command
) -> None:
    """The processor of the test has one study in each job, so an instance of another study is added in the ledger."""
    receive(adapter, "2.25.1")
    receive(adapter, "2.25.2", instances=1)
    _second, first = sorted(adapter.jobs, key=lambda job: job.instance_count)
    with adapter.ledger.write() as transaction:
        transaction.execute(
            job_instances.update().where(job_instances.c.job_number == 2).values(job_number=1, position=7)
        )
    listed = command("jobs", "list", "--limit", 2, "--json").stdout
    assert [2] == [job["studies"] for job in json.loads(listed) if job["jobId"] == first.job_id]
    shown = command("jobs", "show", first.job_id).stdout
    assert "studies           2.25.1 (2 instances)\n                  2.25.2 (1 instance)\n" in shown
    report = json.loads(command("jobs", "show", first.job_id, "--json").stdout)
    assert (2, None) == (report["studies"], report["studyInstanceUid"])


def test_show_has_no_cut_value_and_each_error_once(adapter: Adapter, platform: Platform, command: Command) -> None:
    platform.error = Permanent(ERROR)
    receive(adapter)
    [job] = adapter.jobs
    shown = command("jobs", "show", job.job_id[:8]).stdout
    for value in (job.job_id, job.name, job.pipeline_id, STUDY):
        assert value in shown
    assert 1 == one_line(shown).count(ERROR)
    assert "error: as above" in shown
    assert "08:00:05 UTC  job_faulted\n" in shown


@pytest.mark.parametrize(
    ("zone", "options", "shown"),
    [("Asia/Kolkata", [], "2026-01-05 13:30:05 +05:30"), ("Asia/Kolkata", ["--utc"], "2026-01-05 08:00:05 UTC")],
)
def test_times_are_local_with_their_offset_or_utc_on_request(
    adapter: Adapter, command: Command, zone: str, options: list[str], shown: str, local_zone: Callable[[str], None]
) -> None:
    """JSON is always UTC."""
    receive(adapter)
    local_zone(zone)
    assert f" since {shown}\n" in command("jobs", "list", *options).stdout
    assert f"created           {shown}\n" in command("jobs", "show", adapter.jobs[0].job_id, *options).stdout
    assert "2026-01-05T08:00:05" in command("jobs", "list", "--json", *options).stdout
    assert adapter.jobs[0].name in command("jobs", "list", "--since", shown).stdout
    assert "No jobs.\n" == command("jobs", "list", "--until", shown).stdout


def test_a_study_without_a_job_is_answered_with_the_command_that_explains_it(
    adapter: Adapter, command: Command
) -> None:
    receive(adapter)
    shown = one_line(command("jobs", "list", "--study", "1.2.3", "--patient", "P 1").stdout)
    assert shown.startswith("No jobs. `dicom-adapter explain --study 1.2.3 --patient 'P 1' -c ")
    assert "shows why." in shown


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 3),
        (["--ae-title", "LUNG"], 2),
        (["--submitter", "platform", "--ae-title", "HEAD"], 1),
        (["--submitter", "other"], 0),
        (["--reason", "NO FREE space"], 3),
        (["--reason", "100%"], 0),  # % is a wildcard in SQL
        (["--state", "queued"], 0),
    ],
)
def test_all_faulted_jobs_that_match_the_filters_are_retried(
    adapter: Adapter, platform: Platform, command: Command, filters: list[str], count: int
) -> None:
    """`jobs list` has the same filters. A submitted job is not affected."""
    receive(adapter, "2.25.7")
    platform.error = Permanent(ERROR)
    for study, ae_title in (("2.25.1", "LUNG"), ("2.25.2", "LUNG"), ("2.25.3", "HEAD")):
        receive(adapter, study, ae_title)
    lines = command("jobs", "retry", "--all", *filters).stdout.count(" will be retried\n")
    assert lines == (1 if count == 1 else count + 1)  # a line for each job, and their number unless it is 1
    platform.error = None
    adapter.advance(10)
    states = [job.state for job in adapter.jobs]
    assert (1 + count, 3 - count) == (states.count(JobState.SUBMITTED), states.count(JobState.FAULTED))


def test_all_postponed_jobs_are_retried_at_once(adapter: Adapter, platform: Platform, command: Command) -> None:
    platform.error = Retriable("no answer")
    receive(adapter)
    adapter.advance(60)
    platform.error = None
    command("jobs", "retry", "--all")
    adapter.advance(1)
    assert [JobState.SUBMITTED] == [job.state for job in adapter.jobs]


def test_all_faulted_jobs_are_cancelled_after_a_confirmation(
    adapter: Adapter, platform: Platform, command: Command
) -> None:
    platform.error = Permanent(ERROR)
    receive(adapter, "2.25.1")
    receive(adapter, "2.25.2")
    assert "Cancel 2 jobs?" in command("jobs", "cancel", "--all", status=1, answer="n\n").stderr
    assert {JobState.FAULTED} == {job.state for job in adapter.jobs}
    command("jobs", "cancel", "--all", "--yes")
    adapter.advance(10)
    assert {JobState.CANCELLED} == {job.state for job in adapter.jobs}


@pytest.mark.parametrize("action", ["retry", "cancel"])
@pytest.mark.parametrize(
    "words", [[], ["a" * 32, "--all"], ["a" * 32, "--ae-title", "LUNG"], ["a" * 32, "--state", "queued"]]
)
def test_jobs_are_selected_by_ids_or_by_all_with_filters(
    adapter: Adapter, command: Command, action: str, words: list[str]
) -> None:
    assert "--all" in command("jobs", action, *words, status=2).stderr


def watch(monkeypatch: pytest.MonkeyPatch, command: Command, *steps: Callable[[], object]) -> list[str]:
    """Run `jobs watch`. Run one step each time when the command has read the ledger, then Ctrl-C. Return the lines."""
    remaining: Iterator[Callable[[], object]] = iter(steps)

    def run_step(_seconds: float) -> None:
        step = next(remaining, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(commands.time, "sleep", run_step)
    shown: list[str] = []
    for line in command("jobs", "watch").stdout.splitlines():
        assert len(line) <= COLUMNS or not line.startswith(" "), line
        if re.match(r"\d\d:\d\d:\d\d  ", line):  # not a line of the adapter's log
            assert len(line) <= COLUMNS, line
            shown.append(line)
        elif shown and line.startswith("    "):  # the line before was too long
            shown[-1] += f" {line.strip()}"
    return shown


def test_watch_prints_each_state_once(
    adapter: Adapter, platform: Platform, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States between two reads of the ledger are printed, too. Failed attempts with the same reason are printed once.

    Verified to fail when each change of the row is a line, and when only the last state of a job is printed.
    """
    receive(adapter, "2.25.1")

    def fail_some_time() -> None:
        platform.error = Retriable("no answer")
        receive(adapter, "2.25.2")
        adapter.advance(30)

    def recover() -> None:
        platform.error = None
        adapter.advance(100)

    lines = watch(monkeypatch, command, fail_some_time, lambda: None, recover, lambda: None)
    old, new = adapter.jobs
    assert re.fullmatch(rf"08:00:0\d  {old.job_id[:8]}  {old.name}  submitted", lines[0])
    shown = [line.partition(new.name)[2].strip() for line in lines[1:]]
    assert [
        "queued",
        "queued  attempt 1 failed: no answer",
        "created",
        "metadata-sent",
        "uploaded",
        "submitted",
    ] == shown


def test_watch_follows_a_job_that_is_retried(
    adapter: Adapter, platform: Platform, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job returns to the state whose step failed, although its row has a later state when it is read."""
    platform.error = Permanent(ERROR)
    receive(adapter)
    [job] = adapter.jobs

    def retry() -> None:
        platform.error = None
        operators.retry(adapter.ledger, adapter.clock, job.job_id)
        adapter.advance(10)

    lines = watch(monkeypatch, command, retry, lambda: None)
    assert [f"faulted  attempt 1 failed: {ERROR}", "queued", "created", "metadata-sent", "uploaded", "submitted"] == [
        line.partition(job.name)[2].strip() for line in lines
    ]
