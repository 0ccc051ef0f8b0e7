"""When a program stops reading the log, the service still receives instances and can still be stopped."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path

from dicom_adapter.net import scu
from dicom_adapter.net.address import parse_address
from dicom_adapter.net.results import SendResult
from support import STORAGE, write_study

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""
)
SMALLEST_PIPE = 4096  # bytes, about fifteen lines


def test_the_service_receives_and_stops_although_nobody_reads_its_log(tmp_path: Path) -> None:
    """Once the service listens, nobody reads its log. It acknowledges all instances and stops on SIGTERM with status 0.

    Verified to fail, by the time limit, when the log is written to the pipe with writes that block.
    """
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    program = [sys.executable, "-m", "dicom_adapter", "run", str(path), "--port", "0"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, bufsize=0) as run:
        assert run.stderr is not None
        fcntl.fcntl(run.stderr, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
        entries = map(json.loads, run.stderr)
        listening = next(entry for entry in entries if entry["event"] == "service_listening")
        try:
            to = parse_address(f"LUNG@127.0.0.1:{listening['port']}")
            results: list[SendResult] = []
            study = write_study(tmp_path / "study", instances=50)
            scu.send(study, to, calling_ae_title="SENDER", timeout=30, on_result=results.append)
            assert [True] * 50 == [result.ok for result in results]
            run.send_signal(signal.SIGTERM)
            assert 0 == run.wait(60)
        finally:
            run.kill()
