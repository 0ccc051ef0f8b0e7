"""The receivers that the benchmark compares: dicom-adapter and its neighbours, each as it comes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from attrs import frozen
from receive_link import HOST, Link, LinkFailed

from dicom_adapter.launch import LaunchedService

HERE = Path(__file__).parent
AE_TITLE = "BENCH"
START_S, STOP_S = 600.0, 30.0
ORTHANC_PROGRAM = "/usr/sbin/Orthanc"  # not in everybody's PATH
DEFAULT_ASSOCIATIONS = 25  # dicom-adapter's `max-associations`


@frozen
class Running:
    """A receiver that listens."""

    port: int
    pid: int  # of the process that started all others


Start = Callable[[Path, int], AbstractContextManager[Running]]  # in a folder, for so many associations


@frozen
class Product:
    """What has to be installed."""

    name: str
    program: str
    version: Callable[[], str]  # asked only when it is installed

    @property
    def is_installed(self) -> bool:
        return shutil.which(self.program) is not None


@frozen(kw_only=True)
class Receiver:
    """Something that receives instances."""

    key: str  # in results
    name: str  # in tables
    syncs: bool  # whether an instance is on disk before it is acknowledged
    holds: int  # associations that it is asked to hold while one more comes
    product: Product
    start: Start


# --- dicom-adapter ----------------------------------------------------------------------------------------------------

# Everything that is not written here has its default: instance and ledger row are synced before the answer. The limits
# of free room are switched off, and no group is due before the run is over.
CONFIGURATION = """\
[dicom]
port = 0
bind = "127.0.0.1"
{limit}
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "fake"

[ae-titles.BENCH.settings]
group-by = "study"
timeout = {timeout}
pipeline-bench = "bench"
"""
BUSY = """
[ae-titles.BUSY]
processor = "busy"
"""
BUSY_METADATA = "Metadata-Version: 2.1\nName: bench-busy\nVersion: 1\n"
BUSY_ENTRY_POINTS = "[dicom_adapter]\nbusy = receive_busy\n"


@contextmanager
def adapter(folder: Path, associations: int, *, is_busy: bool = False, data: Path | None = None) -> Iterator[Running]:
    """`dicom-adapter run`, beside a processor that computes without pause if `is_busy`; `data`: what it has already."""
    if data is not None:
        shutil.copytree(data, folder / "data")
    configuration = configure(folder, associations, is_busy=is_busy)
    with _importable(_install_busy(folder)) if is_busy else nullcontext():
        service = LaunchedService(configuration)
    try:
        port = service.port(START_S)
        for ae_title in (AE_TITLE, "BUSY") if is_busy else (AE_TITLE,):
            service.wait_for("lane_caught_up", START_S, ae_title=ae_title)
        yield Running(port, service.pids()[0])
    finally:
        service.kill()


def configure(folder: Path, associations: int, *, is_busy: bool = False, timeout: float = 3600) -> Path:
    """Write the configuration of a service; `timeout`: after which groups are due, in seconds."""
    limit = f"max-associations = {associations}\n" if associations > DEFAULT_ASSOCIATIONS else ""
    configuration = folder / "bench.toml"
    text = CONFIGURATION.format(limit=limit, timeout=timeout) + (BUSY if is_busy else "")
    configuration.write_text(text, encoding="utf-8")
    return configuration


def _install_busy(folder: Path) -> Path:
    """The plugin `receive_busy`, as a distribution in a folder of its own."""
    site = folder / "site"
    information = site / "bench_busy-1.dist-info"
    information.mkdir(parents=True)
    shutil.copy(HERE / "receive_busy.py", site)
    (information / "METADATA").write_text(BUSY_METADATA, encoding="utf-8")
    (information / "entry_points.txt").write_text(BUSY_ENTRY_POINTS, encoding="utf-8")
    return site


@contextmanager
def _importable(site: Path) -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


# --- neighbours -------------------------------------------------------------------------------------------------------


@contextmanager
def storescp(folder: Path, _associations: int, options: Sequence[str] = ()) -> Iterator[Running]:
    """DCMTK's."""
    port = _free_port()
    with _launched(["storescp", "--output-directory", str(_made(folder)), *options, str(port)], port) as running:
        yield running


@contextmanager
def orthanc(folder: Path, _associations: int) -> Iterator[Running]:
    """Orthanc without plugins and HTTP, otherwise as it comes: it syncs its storage area, and has an index."""
    port = _free_port()
    store = _made(folder)
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
    }
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    with _launched([ORTHANC_PROGRAM, str(configuration)], port) as running:
        yield running


@contextmanager
def pynetdicom_application(folder: Path, _associations: int) -> Iterator[Running]:
    """`python -m pynetdicom storescp`."""
    port = _free_port()
    command = [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-ba", HOST, "-od", str(_made(folder))]
    with _launched(command, port) as running:
        yield running


@contextmanager
def pynetdicom_minimal(folder: Path, associations: int) -> Iterator[Running]:
    """What somebody writes who wants files and nothing else."""
    port = _free_port()
    script = str(HERE / "receive_minimal.py")
    with _launched([sys.executable, script, str(port), str(_made(folder)), str(associations)], port) as running:
        yield running


def _made(folder: Path) -> Path:
    store = folder / "store"
    store.mkdir()
    return store


def _free_port() -> int:
    """For programs that cannot be asked which one they took."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def _launched(command: Sequence[str], port: int) -> Iterator[Running]:
    """A process in a group of its own that answers at `port`; the whole group ends with the context."""
    process = subprocess.Popen(  # noqa: S603 - the commands above
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_it_answers(process, port)
        yield Running(port, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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


def _version(distribution: str) -> str:
    return importlib.metadata.version(distribution)


def _version_told(program: str) -> str:
    """The number in the first line of what `program --version` prints."""
    told = subprocess.check_output([program, "--version"], text=True)  # noqa: S603 - the programs below
    [number] = re.findall(r"\d+(?:\.\d+)+", told.partition("\n")[0])
    return str(number)


ADAPTER = Product("dicom-adapter", sys.executable, partial(_version, "dicom-adapter"))
DCMTK = Product("DCMTK", "storescp", partial(_version_told, "storescp"))
ORTHANC = Product("Orthanc", ORTHANC_PROGRAM, partial(_version_told, ORTHANC_PROGRAM))
PYNETDICOM = Product("pynetdicom", sys.executable, partial(_version, "pynetdicom"))

# `holds`: some neighbours serve few associations at a time, DCMTK's single process one, Orthanc four.
RECEIVERS = (
    Receiver(key="adapter", name="dicom-adapter", product=ADAPTER, syncs=True, holds=990, start=adapter),
    Receiver(
        key="adapter-busy",
        name="dicom-adapter, busy plugin",
        product=ADAPTER,
        syncs=True,
        holds=40,
        start=partial(adapter, is_busy=True),
    ),
    Receiver(key="orthanc", name="Orthanc", product=ORTHANC, syncs=True, holds=3, start=orthanc),
    Receiver(key="storescp", name="DCMTK storescp", product=DCMTK, syncs=False, holds=0, start=storescp),
    Receiver(
        key="storescp-b",
        name="DCMTK storescp +B",
        product=DCMTK,
        syncs=False,
        holds=0,
        start=partial(storescp, options=("+B",)),
    ),
    Receiver(
        key="storescp-fork",
        name="DCMTK storescp --fork +B",
        product=DCMTK,
        syncs=False,
        holds=40,
        start=partial(storescp, options=("--fork", "+B")),
    ),
    Receiver(
        key="pynetdicom",
        name="pynetdicom storescp",
        product=PYNETDICOM,
        syncs=False,
        holds=8,
        start=pynetdicom_application,
    ),
    Receiver(
        key="pynetdicom-minimal",
        name="minimal pynetdicom SCP",
        product=PYNETDICOM,
        syncs=False,
        holds=40,
        start=pynetdicom_minimal,
    ),
)
