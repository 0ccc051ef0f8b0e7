"""Follow a page of the documentation literally: write its files, type its commands, start its service.

The info string of a block gives its use:
- `sh tutorial`: commands for the first terminal;
- `sh tutorial service`: a command for the second terminal, after Ctrl-C if a command runs there already;
- `sh tutorial submitted`: commands for the first terminal, typed after `job_submitted` is in the service's log (see
  `EVENTS`);
- `toml tutorial adapter.toml`: a file;
- `toml tutorial append adapter.toml`: lines to append to a file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from support.pages import ROOT, Block

EVENTS = {"submitted": "job_submitted"}
PORT = "11112"  # the only deviation from the page: a free port is used instead
PATIENCE_S = 60.0  # for steps that take a few seconds, on a busy machine
SCRIPT = "#!{python}\nimport sys\nfrom importlib.metadata import EntryPoint\n\nsys.exit({entry!r}.load()())\n"


class Walkthrough:
    """Two terminals in a folder next to a checkout, with a virtual environment in which the adapter is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = ""  # output of all commands
        self._environment = _environment(folder / "environment")
        self._where = folder
        self._service: _Service | None = None
        (folder / "dicom-adapter").symlink_to(ROOT)

    def follow(self, block: Block) -> str:
        """Follow a block and return the output of its commands. Fail if a command fails."""
        language, _, *words = block.info.split()
        if language != "sh":
            return self._write(block.text.replace(PORT, "0"), words)
        if words == ["service"]:
            return self._serve(block.text)
        for word in words:
            assert self._service is not None, "the page waits for an event before it starts a service"
            self._service.wait_for(EVENTS[word])
        return self.type(block.text if self._service is None else block.text.replace(PORT, self._service.port))

    def type(self, text: str) -> str:
        """Type commands in the first terminal. The terminal stays in the folder to which the commands change."""
        command = f"set -euo pipefail; cd {self._where}; {{ {text}\n}} 2>&1; pwd >{self.folder}/where"
        done = self._bash(command)
        assert 0 == done.returncode, f"{text}\n{done.stdout}{done.stderr}"
        self._where = Path((self.folder / "where").read_text(encoding="utf-8").strip())
        self.output += done.stdout
        return done.stdout

    def close(self) -> None:
        """Close the second terminal."""
        if self._service is not None:
            self._service.interrupt()
            self._service = None

    def _bash(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command], env=self._environment, capture_output=True, text=True, check=False
        )

    def _write(self, text: str, words: Sequence[str]) -> str:
        *how, name = words
        with (self.folder / name).open("a" if how == ["append"] else "w", encoding="utf-8") as file:
            file.write(f"\n{text}" if how else text)
        return ""

    def _serve(self, text: str) -> str:
        self.close()
        self._service = _Service(text, self.folder, self._environment)
        return ""


class _Service:
    """The process in the second terminal."""

    def __init__(self, text: str, folder: Path, environment: dict[str, str]) -> None:
        self._log: list[Mapping[str, Any]] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            ["bash", "-c", text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is sent to all processes of a terminal
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.port = str(self.wait_for("service_listening")["port"])

    def _read(self) -> None:
        assert self._process.stderr is not None  # stderr is a pipe
        with self._process.stderr as lines:
            for line in lines:
                with self._changed:
                    self._log.append(json.loads(line) if line.startswith("{") else {"event": line})
                    self._changed.notify_all()

    def wait_for(self, event: str) -> Mapping[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: self._logged(event), PATIENCE_S), self._log
            return self._logged(event)[0]

    def _logged(self, event: str) -> list[Mapping[str, Any]]:
        return [entry for entry in self._log if entry["event"] == event]

    def interrupt(self) -> None:
        os.killpg(self._process.pid, signal.SIGINT)
        assert 0 == self._process.wait(PATIENCE_S), self._log


def _environment(folder: Path) -> dict[str, str]:
    """Create a virtual environment with the packages and commands of this one. Return the variables that activate it.

    pip needs no index: the packages that the page installs are in the environment already, or in a folder next to it.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin" / "python")
    path = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    ours = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(path.strip(), "ours.pth").write_text(ours, encoding="utf-8")
    for entry in entry_points(group="console_scripts"):
        script = folder / "bin" / entry.name
        if not script.exists():
            script.write_text(SCRIPT.format(python=python, entry=entry), encoding="utf-8")
            script.chmod(0o755)
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "COLUMNS": "200",
        "VIRTUAL_ENV": str(folder),
        "PYTEST_ADDOPTS": "-o timeout=300",  # for a busy machine
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # 0 turns isolation off: pip reads the variable as the option's value
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
