"""A kill of the receiver or of the host between any two steps from the write of an instance to its job.

Afterwards, each acknowledged instance is in one job, and ledger and storage agree.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import FollowedJournal
from dicom_adapter.flow.enter.instance_log import InstanceLog
from dicom_adapter.flow.enter.journal import FOLDER, JournalWriter
from dicom_adapter.flow.process.inbox import Inbox
from dicom_adapter.flow.process.lane import Lane
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.flow.submit.queue import JobQueue
from dicom_adapter.ledger import jobs, receiver_runs
from dicom_adapter.operations.audit import Audit
from dicom_adapter.storage.local.backend import LocalStorage
from dicom_adapter.testing import Adapter
from support.follow import CONFIGURATION as STORING
from support.follow import Sender
from support.killed import until_killed

CONFIGURATION = (
    STORING
    + """
[ae-titles.KEEP]
processor = "by-study"
"""
)
LATER = 5000  # seconds after which all groups are due and all jobs are submitted
SECOND, THIRD = "1.2.2", "1.2.3"

KILLED_AFTER = {
    "write": (Store, "end"),
    "sync of instance and record": (LocalStorage, "sync"),
    "line in the journal": (JournalWriter, "append"),
    "hand-over": (InstanceLog, "append"),
    "answer": (Store, "commit"),
    "entry": (RowEntry, "enter_each"),
    "report of the progress": (FollowedJournal, "report"),
    "sync of the ledger": (receiver_runs, "confirm"),
    "confirmation": (FollowedJournal, "confirm"),
    "wake-up of the lane": (Lane, "notify_arrival"),
    "delivery to the lane": (Inbox, "pop_instance"),
    "turn with a job": (Turn, "commit"),
    "insertion of the job": (jobs, "insert"),
    "step of the job": (JobQueue, "step"),
}


class Processes:
    """A receiver and a host. `acknowledged` is the file of the sender, with the SOP Instance UIDs."""

    def __init__(self, folder: Path) -> None:
        self.adapter = Adapter(folder, CONFIGURATION)
        follower = self.adapter.host._arrivals._follower
        follower._checkpoint_at = follower._checkpoint_seconds = 0  # a checkpoint after each step
        self.receiver = Sender(self.adapter, self.adapter.config.storage.path / FOLDER)
        self.acknowledged = folder / "acknowledged"

    def send(self, *uids: str) -> None:
        self.receiver.send(*uids)
        with self.acknowledged.open("a") as file:
            file.writelines(f"{uid}\n" for uid in uids)

    def close(self) -> None:
        self.adapter.close()


@pytest.mark.parametrize("point", KILLED_AFTER)
def test_each_acknowledged_instance_is_in_one_job_after_a_kill(tmp_path: Path, point: str) -> None:
    """The sender does not send again."""

    def prepare() -> Processes:
        processes = Processes(tmp_path)
        processes.send("1.2.1")
        processes.adapter.advance(1)
        return processes

    def steps(processes: Processes) -> None:
        processes.send(SECOND, THIRD)
        processes.adapter.advance(LATER)

    until_killed(prepare, steps, *KILLED_AFTER[point])
    with closing(Processes(tmp_path)) as again:
        acknowledged = again.acknowledged.read_text().split()
        again.adapter.advance(2 * LATER)
        submitted = Counter(
            instance.sop_instance_uid for job in again.adapter.jobs for instance in again.adapter.instances_of(job)
        )
        assert set(acknowledged) <= submitted.keys()
        assert {1} == set(submitted.values())
        assert {} == Audit(again.adapter.resources, is_running=lambda: False).run().found
