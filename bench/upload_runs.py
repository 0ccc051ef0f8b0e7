"""Measured runs of uploads: the adapter, the plain loop, the disk."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from attrs import frozen
from machine import cpu_seconds, forget_peak, resident_bytes
from upload_files import Instances, clara_table, truncate_received

from dicom_adapter.service.launch import LaunchedService, LogEntry

HERE = Path(__file__).parent
EMULATOR, SINK = "emulator", "sink"
SERVERS = (SINK, EMULATOR)
LONGEST_S = 300.0  # time limit of one run; a slower machine is not suitable for measurements
STOP_S = 30.0  # time limit for the end of a server


@frozen(kw_only=True)
class Run:
    """The results of one run."""

    seconds: float
    size_bytes: int
    cpu_seconds: float | None = None  # of the uploading process
    growth_bytes: int | None = None  # peak of the adapter's memory minus its memory before the job
    growth_uploading_bytes: int | None = None  # the part of the growth since the first upload
    resident_bytes: int | None = None  # all processes of the adapter before the job

    @property
    def mb_per_s(self) -> float:
        return self.size_bytes / 1e6 / self.seconds

    @property
    def cpu_s_per_gb(self) -> float | None:
        return None if self.cpu_seconds is None else self.cpu_seconds / (self.size_bytes / 1e9)


def disk(instances: Instances, act: Callable[[], None]) -> Run:
    """Measure the time of a function that reads or writes as many bytes as `instances` have."""
    began, cpu_before = time.monotonic(), time.process_time()
    act()
    return Run(
        seconds=time.monotonic() - began, size_bytes=instances.size_bytes, cpu_seconds=time.process_time() - cpu_before
    )


def plain(instances: Instances, folder: Path, protocol: str, server: str, parallel: int) -> Run:
    """Run the plain loop in a separate process."""
    folder.mkdir()
    files = folder / "files.txt"
    files.write_text("\n".join(map(str, instances.paths)))
    with serve(server, protocol, folder) as endpoint:
        command = [sys.executable, str(HERE / "upload_plain.py"), protocol, endpoint, str(parallel), str(files)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=LONGEST_S)  # noqa: S603 - ours
    _check_received(instances, folder, server)
    figures = json.loads(done.stdout)
    return Run(size_bytes=instances.size_bytes, **figures)


def adapter(instances: Instances, folder: Path, protocol: str, server: str, parallel: int) -> Run:
    """Run `dicom-adapter run` on a data folder with the pending instances. It submits them in one job after a wait."""
    folder.mkdir()
    with serve(server, protocol, folder) as endpoint:
        run = submit(instances, folder / "adapter", clara_table(protocol, endpoint, parallel))
    _check_received(instances, folder, server)
    return run


def submit(instances: Instances, folder: Path, submitter: str) -> Run:
    """Run a service in `folder` that submits the instances. `submitter`: the table [submitters.platform]."""
    service = LaunchedService(instances.make_service_folder(folder, submitter))
    try:
        run = _follow(service, instances.size_bytes)
        service.wait_for("job_submitted", LONGEST_S)
    finally:
        service.kill()
    return run


def _follow(service: LaunchedService, size_bytes: int) -> Run:
    service.port()
    pids = service.pids()
    [host] = [entry["child"] for entry in service.logged("process_started", name="host")]
    before = _resident(pids)
    assert not service.logged("job_queued"), "the service took too long to start"
    first = service.wait_for("job_metadata_sent", LONGEST_S)
    cpu_before, at_first = cpu_seconds(host), _resident(pids)
    peak_before = _resident(pids, "VmHWM")
    for pid in pids:
        forget_peak(pid)
    last = service.wait_for("job_uploaded", LONGEST_S)
    used = cpu_seconds(host) - cpu_before
    peak = _resident(pids, "VmHWM")
    return Run(
        seconds=_seconds_between(first, last),
        size_bytes=size_bytes,
        cpu_seconds=used,
        growth_bytes=max(peak, peak_before) - before,
        growth_uploading_bytes=peak - at_first,
        resident_bytes=before,
    )


def _resident(pids: Sequence[int], field: str = "VmRSS") -> int:
    return sum(resident_bytes(pid, field) for pid in pids)


def _seconds_between(first: LogEntry, last: LogEntry) -> float:
    times = [datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")) for entry in (first, last)]
    return (times[1] - times[0]).total_seconds()


def _check_received(instances: Instances, folder: Path, server: str) -> None:
    """Check that the run lost no instance: a fast run with losses is invalid."""
    if server == EMULATOR:
        found = truncate_received(folder / EMULATOR / "payloads")
        assert found == (len(instances.paths), instances.size_bytes), f"the platform has {found}"


@contextmanager
def serve(server: str, protocol: str, folder: Path) -> Iterator[str]:
    """Start a server in a separate process. Yields its address."""
    command = [sys.executable, str(HERE / "upload_sink.py"), protocol]
    if server == EMULATOR:
        command = [sys.executable, "-m", "dicom_adapter", "emulate-platform", "--folder", str(folder / EMULATOR)]
        command += [f"--{protocol}", "127.0.0.1:0", "--run-seconds", "0"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    try:
        where = process.stdout.readline().split()[-1]
        # The emulator prints every call, and must not block on a full pipe.
        threading.Thread(target=_drain, args=(process,), daemon=True).start()
        yield where
    finally:
        process.terminate()
        process.wait(STOP_S)


def _drain(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for _line in process.stdout:
        pass
