"""Starts in odd surroundings: one clear line and the documented exit status, or a service that works."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dicom_adapter.ledger.migration import REVISION
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, wait_until_submitted, write_study
from support.health import is_running
from support.listening import wait_until

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
)
PROGRAM = [sys.executable, "-m", "dicom_adapter"]
NOT_RUNNING = 3  # exit status of `status`


def run(*arguments: object, shell: str = 'exec "$@"') -> subprocess.CompletedProcess[str]:
    """Run a command through a shell, which redirects its output."""
    command = ["sh", "-c", shell, "sh", *PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a service that has run and was stopped."""
    path = tmp_path_factory.mktemp("odd") / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    service = LaunchedService(path, "--port", "0")
    service.port()
    assert 0 == service.stop()
    return path


# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.fixture
def newer(tmp_path: Path, stopped: Path) -> Iterator[Path]:
    """Return the configuration of a service whose ledger was upgraded by a newer version."""
    database = stopped.parent / "data" / "ledger.sqlite"
    with closing(sqlite3.connect(database, isolation_level=None)) as ledger:
        [[revision]] = ledger.execute("SELECT version_num FROM alembic_version")
        ledger.execute("UPDATE alembic_version SET version_num = '9999'")
        yield stopped
        ledger.execute("UPDATE alembic_version SET version_num = ?", [revision])


def test_a_ledger_of_a_newer_version_is_refused_by_the_service_and_every_command(newer: Path) -> None:
    """The reason is reported in one line. Verified to fail when the host lets Alembic find the revision."""
    reason = "has schema 9999, which this version does not know"
    service = LaunchedService(newer, "--port", "0")
    assert reason in service.wait_for("service_not_started")["reason"]
    assert 1 == service.wait()
    for command, status in (("status", 1), ("jobs list --config", 1), ("audit", 2)):
        done = run(*command.split(), newer)
        [line] = done.stderr.splitlines()
        assert reason in line
        assert (status, "") == (done.returncode, done.stdout)


def test_the_data_folder_may_have_any_name(launch_service: LaunchService) -> None:
    """The ledger and the cache's index are in it, not in a folder whose name ends before the `?` or `#`.

    Verified to fail when the ledger's path is parsed as a URL.
    """
    name = "a?b#c%20d e"
    cache = '[ae-titles.CACHE]\nprocessor = "cache"\n'
    service = launch_service(CONFIGURATION.replace('path = "data"', f'path = "{name}"') + cache)
    send(write_study(service.configuration.parent / "study", instances=2), service, "LUNG")
    send(write_study(service.configuration.parent / "kept", instances=2), service, "CACHE")
    wait_until_submitted(service, instances=2)
    assert 0 == run("status", service.configuration).returncode
    assert 0 == service.stop()
    assert 0 == run("audit", service.configuration).returncode
    folder = service.configuration.parent
    assert {"ledger.sqlite"} <= {path.name for path in (folder / name).iterdir()}
    assert [] == [path.name for path in folder.iterdir() if path.name != name and path.name.startswith("a?")]
    assert [] == [path.name for path in folder.iterdir() if path.name in ("a", "a?b")]


@pytest.mark.parametrize(("command", "status"), [("status", 1), ("jobs list --config", 1), ("audit", 2)])
@pytest.mark.parametrize("folder", ["x" * 300, "broken"])
def test_an_unreadable_ledger_causes_one_line_and_a_failure_status(
    tmp_path: Path, folder: str, command: str, status: int
) -> None:
    """The name of the folder is too long for the disk, or the ledger has no tables.

    Verified to fail when a command raises what the disk or the ledger raised.
    """
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION.replace('"data"', f'"{folder}"'), encoding="utf-8")
    if folder == "broken":
        (tmp_path / folder).mkdir()
        with closing(sqlite3.connect(tmp_path / folder / "ledger.sqlite")) as ledger:
            ledger.executescript(
                f"CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('{REVISION}');"
            )
    done = run(*command.split(), path)
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert (status, "") == (done.returncode, done.stdout)


# --- standard streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_the_service_runs_although_a_standard_stream_is_closed(stopped: Path, closed: str) -> None:
    """No file gets the number of a closed stream: the log must not be written to the ledger.

    Verified to fail when the numbers are not occupied.
    """
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "run", str(stopped), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
        try:
            wait_until(lambda: is_running(stopped) or service.poll() is not None)
            links = [str(Path(f"/proc/{service.pid}/fd/{number}").readlink()) for number in range(3)]
            service.send_signal(signal.SIGTERM)
            output, _errors = service.communicate(timeout=60)
        finally:
            service.kill()
    assert 0 == service.returncode
    assert not any(link.startswith(str(stopped.parent)) for link in links)
    if closed == "2>&-":
        assert "warning: standard error is closed: the service runs without a log\n" == output


COMMANDS = {  # and their exit status if the output cannot be written
    "--help": 1,
    "--version": 1,
    "jobs --help": 1,
    "check {0}": 1,
    "plugins": 1,
    "status {0}": 1,
    "status {0} --json": 1,
    "jobs list --config {0}": 1,
    "instances list --config {0}": 1,
    "ae-titles list --config {0}": 1,
    "audit {0}": 2,
    "audit {0} --json": 2,
}


@pytest.mark.parametrize(("command", "status"), COMMANDS.items(), ids=COMMANDS.keys())
def test_unwritable_output_causes_one_line_and_a_failure_status(stopped: Path, command: str, status: int) -> None:
    """The exit status is the one documented for failures: none that describes a result, such as `not running`.

    Verified to fail when the error is not caught, and when the buffer is flushed only at the end of the process.
    """
    arguments = command.format(stopped).split()
    full = run(*arguments, shell='exec "$@" >/dev/full')
    assert "error: standard output cannot be written: No space left on device\n" == full.stderr
    assert status == full.returncode


@pytest.mark.parametrize(("command", "status"), [("status {0}", 1), ("audit {0}", 2)])
def test_a_closed_output_is_an_error_and_a_closed_pipe_is_not_reported(
    stopped: Path, command: str, status: int
) -> None:
    """The reader of a closed pipe, such as `head`, needs no more output. Verified to fail when EPIPE is reported."""
    arguments = command.format(stopped).split()
    closed = run(*arguments, shell='exec "$@" >&-')
    assert ("error: standard output cannot be written: it is closed\n", status) == (closed.stderr, closed.returncode)
    reading, writing = os.pipe()
    os.close(reading)
    piped = subprocess.run([*PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=100)
    os.close(writing)
    assert (b"", status) == (piped.stderr, piped.returncode)


@pytest.mark.parametrize("errors", [">/dev/full", ">&-"])
def test_errors_that_cannot_be_written_do_not_change_the_exit_status(stopped: Path, errors: str) -> None:
    """Verified to fail when an error of writing to standard error is raised."""
    assert NOT_RUNNING == run("status", stopped, shell=f'exec "$@" 2{errors}').returncode
    assert 1 == run("status", stopped.parent / "missing.toml", shell=f'exec "$@" 2{errors}').returncode
    assert 2 == run("status", "--unknown", shell=f'exec "$@" 2{errors}').returncode


# --- signals ----------------------------------------------------------------------------------------------------------


@contextmanager
def signals_blocked(numbers: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.parametrize("is_blocked", [False, True], ids=["", "blocked"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_configuration_is_read_ends_the_command_with_status_0(
    tmp_path: Path, number: signal.Signals, is_blocked: bool
) -> None:
    """The configuration is a pipe, so that `run` is waiting for it. A new process inherits blocked signals.

    Verified to fail when `run` does not handle the signal, and when it does not unblock it.
    """
    path = tmp_path / "adapter.toml"
    os.mkfifo(path)
    with (
        signals_blocked({number} if is_blocked else set()),
        subprocess.Popen([*PROGRAM, "run", str(path)], stderr=subprocess.PIPE, text=True) as starting,
    ):
        writing = os.open(path, os.O_WRONLY)  # waits until `run` reads
        starting.send_signal(number)
        os.close(writing)  # ends a read that began just after the signal, which Python handles between two instructions
        _output, errors = starting.communicate(timeout=60)
    assert f"stopped by {number.name} before the service was started\n" == errors
    assert 0 == starting.returncode


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_signal_in_the_first_moments_of_the_service_stops_it_in_order(
    launch_service: LaunchService, whole_group: bool
) -> None:
    """The signal is sent as soon as the host was started, to the supervisor or, as systemd and terminals do, to all
    processes.
    """
    service = launch_service(CONFIGURATION)
    service.wait_for("process_started", name="host")
    (os.killpg if whole_group else os.kill)(service.pids()[0], signal.SIGTERM)
    assert 0 == service.wait(100)
    assert service.logged("service_stopped")
    assert [] == service.logged("process_died")
