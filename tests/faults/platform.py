"""The platform: the emulator in a separate process, with injected faults, killed and restarted."""

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
# Transient faults: the adapter retries.
TRANSIENT = (
    "status,protocol=grpc,status=UNAVAILABLE",
    "status,protocol=grpc,status=RESOURCE_EXHAUSTED",
    "status,protocol=grpc,status=ABORTED",
    "status,protocol=grpc,status=INTERNAL",
    "status,protocol=grpc,status=DATA_LOSS",
    "status,protocol=rest,status=408",
    "status,protocol=rest,status=429",
    "status,protocol=rest,status=500",
    "status,protocol=rest,status=503",
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
    "delay,seconds=3",  # longer than the adapter's time limits
)
# Permanent faults: the job is faulted, and retried at the end.
PERMANENT = ("code,code=-4097", "status,protocol=grpc,status=PERMISSION_DENIED", "status,protocol=rest,status=403")
PERMANENT_SHARE = 0.1  # share of these faults
MAX_FAULTS = 16  # number of faults in one run of the emulator
RUN_SECONDS = (4.0, 25.0)  # from a start of the emulator to its kill
DOWN_SECONDS = (0.0, 2.0)  # from a kill to the next start


class Platform:
    """One emulator at a time, always with the same folder and ports."""

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
        self._thread = threading.Thread(target=self._run_repeatedly, name="platform", daemon=True)

    def start(self) -> None:
        """Start and kill the emulator repeatedly, with faults."""
        self._thread.start()

    def calm_down(self) -> None:
        """Kill the emulator a last time, and start it without faults."""
        self.end()
        self._launch([])

    def ensure_running(self) -> None:
        """Start the emulator without faults, unless it is running."""
        if self._process is None or self._process.poll() is not None:
            self._launch([])

    def end(self) -> None:
        """Kill the emulator if it is running."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._kill()

    def _run_repeatedly(self) -> None:
        while not self._ending.is_set():
            self._launch(self._faults())
            self._ending.wait(self._random.uniform(*RUN_SECONDS))
            self._kill()
            self._ending.wait(self._random.uniform(*DOWN_SECONDS))

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
        return [self._fault() for _number in range(self._random.randrange(MAX_FAULTS))]

    def _fault(self) -> str:
        random = self._random
        kinds = PERMANENT if random.random() < PERMANENT_SHARE else TRANSIENT
        call, kind = random.choice(CALLS), random.choice(kinds)
        return f"{call}={kind},after={random.randrange(25)},times={random.randint(1, 6)}"

    # --- figures ----------------------------------------------------------------------------------------------------

    def faults_by_kind(self) -> Counter[str]:
        """Return the number of calls with an injected fault, by kind."""
        lines = self._calls.read_text(encoding="utf-8").splitlines() if self._calls.exists() else []
        faults = (json.loads(line).get("fault") for line in lines)
        return Counter(fault for fault in faults if fault)
