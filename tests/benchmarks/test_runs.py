"""Short benchmark runs with a real receiver."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import receive_runs
from process_tree import ProcessTree
from receive_instances import write_data_sets
from receive_receivers import RECEIVERS
from receive_values import WORKLOADS

MINIMAL = next(receiver for receiver in RECEIVERS if receiver.key == "pynetdicom-minimal")

BURN = "import time; end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"
# A process that runs one child to its end and keeps another. Each child uses 0.2 s of CPU time.
PARENT = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN.format(seconds=0.2)!r}], check=True)
kept = subprocess.Popen([sys.executable, "-c", {BURN.format(seconds=0.2)!r} + "print(flush=True); input()"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
kept.stdout.readline()
print(flush=True)
input()
"""


@pytest.mark.parametrize("key", ["small-8", "each"])
def test_a_run_counts_the_received_instances(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All instances of eight senders and of the warm-up are in the receiver's folder, truncated."""
    monkeypatch.setattr(receive_runs, "WARM_UP_S", 0.05)
    [workload] = [workload for workload in WORKLOADS if workload.key == key]
    data_set = write_data_sets(tmp_path)["small"]
    run = receive_runs.run_workload(MINIMAL, workload, tmp_path / "run", data_set, 0.1, 16384)
    files = list((tmp_path / "run" / "store").iterdir())
    assert 8 * 4 <= run.count < len(files)
    assert {0} == {path.stat().st_size for path in files}
    assert min(run.rate, run.cpu_ms, run.sender_cpu_us, run.peak_mb) > 0


def test_a_process_tree_counts_running_and_ended_children() -> None:
    """Receivers with a process for each association are therefore measured completely."""
    run = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run([sys.executable, "-c", PARENT]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        processes = ProcessTree(process.pid)
        assert 2 == len(processes.pids())
        assert processes.cpu_seconds() >= 0.38  # 2 × 0.2 s, minus the clock tick in which the ended child is counted
        assert processes.resident_bytes() > processes.proportional_bytes() > 0
        process.kill()
