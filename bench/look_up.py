"""Measure how long operators wait for answers in a ledger with the rows of several years.

    .venv/bin/python bench/look_up.py [--instances 1000000] [--jobs 50000] [--repeat 5]

Each command runs with a large ledger and with a ledger of a few rows. The result is the median of the differences of
their CPU times. So the start of a command, which imports its modules, is not included.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import attrs
import typer
from machine import describe
from results_page import write_results
from rich.console import Console

from dicom_adapter.ledger import Ledger

CONFIGURATION = """
[storage]
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.LUNG.settings]
pipeline-lung = "p1"
"""
STUDY = 100  # instances in each study
FEW = 10 * STUDY  # instances of the small ledger
UNKNOWN = "A-UNKNOWN"  # an Accession Number that no instance has: the exit status is 1
# SQLite computes the rows, which is ten times as fast as inserting them one by one.
ROWS = (
    """CREATE TEMP TABLE n AS WITH RECURSIVE numbers(i) AS
           (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :instances) SELECT i FROM numbers""",
    """INSERT INTO instances (ae_title, calling_ae_title, peer_address, association_id, sop_class_uid,
           sop_instance_uid, study_instance_uid, series_instance_uid, transfer_syntax_uid, patient_id,
           issuer_of_patient_id, received_at, changed_at, storage_key, size_bytes, checksum, state, outcome)
       SELECT 'LUNG', 'CT1', '10.0.0.5', printf('%032x', i / :study), '1.2.840.10008.5.1.4.1.1.2',
           printf('2.25.1%036d', i), printf('2.25.2%036d', i / :study), printf('2.25.3%036d', i / :study),
           '1.2.840.10008.1.2.1', 'P' || (i / :study / 2), '', :now - 86400000000 + i, :now, printf('%032x', i),
           526000, i, 'reclaimed', 'submitted' FROM n""",
    """INSERT INTO series (series_instance_uid, study_instance_uid, patient_id, accession_number, study_date, modality,
           study_description, series_description, seen_at)
       SELECT printf('2.25.3%036d', i), printf('2.25.2%036d', i), 'P' || (i / 2), 'A' || i, '20260105', 'CT', '', '',
           :now FROM n WHERE i < :studies""",
    """INSERT INTO jobs (job_id, name, ae_title, pipeline_id, priority, submitter, instance_count, metadata, state,
           created_at, changed_at)
       SELECT printf('%032x', i), 'LUNG-lung-' || i, 'LUNG', 'p1', 2, 'platform', :of_each, '{}', 'submitted',
           :now - 3600000000, :now - 3600000000 FROM n WHERE i < :jobs""",
    """INSERT INTO job_instances (job_number, position, instance_id, uploaded)
       SELECT i / :of_each + 1, i % :of_each, i + 1, 1 FROM n WHERE i < :jobs * :of_each""",
)


def main(
    instances: Annotated[int, typer.Option(min=FEW, max=10_000_000, help="Instances.")] = 1_000_000,
    job_count: Annotated[int, typer.Option("--jobs", min=10, max=1_000_000, help="Jobs.")] = 50_000,
    repeat: Annotated[int, typer.Option(min=1, max=50, help="Runs of each command.")] = 5,
) -> None:
    """Measure, print, and write bench/results/look_up.json."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-look-up-") as made:
        folder = Path(made)
        machine = describe(folder)
        console.print(f"{machine}\nmaking {instances} instances and {job_count} jobs …", highlight=False)
        large = make_site(folder / "large", instances, job_count)
        small = make_site(folder / "small", FEW, 10)
        cpu_ms = {}
        for command in commands(FEW // STUDY // 2):
            name = " ".join(command)
            more = [_cpu_ms(large, command) - _cpu_ms(small, command) for _run in range(repeat)]
            cpu_ms[name] = round(statistics.median(more), 1)
            console.print(f"{name}: {cpu_ms[name]:.0f} ms of CPU time beyond the start", highlight=False)
    found = {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": attrs.asdict(machine),
        "instances": instances,
        "jobs": job_count,
        "rounds": repeat,
        "cpu_ms": cpu_ms,
    }
    write_results("look_up", found)


def commands(study: int) -> list[list[str]]:
    """Return the measured commands. `study`: the number of a study that both ledgers have."""
    number = f"A{study}"
    return [
        ["jobs", "list"],
        ["jobs", "list", "--accession", number],
        ["explain", number],
        ["explain", "--patient", f"P{study // 2}"],
        ["instances", "list", "--accession", number],
        ["jobs", "list", "--calling", "CT1", "--since", "7d"],
        ["explain", UNKNOWN],
    ]


def make_site(folder: Path, instances: int, job_count: int) -> Path:
    """Create a configuration whose ledger has instances in studies of STUDY, and jobs. Return its path."""
    (folder / "data").mkdir(parents=True)
    file = folder / "data" / "ledger.sqlite"
    ledger = Ledger(f"sqlite:///{file}", durable=False)
    ledger.migrate()
    ledger.close()
    values = {
        "instances": instances,
        "studies": instances // STUDY,
        "jobs": job_count,
        "of_each": max(instances // job_count, 1),
        "study": STUDY,
        "now": int(datetime.now(timezone.utc).timestamp()) * 1_000_000,
    }
    with closing(sqlite3.connect(file)) as connection:
        for statement in ROWS:
            connection.execute(statement, values)
        connection.commit()
    path = folder / "dicom-adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    return path


def _cpu_ms(configuration: Path, command: Sequence[str]) -> float:
    """Run a command; return its CPU time in user and kernel mode."""
    arguments = [sys.executable, "-m", "dicom_adapter", *command, "--config", str(configuration)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
    _pid, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for the process again
    if process.returncode != (1 if UNKNOWN in arguments else 0):
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return 1000 * (used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    typer.run(main)
