"""Receivers of other products, each with its default configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from receive_link import HOST, Link, LinkFailed
from receive_values import AE_TITLE, Running

HERE = Path(__file__).parent
START_S, STOP_S = 60.0, 30.0  # longest waits for the start and the end of a process


@contextmanager
def storescp(folder: Path, _associations: int, options: Sequence[str] = ()) -> Iterator[Running]:
    """Run DCMTK's storescp."""
    port = _free_port()
    with _launched(
        [str(find_dcmtk()), "--output-directory", str(_make_store(folder)), *options, str(port)], port
    ) as running:
        yield running


@contextmanager
def orthanc(folder: Path, _associations: int, more: Mapping[str, object] | None = None) -> Iterator[Running]:
    """Run Orthanc without plugins and HTTP, otherwise with its defaults: it syncs its storage and keeps an index.

    `more`: settings that are added or replaced.
    """
    port = _free_port()
    store = _make_store(folder)
    configuration = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(store),
        "IndexDirectory": str(store),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        **(more or {}),
    }
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    with _launched([str(find_orthanc()), str(configuration)], port) as running:
        yield running


@contextmanager
def pynetdicom_application(folder: Path, _associations: int) -> Iterator[Running]:
    """Run `python -m pynetdicom storescp`."""
    port = _free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-ba", HOST, "-od", str(_make_store(folder))]
    with _launched(command, port) as running:
        yield running


@contextmanager
def pynetdicom_minimal(folder: Path, associations: int) -> Iterator[Running]:
    """Run the minimal receiver that writes files and does nothing else."""
    port = _free_port()
    script = str(HERE / "receive_minimal.py")
    with _launched([sys.executable, script, str(port), str(_make_store(folder)), str(associations)], port) as running:
        yield running


def _make_store(folder: Path) -> Path:
    """Create the folder for the received files."""
    store = folder / "store"
    store.mkdir()
    return store


def _free_port() -> int:
    """Return a free port, for programs that cannot report a port of their choice."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def _launched(command: Sequence[str], port: int) -> Iterator[Running]:
    """Start a process in a new process group that accepts connections at `port`.

    The whole group ends with the context.
    """
    process = subprocess.Popen(  # noqa: S603 - the commands above
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_it_answers(process, port)
        yield Running(port, process.pid)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(STOP_S)
            return
        except ProcessLookupError:  # all processes have ended
            return
        except subprocess.TimeoutExpired:
            pass


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            with Link(port, AE_TITLE) as link:
                link.echo()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise LinkFailed(f"{process.args!r} does not listen; its exit status is {process.poll()}") from None
            time.sleep(0.02)


@cache
def find_dcmtk() -> str | None:
    """Return DCMTK's `storescp` from PATH. The script of the same name that pynetdicom installs is skipped."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    programs = filter(None, (shutil.which("storescp", path=folder) for folder in folders))
    return next((program for program in programs if "$dcmtk" in version_output(program)), None)


@cache
def find_orthanc() -> str | None:
    """Return the path of Orthanc. In Debian, Orthanc is only in the PATH of root."""
    return shutil.which("Orthanc") or shutil.which("/usr/sbin/Orthanc")


def version_output(program: str) -> str:
    """Return the output of `program --version`, or "" if it has no such option."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 - an installed product
    return version.stdout
