"""Measured runs: how many instances per second a receiver stores, and the cost of its associations."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from attrs import evolve
from process_tree import Peak, ProcessTree
from receive_link import Link, LinkFailed
from receive_receivers import Receiver
from receive_sender import SenderTask, Sent
from receive_values import AE_TITLE, Associations, Rate, Running, Workload

HERE = Path(__file__).parent
WARM_UP_S = 0.7  # duration of sending before the measurement
LONGEST_S = 120.0  # limit of one run
CYCLES, CYCLES_S = 200, 2.0  # consecutive associations: at most this many, for at most this long
OPENING_S = 20.0  # time limit for opening the associations that are held, below any receiver's idle timeout
IDLE_S = 2.0  # duration of measuring the CPU time of an idle receiver
SPARE = 10  # associations that are opened one after the other while many are held
ECHOES = 200  # number of C-ECHO requests whose median is reported

_numbers = count(1)  # numbers of senders


def run_workload(
    receiver: Receiver, workload: Workload, folder: Path, data_set: Path, seconds: float, longest_pdu: int
) -> Rate:
    """Start `receiver` in `folder`, warm it up, and send for about `seconds`. Raises LinkFailed."""
    folder.mkdir()
    task = SenderTask(
        port=0,
        called=AE_TITLE,
        data_set=str(data_set),
        number=0,
        count=10**9,  # no limit: the time ends the warm-up
        seconds=WARM_UP_S,
        has_association_per_instance=workload.has_association_per_instance,
        longest_pdu=longest_pdu,
    )
    with _fresh(receiver, folder, workload.senders) as running:
        warm = per_second(send_all(running, [task] * workload.senders))
        each = max(4, round(warm * seconds / workload.senders))  # instances of each sender
        processes = ProcessTree(running.pid)
        with Peak(processes) as peak:
            used = processes.cpu_seconds()
            sent = send_all(running, [evolve(task, count=each, seconds=LONGEST_S)] * workload.senders)
            used = processes.cpu_seconds() - used
    return _rate(sent, used, peak)


def _rate(sent: Sequence[Sent], cpu_seconds: float, peak: Peak) -> Rate:
    total = sum(result.count for result in sent)
    return Rate(
        rate=per_second(sent),
        count=total,
        cpu_ms=cpu_seconds * 1e3 / total,
        sender_cpu_us=sum(result.cpu_seconds for result in sent) * 1e6 / total,
        peak_mb=peak.size_bytes / 1e6,
        proportional_mb=peak.proportional_bytes / 1e6,
        rejections=sum(result.rejections for result in sent),
    )


def per_second(sent: Sequence[Sent]) -> float:
    """Return the rate from the first accepted association to the last response."""
    seconds = max(result.ended for result in sent) - min(result.began for result in sent)
    return sum(result.count for result in sent) / seconds


@contextmanager
def _fresh(receiver: Receiver, folder: Path, associations: int) -> Iterator[Running]:
    """Start the receiver on a disk without outstanding writes."""
    os.sync()
    try:
        with receiver.start(folder, associations) as running:
            yield running
    finally:
        _truncate(folder)


def _truncate(folder: Path) -> None:
    """Free the space. Files are deleted only at the end: on ext4, creating files soon after deleting is slow."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def send_all(running: Running, tasks: Sequence[SenderTask]) -> list[Sent]:
    """Start all senders at the same time, each in a separate process."""
    senders = [_start(running, task) for task in tasks]
    try:
        for sender in senders:
            _read_line(sender)
        for sender in senders:
            assert sender.stdin is not None
            sender.stdin.write("go\n")
            sender.stdin.flush()
        return [Sent(**json.loads(_read_line(sender))) for sender in senders]
    finally:
        for sender in senders:
            sender.kill()
            sender.communicate()


def _start(running: Running, task: SenderTask) -> subprocess.Popen[str]:
    task = evolve(task, port=running.port, number=next(_numbers))
    command = [sys.executable, str(HERE / "receive_sender.py"), task.write()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours


def _read_line(sender: subprocess.Popen[str]) -> str:
    assert sender.stdout is not None
    line = sender.stdout.readline()
    if not line:
        raise LinkFailed(f"a sender failed with status {sender.wait()}")
    return line


# --- associations -----------------------------------------------------------------------------------------------------


def run_associations(receiver: Receiver, folder: Path) -> Associations:
    """Open and release associations one after the other. After that, hold many associations, and measure their cost."""
    folder.mkdir()
    with _fresh(receiver, folder, receiver.idle_associations + SPARE) as running:
        _cycle(running, 10)
        processes = ProcessTree(running.pid)
        used = processes.cpu_seconds()
        times = _cycle(running, CYCLES)
        cycle_cpu = (processes.cpu_seconds() - used) / len(times)
        with Link(running.port, AE_TITLE) as link:
            echo_ms = statistics.median(_timed(link.echo) for _ in range(ECHOES)) * 1e3
        held, memory, idle, another = _hold(running, processes, receiver.idle_associations)
    return Associations(
        accept_ms=statistics.median(times) * 1e3,
        cycle_cpu_ms=cycle_cpu * 1e3,
        echo_ms=echo_ms,
        held=held,
        memory_kb=memory,
        idle_cpu_percent=idle,
        another_ms=another,
    )


def _cycle(running: Running, times: int) -> list[float]:
    """Open and release associations. Returns the seconds until each association was accepted."""
    end = time.monotonic() + CYCLES_S
    seconds: list[float] = []
    while len(seconds) < times and time.monotonic() < end:
        began = time.monotonic()
        with Link(running.port, AE_TITLE):
            seconds.append(time.monotonic() - began)
    return seconds


def _hold(running: Running, processes: ProcessTree, most: int) -> tuple[int, float | None, float | None, float | None]:
    """Hold up to `most` associations.

    Return their number, kB for each, CPU in percent of one core, and the longest time in ms until another is accepted.
    """
    if not most:
        return 0, None, None, None
    without, before = _idle_share(processes), processes.proportional_bytes()
    with ExitStack() as links, _many_files(most):
        end = time.monotonic() + OPENING_S
        held = 0
        while held < most and time.monotonic() < end:
            links.callback(Link(running.port, AE_TITLE).close)
            held += 1
        memory = max(0, processes.proportional_bytes() - before) / held / 1e3
        idle = (_idle_share(processes) - without) * 100
        another = max(_cycle(running, SPARE)) * 1e3
    return held, memory, max(0.0, idle), another


def _idle_share(processes: ProcessTree) -> float:
    """Return the CPU time of the idle receiver as a share of one core: 1.0 is one busy thread."""
    time.sleep(0.3)  # the receiver finishes the work of the last association
    used, began = processes.cpu_seconds(), time.monotonic()
    time.sleep(IDLE_S)
    return (processes.cpu_seconds() - used) / (time.monotonic() - began)


@contextmanager
def _many_files(count: int) -> Iterator[None]:
    """Raise this process's limit of open files. Running receivers keep their limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + count, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _timed(act: Callable[[], None]) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began
