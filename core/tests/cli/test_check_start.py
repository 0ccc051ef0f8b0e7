"""`dicom-adapter check` tries what a start of the service needs, and changes nothing."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dicom_adapter.api.errors import Permanent, Retriable
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.cli import app
from dicom_adapter.flow import free_space
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.ledger_lock import LedgerLock
from support.certificates import Pki, write

UNLIMITED = "watermark-percent = 100\nreserve = 0\n"
AE_TITLE = '[submitters.x]\ntype = "memory"\n[ae-titles.A]\nprocessor = "by-study"\nsettings = { pipeline-x = "1" }\n'

pytestmark = pytest.mark.usefixtures("memory_submitter")


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port on which another program listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


def check(folder: Path, *tables: str, storage: str = "data", limits: str = UNLIMITED, options: Any = ()) -> Any:
    """Run `check --json`. Return its report."""
    dicom = [] if any(table.startswith("[dicom]") for table in tables) else ["[dicom]\nport = 0\n"]
    (folder / "adapter.toml").write_text(
        "\n".join([f'[storage]\npath = "{storage}"\n{limits}', *dicom, *tables, AE_TITLE]), encoding="utf-8"
    )
    result = CliRunner().invoke(app, ["check", "--json", str(folder / "adapter.toml"), *options])
    report = json.loads(result.stdout)
    assert report["ok"] == (result.exit_code == 0)
    return report


def create_ledger(folder: Path, statement: str = "") -> Path:
    """Create the data folder with a ledger, and execute a statement on it."""
    DataFolder(folder / "data").prepare(is_new=True)
    file = folder / "data" / "ledger.sqlite"
    ledger = Ledger(f"sqlite:///{file}")
    ledger.migrate()
    ledger.close()
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement or "SELECT 1")
        database.commit()
    return file


@pytest.mark.parametrize("exists", [False, True])
def test_a_check_without_problems_changes_nothing(tmp_path: Path, exists: bool) -> None:
    """Verified to fail when the trial creates the data folder, or opens the ledger in another mode."""
    (tmp_path / "adapter.toml").touch()
    if exists:
        create_ledger(tmp_path, "PRAGMA journal_mode = DELETE")
    before = contents(tmp_path)
    assert ([], []) == (check(tmp_path)["problems"], check(tmp_path)["warnings"])
    assert before == contents(tmp_path)


def contents(folder: Path) -> dict[str, bytes | int]:
    files = [path for path in folder.rglob("*") if path.name != "adapter.toml"]
    return {str(path): path.read_bytes() if path.is_file() else path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ("/proc/dicom-adapter", "the folder /proc cannot be written: "),
        ("adapter.toml/data", "adapter.toml/data cannot be read: Not a directory"),
        ("data", "has no storage of dicom-adapter: it is new, or its disk is not mounted"),
    ],
)
def test_a_data_folder_that_cannot_be_used_is_a_problem(tmp_path: Path, storage: str, problem: str) -> None:
    """The empty folder may be a mount point. Verified to fail when only existing folders are tried."""
    (tmp_path / "data").mkdir()
    (reported,) = check(tmp_path, '[ledger]\nurl = "sqlite:///ledger.sqlite"\n', storage=storage)["problems"]
    assert problem in reported


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "has schema 9999, which this version does not know"),
        ("DROP TABLE alembic_version", "it belongs to another program; name another file in [ledger] url"),
    ],
)
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_ledger_of_another_program_or_version_is_a_problem(
    tmp_path: Path, statement: str, problem: str, mode: str
) -> None:
    file = create_ledger(tmp_path, statement)
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
    (reported,) = check(tmp_path)["problems"]
    assert problem in reported


def test_a_ledger_that_cannot_be_read_or_found_is_a_problem(tmp_path: Path) -> None:
    """An empty file is a new database."""
    create_ledger(tmp_path).write_bytes(b"this is not a database" * 10)
    (reported,) = check(tmp_path)["problems"]
    assert reported.endswith("ledger.sqlite is not an SQLite database; name another file in [ledger] url")
    (tmp_path / "data" / "ledger.sqlite").write_bytes(b"")
    assert [] == check(tmp_path)["problems"]
    (reported,) = check(tmp_path, f'[ledger]\nurl = "sqlite:///{tmp_path}/gone/l.sqlite"\n')["problems"]
    assert f"the folder {tmp_path}/gone of the ledger does not exist; create it" == reported


def test_a_ledger_of_another_service_is_a_problem(tmp_path: Path) -> None:
    file = create_ledger(tmp_path)
    with LedgerLock(file, Path("/other")).hold(4711):
        (reported,) = check(tmp_path)["problems"]
    expected = f"another dicom-adapter (PID 4711) with the data folder /other is already using the ledger {file}"
    assert expected in reported


def test_a_port_or_address_that_cannot_be_used_is_a_problem(tmp_path: Path, occupied: int) -> None:
    """Both addresses are tried. Verified to fail when the second one is tried after the first was closed."""
    configuration = f'[dicom]\nport = {occupied}\nbind = "127.0.0.1"\n'
    away = '[http]\nport = 0\nbind = "192.0.2.1"\ntoken = {env = "PATH"}\n'
    first, second = check(tmp_path, configuration, away)["problems"]
    assert f"[dicom]: cannot listen on 127.0.0.1:{occupied}: Address already in use; stop the program" in first
    assert "[http]: cannot listen on 192.0.2.1:0: Cannot assign requested address; `bind` must be" in second
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    (reported,) = check(tmp_path, f"[dicom]\nport = {port}\n", f"[http]\nport = {port}\n")["problems"]
    assert f"[http]: cannot listen on 127.0.0.1:{port}: Address already in use" in reported


def test_the_addresses_of_servers_of_plugins_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occupied: int
) -> None:
    """They are tried together with the addresses of the service. Verified to fail when only the latter are tried."""
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    addresses = [("127.0.0.1", port), ("127.0.0.1", occupied)]
    monkeypatch.setattr(JobProcessorBase, "listening_addresses", lambda _settings: addresses)
    assert [
        f"AE title 'A': cannot listen on 127.0.0.1:{number}: Address already in use; stop the program that uses the "
        "port, or choose another port"
        for number in (port, occupied)
    ] == check(tmp_path, f'[dicom]\nport = {port}\nbind = "127.0.0.1"\n')["problems"]
    assert [] == check(tmp_path, options=["--file-only"])["problems"]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], [("127.0.0.1", "80")], [("127.0.0.1", 2**16)], [("localhost", 80)], [80], None]
)
def test_invalid_addresses_of_servers_are_a_problem_of_their_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: Any
) -> None:
    """The AE title is served nevertheless."""
    monkeypatch.setattr(JobProcessorBase, "listening_addresses", lambda _settings: addresses)
    report = check(tmp_path)
    (problem,) = report["problems"]
    assert " AE title 'A': its processor cannot list the addresses of servers: " in problem
    assert [""] == [ae_title["refused"] for ae_title in report["aeTitles"]]


def test_the_service_itself_is_not_a_problem(tmp_path: Path, occupied: int) -> None:
    """`check` runs before a reload, too. Verified to fail when the locks of the service are not read."""
    DataFolder(tmp_path / "data").prepare(is_new=True)
    with DataFolder(tmp_path / "data").as_service(), DataFolder(tmp_path / "data").as_host(4711):
        report = check(tmp_path, f"[dicom]\nport = {occupied}\n")
    assert [] == report["problems"]
    (warning,) = report["warnings"]
    assert f"the service (PID 4711) runs with {tmp_path / 'data'}: data folder, ledger and ports not tried" == warning


def test_a_repair_and_a_full_storage_are_reported(tmp_path: Path) -> None:
    """A service that cannot store would start, and reject associations: this is a warning."""
    DataFolder(tmp_path / "data").prepare(is_new=True)
    with DataFolder(tmp_path / "data").exclusive():
        (problem,) = check(tmp_path)["problems"]
    assert problem.startswith("`audit --repair` (PID ")
    report = check(tmp_path, limits='watermark-percent = 100\nreserve = "9000 PB"\n')
    assert [] == report["problems"]
    (warning,) = report["warnings"]
    assert warning.startswith("associations would be rejected: ")


def test_a_full_disk_of_the_ledger_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataFolder(tmp_path / "data").prepare(is_new=True)
    monkeypatch.setattr(free_space, "LEDGER_RESERVE_BYTES", 10**18)  # more than any disk has
    (warning,) = check(tmp_path, limits=UNLIMITED)["warnings"]
    assert warning.startswith("associations would be rejected: the ledger's disk has ")
    assert warning.endswith("; free some space")


def test_on_another_machine_only_the_file_is_checked(tmp_path: Path, occupied: int) -> None:
    configuration = f"[dicom]\nport = {occupied}\n"
    report = check(tmp_path, configuration, storage="/proc/dicom-adapter", limits="", options=["--file-only"])
    assert ([], []) == (report["problems"], report["warnings"])


def test_an_expired_certificate_is_a_problem(tmp_path: Path) -> None:
    """The service would start, but no peer would accept the certificate. An expired authority is no problem."""
    pki = Pki(tmp_path)
    expired = pki.ca.issue_cert("adapter.example", not_after=datetime.now(timezone.utc) - timedelta(days=1))
    write(tmp_path / "own.pem", *expired.cert_chain_pems)
    write(tmp_path / "own.key", expired.private_key_pem)
    (reported,) = check(tmp_path, '[dicom]\nport = 0\ntls = { certificate = "own.pem", key = "own.key" }\n')["problems"]
    assert reported.startswith(f"dicom.tls: certificate {tmp_path}/own.pem: expired on ")
    assert reported.endswith("; renew it")


# --- platforms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", {"tried": False, "answer": "", "problem": ""}),
        ("version 3", {"tried": True, "answer": "version 3", "problem": ""}),
        (Retriable("it is down"), {"tried": True, "answer": "", "problem": "it is down"}),
        (Permanent("unknown user"), {"tried": True, "answer": "", "problem": "unknown user"}),
    ],
)
def test_platforms_are_asked_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | Exception, expected: dict[str, object]
) -> None:
    """A submitter that does not implement the request is reported as not tried."""

    def check_connection(_submitter: object) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    if answer:
        monkeypatch.setattr(Submitter, "check_connection", check_connection)
    report = check(tmp_path, options=["--connect"])
    assert [{"submitter": "x", **expected}] == report["connections"]
    assert [f"submitter 'x': {expected['problem']}"] * bool(expected["problem"]) == report["problems"]
    assert [] == check(tmp_path)["connections"]


def test_the_message_of_an_unexpected_error_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may quote a setting, such as a token."""

    def check_connection(_submitter: object) -> str:
        raise ValueError("token 4711")

    monkeypatch.setattr(Submitter, "check_connection", check_connection)
    (problem,) = check(tmp_path, options=["--connect"])["problems"]
    assert problem.startswith("submitter 'x': ValueError at ")
    assert "4711" not in problem
