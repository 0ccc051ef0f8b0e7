"""The platform: the emulator in a process of its own, which fails on demand, is killed, and comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from random import Random

from faults.adapter import Ports

CALLS = ("Jobs.Create", "Jobs.AddMetadata", "Payloads.Upload", "Jobs.Start", "Jobs.Status", "Jobs.List", "*")
# What may pass by itself: the adapter tries again.
PASSING = (
    "status,face=grpc,status=UNAVAILABLE",
    "status,face=grpc,status=RESOURCE_EXHAUSTED",
    "status,face=grpc,status=ABORTED",
    "status,face=grpc,status=INTERNAL",
    "status,face=grpc,status=DATA_LOSS",
    "status,face=rest,status=408",
    "status,face=rest,status=429",
    "status,face=rest,status=500",
    "status,face=rest,status=503",
    "code,code=-4098",  # pipeline not stored
    "code,code=-8194",  # job not stored
    "code,code=-32767",  # internal
    "reset",
    "reset",
    "drop",
    "drop",
    "drop",
    "truncate",
    "garbage",
    "delay,seconds=0.5",
    "delay,seconds=3",  # longer than the adapter's deadlines
)
# What an operator has to mend: the job is faulted, and retried at the end.
LASTING = ("code,code=-4097", "status,face=grpc,status=PERMISSION_DENIED", "status,face=rest,status=403")
LASTING_SHARE = 0.1
MOST_FAULTS = 16  # in one life
LIFE_SECONDS = (4.0, 25.0)
REST_SECONDS = (0.0, 2.0)


class Platform:
    """One emulator at a time, in one folder, under the same two ports."""

    def __init__(self, folder: Path, ports: Ports, random: Random) -> None:
        folder.mkdir()
        self.state = folder / "state"
        self.restarts = 0
        self._ports = ports
        self._calls = folder / "calls.jsonl"
        self._errors = folder / "errors.log"
        self._random = random
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._lives = threading.Thread(target=self._live, name="platform", daemon=True)

    def start(self) -> None:
        """Begin a row of lives, with faults."""
        self._lives.start()

    def calm_down(self) -> None:
        """Kill it a last time, and start it without faults."""
        self.end()
        self._launch([])

    def ensure_running(self) -> None:
        """Start it, without faults, unless it lives."""
        if self._process is None or self._process.poll() is not None:
            self._launch([])

    def end(self) -> None:
        """Leave nothing behind."""
        self._ending.set()
        if self._lives.is_alive():
            self._lives.join()
        self._kill()

    def _live(self) -> None:
        while not self._ending.is_set():
            self._launch(self._faults())
            self._ending.wait(self._random.uniform(*LIFE_SECONDS))
            self._kill()
            self._ending.wait(self._random.uniform(*REST_SECONDS))

    def _launch(self, faults: list[str]) -> None:
        command = [sys.executable, "-m", "dicom_adapter", "emulate-platform", "--run-seconds", "0.5"]
        command += ["--grpc", f"127.0.0.1:{self._ports.grpc}", "--rest", f"127.0.0.1:{self._ports.rest}"]
        command += ["--folder", str(self.state), "--log", str(self._calls)]
        for fault in faults:
            command += ["--fault", fault]
        self.restarts += self._process is not None
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _faults(self) -> list[str]:
        return [self._fault() for _number in range(self._random.randrange(MOST_FAULTS))]

    def _fault(self) -> str:
        random = self._random
        kinds = LASTING if random.random() < LASTING_SHARE else PASSING
        call, kind = random.choice(CALLS), random.choice(kinds)
        return f"{call}={kind},after={random.randrange(25)},times={random.randint(1, 6)}"

    # --- what it was like -------------------------------------------------------------------------------------------

    def faults_by_kind(self) -> Counter[str]:
        """The calls that a fault struck."""
        lines = self._calls.read_text(encoding="utf-8").splitlines() if self._calls.exists() else []
        faults = (json.loads(line).get("fault") for line in lines)
        return Counter(fault for fault in faults if fault)
