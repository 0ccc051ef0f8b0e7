"""The notes of the commands, and the folders that were delivered, as jobs of platforms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from faults.commands import Commands
from faults.count_results import DELIVERY
from faults.evidence import PlatformFile, PlatformJob, platform_file


def runs(commands: Commands) -> Iterator[PlatformJob]:
    """Read the starts of the program."""
    for note in _noted(commands, "files"):
        run = note["run"]
        yield PlatformJob(
            job_id=note["job"] if run == 1 else f"{note['job']}-{run}",
            adapter_job=note["job"],
            pipeline=note["pipeline"],
            is_started=True,
            created=note["began"],
            files=tuple(map(_file, note["files"])),
        )


def results(commands: Commands) -> dict[str, tuple[PlatformFile, ...]]:
    """Return the results that the program has written, by job id."""
    return {note["job"]: tuple(map(_file, note["written"])) for note in _noted(commands, "written")}


def deliveries(commands: Commands) -> Iterator[PlatformJob]:
    """Read the folders that were delivered, which are the jobs of this destination."""
    for folder in commands.drop.iterdir():
        if folder.name.startswith("."):
            continue
        manifest = json.loads((folder / "manifest.json").read_bytes())
        yield PlatformJob(
            job_id=folder.name,
            adapter_job=manifest["jobId"],
            pipeline=DELIVERY,
            is_started=True,
            created=datetime.fromisoformat(manifest["createdAt"]).timestamp(),
            files=tuple(map(platform_file, sorted(folder.glob("*.dcm")))),
        )


def _noted(commands: Commands, key: str) -> list[dict[str, Any]]:
    text = commands.notes.read_text(encoding="utf-8") if commands.notes.exists() else ""
    return [note for line in text.splitlines() if key in (note := json.loads(line))]


def _file(noted: dict[str, str]) -> PlatformFile:
    return PlatformFile(sop_instance_uid=noted["uid"], digest=noted["digest"])
