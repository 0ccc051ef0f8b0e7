"""The commands: their output for people and for scripts, and their exit status."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydicom import dcmread
from typer.main import get_command
from typer.testing import CliRunner

from dicom_adapter.api.values import Job
from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, jobs_in_ledger, write_study

PIPELINE = 'pipeline-a = "pipeline-1"\n'
CONFIGURATION = (
    STORAGE
    + f"""
[ae-titles.LUNG.settings]
priority = "higher"
{PIPELINE}pipeline-b = "pipeline-2"

[ae-titles.CLOSED]
allowed-callers = ["CT1"]
settings = {{ pipeline-a = "pipeline-1" }}
"""
)
COLUMNS = 80
DEMO_SECONDS = 150  # limit for a busy machine; usually the demo takes about 30 seconds


def command(*arguments: object, status: int = 0) -> Result:
    """Run a command in this process and check its exit status."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    assert status == result.exit_code, result.output
    return result


@pytest.fixture(scope="module", autouse=True)
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The process of `dicom-adapter demo`, which runs during the other tests because it is slow."""
    environment = {"TMPDIR": str(tmp_path_factory.mktemp("demo")), "COLUMNS": str(COLUMNS)}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    program = [sys.executable, "-m", "dicom_adapter", "demo"]
    with subprocess.Popen(program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        yield run
        run.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LaunchedService]:
    """A service shared by all tests. It has received a study of three instances at LUNG."""
    path = tmp_path_factory.mktemp("commands") / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    write_study(path.parent / "study", instances=3)
    launched = LaunchedService(path, "--port", "0")
    sent = command("send", path.parent / "study", "--to", f"LUNG@127.0.0.1:{launched.port()}")
    assert sent.stdout.startswith("3 of 3 files sent to LUNG@")
    yield launched
    launched.kill()


@pytest.fixture
def two_jobs(service: LaunchedService) -> list[Job]:
    """The jobs of the study at LUNG, in the order of LUNG's pipelines."""
    for pipeline in ("pipeline-1", "pipeline-2"):
        queued = service.wait_for("job_queued", ae_title="LUNG", pipeline=pipeline)
        service.wait_for("job_submitted", job_id=queued["job_id"])
    return [job for job in jobs_in_ledger(service) if job.ae_title == "LUNG"]


# --- run --------------------------------------------------------------------------------------------------------------


def test_all_mistakes_of_a_configuration_are_reported_and_nothing_starts(launch_service: LaunchService) -> None:
    """Each of three mistakes causes a message with the file and the key. No data folder is created."""
    mistakes = STORAGE.replace("reserve = 0", 'reserve = "a lot"') + (
        '[ae-titles.LUNG.settings]\ntimeout = 3\npriority = "urgent"\n' + PIPELINE
    )
    service = launch_service(mistakes)
    assert 1 == service.wait()
    service.wait_for("text", times=3)
    assert [
        'storage.reserve = \'a lot\', must be a size such as "5 GB" or "512 MiB" (the default is "5 GB")',
        "AE title 'LUNG': settings.timeout = 3, must be at least 5 seconds",
        "AE title 'LUNG': settings.priority = 'urgent', must be one of lower, normal, higher, immediate "
        "(the default is normal)",
    ] == [str(entry["text"]).removeprefix(f"error: {service.configuration}: ") for entry in service.logged("text")]
    assert not (service.configuration.parent / "data").exists()


def test_a_port_or_data_folder_in_use_prevents_the_start(
    service: LaunchedService, launch_service: LaunchService
) -> None:
    """The error names the port or folder, the exit status is 1, and the other service is not affected."""
    folder = service.configuration.parent / "data"
    port = service.port()
    same_port = launch_service(CONFIGURATION, "--port", str(port), name="same-port")
    same_folder = launch_service(CONFIGURATION.replace('"data"', f'"{folder}"'), name="same-folder")
    reasons = {
        same_port: f"cannot listen on 0.0.0.0:{port}: Address already in use; "
        "stop the program that uses the port, or choose another port",
        same_folder: f"another dicom-adapter (PID {service.pids()[0]}) is already using {folder}",
    }
    assert reasons == {run: run.wait_for("service_not_started")["reason"] for run in reasons}
    assert [1, 1] == [same_port.wait(), same_folder.wait()]
    command("echo", "--to", f"LUNG@127.0.0.1:{port}")


def test_the_log_format_console_is_plain_text(tmp_path: Path) -> None:
    """Each event is a line of text instead of a line of JSON."""
    path = tmp_path / "adapter.toml"
    path.write_text(f'[log]\nformat = "console"\n{CONFIGURATION}', encoding="utf-8")
    program = [sys.executable, "-m", "dicom_adapter", "run", str(path), "--port", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        line = next(line for line in run.stderr if "service_listening" in line)
        assert re.search(r"\[info +\] service_listening +.*port=[0-9]+", line)
        run.terminate()
        rest = run.stderr.read()
    assert "service_stopped" in rest
    assert 0 == run.returncode


@pytest.mark.parametrize("name", ["run", "check"])
@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing.toml", "No such file or directory; name another file, or write a new one: dicom-adapter init "),
        ("binarie.toml", "No such file or directory; did you mean {folder}/binary.toml?\n"),
        ("binary.toml/inner.toml", "Not a directory\n"),
        ("binary.toml", "not UTF-8, which TOML requires\n"),
    ],
)
def test_an_unreadable_configuration_is_an_error_that_names_it(
    tmp_path: Path, name: str, file: str, reason: str
) -> None:
    """The message has the file, the reason and the next step, and the exit status is 1."""
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    stderr = command(name, tmp_path / file, status=1).stderr
    assert stderr.startswith(f"error: {tmp_path / file}: {reason.format(folder=tmp_path)}")


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_shows_what_each_ae_title_does(service: LaunchedService) -> None:
    """The output is a table, or JSON with --json."""
    shown = command("check", service.configuration).stdout
    assert "groups by study, ready 5 s after the last instance, 2 pipelines (a, b)" in re.sub(r"\s*│[│\s]*", " ", shown)
    assert shown.endswith(f"{service.configuration}: no errors\n")
    report = json.loads(command("check", service.configuration, "--json").stdout)
    assert (True, []) == (report["ok"], report["problems"])
    assert {
        "aeTitle": "LUNG",
        "processor": "aetitle",
        "description": "groups by study, ready 5 s after the last instance, 2 pipelines (a, b), priority higher",
        "submitter": "platform",
        "refused": "",
    } == report["aeTitles"][0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("LUNG.settings]\ntimeout = 3\n" + PIPELINE, "'LUNG': settings.timeout = 3, must be at least 5 seconds"),
        ('LUNG.settings]\ntimeout = "x"\n' + PIPELINE, "'LUNG': settings.timeout = 'x', must be a number"),
        ('LUNG.settings]\npriority = "urgent"\n' + PIPELINE, "'LUNG': settings.priority = 'urgent', must be one of"),
        ("LUNG.settings]\ntimeout = 5\n", "'LUNG': settings.pipeline-<name> must be given at least once"),
        ("LUNG.settings]\ntimout = 5\n" + PIPELINE, "settings.timout is not a known key; did you mean 'timeout'?"),
        ("SEVENTEEN-LETTERS.settings]\n" + PIPELINE, "'SEVENTEEN-LETTERS': must have at most 16 characters"),
        ('"".settings]\n' + PIPELINE, "'': must not be empty"),
        ('"   ".settings]\n' + PIPELINE, "'   ': must not be empty"),
        (r'"A\\B".settings]' + "\n" + PIPELINE, r"'A\\B': must not contain '\\'"),
        (r'"A\u0007B".settings]' + "\n" + PIPELINE, r"'A\x07B': must not contain '\x07'"),
        (
            f'"LUNG".settings]\n{PIPELINE}[ae-titles."LUNG  ".settings]\n{PIPELINE}',
            "'LUNG  ': must not be given twice: 'LUNG' and 'LUNG  ' are the same key",
        ),
    ],
)
def test_check_reports_each_mistake_with_its_location(tmp_path: Path, table: str, message: str) -> None:
    """The message names the AE title, the setting, the value and the rule."""
    path = tmp_path / "adapter.toml"
    path.write_text(f"{STORAGE}\n[ae-titles.{table}", encoding="utf-8")
    [line] = command("check", path, status=1).stderr.splitlines()
    assert line.startswith(f"error: {path}: AE title ")
    assert message in line
    report = json.loads(command("check", path, "--json", status=1).stdout)
    assert [line] == [f"error: {path}: {problem}" for problem in report["problems"]]


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_plugins_lists_the_installed_plugins() -> None:
    """The list has kind, name and distribution of each component that a configuration can select."""
    listed = json.loads(command("plugins", "--json").stdout)
    assert {
        ("processor", "aetitle", "dicom-adapter-aetitle", ""),
        ("storage backend", "local", "dicom-adapter-core", ""),
        ("submitter", "fake", "dicom-adapter-clara-client", ""),
    } <= {(row["kind"], row["name"], row["distribution"], row["problem"]) for row in listed}
    assert "dicom-adapter-aetitle" in command("plugins").stdout


# --- send and echo ----------------------------------------------------------------------------------------------------


def test_echo_reports_by_exit_status_if_a_peer_answers(service: LaunchedService) -> None:
    """Exit status 0: the peer answers; 1: no response, or the association is rejected; 2: the address is invalid."""
    peer = f"127.0.0.1:{service.port()}"
    assert f"LUNG@{peer} answered in " in command("echo", "--to", f"LUNG@{peer}").stdout
    assert "called ae title" in command("echo", "--to", f"NOBODY@{peer}", status=1).stderr.lower()
    command("echo", "--to", f"CLOSED@{peer}", status=1)
    command("echo", "--to", f"CLOSED@{peer}", "--from", "CT1")
    assert "is not of the form AET@HOST:PORT" in " ".join(command("echo", "--to", peer, status=2).stderr.split())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "cannot be reached" in command("echo", "--to", f"LUNG@127.0.0.1:{port}", status=1).stderr


def test_send_reports_files_that_were_not_sent(service: LaunchedService, tmp_path: Path) -> None:
    """Exit status 0: all files were sent; 1: some files were not sent; 2: a file does not exist."""
    write_study(tmp_path / "study")
    peer = f"127.0.0.1:{service.port()}"
    refused = json.loads(command("send", tmp_path, "--to", f"CLOSED@{peer}", "--json", status=1).stdout)
    assert (0, 2) == (refused["sent"], refused["failed"])
    sent = json.loads(command("send", tmp_path, "--to", f"CLOSED@{peer}", "--from", "CT1", "--json").stdout)
    assert (2, 0, 1) == (sent["sent"], sent["failed"], sent["associations"])
    command("send", tmp_path / "missing", "--to", f"LUNG@{peer}", status=2)


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_are_listed_by_state(service: LaunchedService, two_jobs: list[Job]) -> None:
    """The newest job is first. The output is a table, or JSON with --json."""
    listed = json.loads(command("jobs", "list", "-c", service.configuration, "--ae-title", "LUNG", "--json").stdout)
    assert [("pipeline-2", "higher", "submitted", 3), ("pipeline-1", "higher", "submitted", 3)] == [
        (job["pipelineId"], job["priority"], job["state"], job["instances"]) for job in listed
    ]
    faulted = command("jobs", "list", "-c", service.configuration, "--state", "faulted", "--json").stdout
    assert [] == json.loads(faulted)
    assert listed[0]["jobId"][:8] in command("jobs", "list", "-c", service.configuration).stdout


def test_a_job_is_found_by_the_first_digits_of_its_id(service: LaunchedService, two_jobs: list[Job]) -> None:
    """The output has the job's story. Digits that match no job, or several, are refused."""
    job = two_jobs[0]
    shown = json.loads(command("jobs", "show", job.job_id[:12].upper(), "-c", service.configuration, "--json").stdout)
    assert (job.job_id, job.name) == (shown["jobId"], shown["name"])
    story = ["job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted"]
    assert story == [event["event"] for event in shown["events"]]
    assert job.name in command("jobs", "show", job.job_id, "-c", service.configuration).stdout
    for unknown in ("nothing", "%"):
        refusal = command("jobs", "show", unknown, "-c", service.configuration, status=1).stderr
        assert f"error: there is no job whose id begins with '{unknown}'" in refusal
    ambiguous = command("jobs", "show", "", "-c", service.configuration, status=1).stderr
    assert "error: several job ids begin with ''; enter more characters\n" == ambiguous


def test_jobs_without_a_ledger_is_an_error_and_creates_no_ledger(tmp_path: Path) -> None:
    """If no service has used the data folder, the command reports an error and creates no file."""
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    assert "there is no ledger at sqlite:" in command("jobs", "list", "-c", path, status=1).stderr
    assert [path] == list(tmp_path.iterdir())


# --- help and demo ----------------------------------------------------------------------------------------------------


def names_of(group: Any) -> Iterator[str]:
    """Yield all commands of the program, including the commands of its groups, as a user types them."""
    for name, command in group.commands.items():
        yield from (f"{name} {inner}" for inner in names_of(command)) if hasattr(command, "commands") else [name]


@pytest.mark.parametrize("name", list(names_of(get_command(app))))
def test_the_help_of_every_command_describes_exit_status_or_arguments(name: str) -> None:
    text = command(*name.split(), "--help").stdout
    assert "Exit status:" in text or "Arguments" in text


def instances_by_ae_title(jobs: list[tuple[str, str]]) -> Counter[str]:
    """Return the number of instances in jobs, given as AE title and number of instances."""
    found: Counter[str] = Counter()
    for ae_title, instances in jobs:
        found[ae_title] += int(instances)
    return found


def test_demo_shows_the_path_to_the_results_and_next_steps(demo: subprocess.Popen[str]) -> None:
    """The patient of LUNG and the three studies of HEAD become jobs. The results are files in the named folder.

    Usually there are four jobs. If other processes use the machine, a group may become several jobs, and a study may
    have more than two results.
    """
    output, _ = demo.communicate(timeout=DEMO_SECONDS)
    assert 0 == demo.returncode, output
    succeeded = re.findall(r" (LUNG|HEAD)-example-\d{14}-[0-9a-f]{6}: (\d+) instances?, succeeded", output)
    delivered = re.findall(r" (LUNG|HEAD)-.*-to-pacs: (\d+) results?, submitted", output)
    processed = instances_by_ae_title(succeeded)
    assert processed["HEAD"] >= 12
    assert processed["LUNG"] >= 20
    assert len(delivered) == len(succeeded) >= 4
    results = sum(instances_by_ae_title(delivered).values())
    assert results >= 16
    assert f"Done. 8 studies became {len(succeeded)} jobs." in output
    assert ("Usually there are 4 jobs." in output) == (len(succeeded) != 4)
    assert [] == [line for line in output.splitlines() if len(line) > COLUMNS and "/" not in line]
    for line in (".* init$", ".* run$", ".* send studies --to DICOM-ADAPTER@", ".* jobs list", ".* results list"):
        assert re.search(rf"^  {line}", output, re.MULTILINE)
    [folder] = re.findall("They are in (.*)$", output, re.MULTILINE)
    modalities = Counter(dcmread(path).Modality for path in Path(folder).rglob("*.dcm"))
    assert {"OT": results // 2, "SR": results // 2} == modalities
    assert [Path(folder)] == list(Path(folder).parent.iterdir())
