"""A ledger with the rows of a busy month: instances, jobs, results, events and senders.

The rows are computed by SQLite, in large_ledger.sql, which is ten times as fast as inserting them one by one.

Each job has the instances of one study. Most jobs have succeeded, and their instances are reclaimed; some jobs wait for
the platform or an operator. The last studies are pending. The stored objects are not created: no page or command reads
them.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import frozen

from dicom_adapter.ledger import Ledger

STATEMENTS = Path(__file__).with_suffix(".sql")
AE_TITLES = ("LUNG", "LIVER", "BRAIN", "HEART", "BONE", "BREAST", "SPINE", "KIDNEY")
SENDERS = 40  # calling AE titles, CT0 to CT39
PERIOD_US = 30 * 86_400_000_000  # the rows are from the last 30 days
SPAN_OF_JOB_US = 40_000_000  # from the creation of a job to its end
REJECTED_HOURS = 300  # hours with a rejected association of an unknown sender
QUEUED = 200  # jobs that wait for the platform: the newest
EVENTS_OF_A_JOB = ("job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted", "job_succeeded")
CONFIGURATION = """\
[dicom]
port = 0
bind = "127.0.0.1"
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[ledger]
history-days = 3650
"""


@frozen(kw_only=True)
class Size:
    """The numbers of rows."""

    instances: int = 1_000_000  # received instances, at least; the results of the jobs are additional
    jobs: int = 50_000
    pending: int = 100  # studies that are pending, without a job
    quarantined: int = 2000  # instances, each in addition to `instances`, without a job

    @property
    def of_each(self) -> int:
        """The number of instances in each study."""
        return -(-self.instances // (self.jobs + self.pending))

    def values(self, now: datetime) -> dict[str, Any]:
        """Return the parameters of large_ledger.sql."""
        studies = self.jobs + self.pending
        return {
            "instances": studies * self.of_each,
            "studies": studies,
            "jobs": self.jobs,
            "queued": min(QUEUED, self.jobs // 10),
            "of_each": self.of_each,
            "quarantined": self.quarantined,
            "ae_titles": json.dumps(AE_TITLES),
            "events_of_a_job": json.dumps(EVENTS_OF_A_JOB),
            "senders": SENDERS,
            "rejected_hours": REJECTED_HOURS,
            "now": int(now.timestamp()) * 1_000_000,
            "begin": int(now.timestamp()) * 1_000_000 - PERIOD_US,
            "study_us": (PERIOD_US - 60_000_000) // studies,  # between two studies; the last arrived a minute ago
            "span": SPAN_OF_JOB_US,
        }


def make_ledger(data_folder: Path, size: Size, now: datetime | None = None) -> Path:
    """Create a data folder with a ledger of this size, in about a minute. Return the file of the ledger."""
    data_folder.mkdir(parents=True)
    file = data_folder / "ledger.sqlite"
    ledger = Ledger(f"sqlite:///{file}", durable=False)
    ledger.migrate()
    ledger.close()
    values = size.values(now or datetime.now(timezone.utc))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for statement in STATEMENTS.read_text(encoding="utf-8").split(";\n"):
            connection.execute(statement, values)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


def configuration_of(extra: str = "") -> str:
    """Return a configuration for the ledger. Groups wait for ten days, and the platform cannot be reached.

    `extra`: TOML tables that are added.
    """
    ae_titles = "".join(f'[ae-titles.{name}.settings]\ntimeout = 864000\npipeline-one = "p1"\n' for name in AE_TITLES)
    platform = '[submitters.platform]\ntype = "clara-rest"\nendpoint = "http://127.0.0.1:9"\n'
    return f"{CONFIGURATION}{platform}{ae_titles}{extra}"


def main(
    folder: Annotated[Path | None, typer.Argument(help="New folder; if omitted, a temporary one.")] = None,
    instances: Annotated[int, typer.Option(min=100, help="Instances.")] = Size().instances,
    jobs: Annotated[int, typer.Option(min=10, help="Jobs.")] = Size().jobs,
) -> None:
    """Create a folder with a large ledger and its configuration, in which `dicom-adapter run` can be started."""
    made = folder or Path(tempfile.mkdtemp(prefix="dicom-adapter-large-"))
    make_ledger(made / "data", Size(instances=instances, jobs=jobs))
    (made / "dicom-adapter.toml").write_text(configuration_of("[http]\nport = 0\n"), encoding="utf-8")
    typer.echo(made)


if __name__ == "__main__":
    typer.run(main)
