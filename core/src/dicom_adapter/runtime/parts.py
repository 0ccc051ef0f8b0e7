"""Parts: the units whose health is watched, such as a lane, a submitter, a server or a process."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from attrs import frozen

from dicom_adapter.runtime.workers import Step

OTHER_DEADLINE_SECONDS = 120.0  # time limit of parts whose steps are short


class PartKind(Enum):
    """A kind of part: its name for operators, and the time limit of one step in seconds."""

    ENTER = "entry of rows", 30.0  # enters the rows of stored instances; a part of its own, so that health shows it
    NOTIFY = "notify", 30.0  # finds new instances in the ledger, for half a second in each step
    WAKE_UPS = "wake-ups", 30.0  # waits a few seconds for receivers to report stored instances
    OPERATORS = "operators", OTHER_DEADLINE_SECONDS  # carries out requests of operators, such as the restart of a lane
    RECLAIM = "reclaim", 120.0  # deletes 500 objects, perhaps over a slow network
    HISTORY = "history", OTHER_DEADLINE_SECONDS  # deletes old rows of the ledger
    OBSERVER = "observer", 60.0  # one call of an observer hook; no other part waits for it
    LANE = "AE title", 25.0  # one turn, or half a second of turns; a processor that hangs is reported within 30 s
    SUBMITTER = "submitter", 3600.0  # uploads up to 256 files; submitters limit each upload, often to minutes
    PLATFORM = "platform", OTHER_DEADLINE_SECONDS  # the platform of a submitter, which may be down
    STATUS_WATCH = "platform watch", 120.0  # one request to the platform; submitters have a shorter limit
    TIME_LIMIT = "time limit", 120.0  # the cancellation of a job; submitters limit each request, often to a minute
    CLEAN_UP = "clean-up", 600.0  # `clean_up` of the runs that are due; one of them may delete thousands of files
    SERVER = "server", OTHER_DEADLINE_SECONDS  # a server of a plugin, or the HTTP server
    NOTIFICATION = "notification", OTHER_DEADLINE_SECONDS  # sends a message; notifiers limit it to a minute
    DRAIN = "drain", OTHER_DEADLINE_SECONDS  # AE titles and submitters that a reload removed while they had work
    FREE_SPACE = "free space", OTHER_DEADLINE_SECONDS  # requests processors to free space
    QUOTA = "quota", OTHER_DEADLINE_SECONDS  # compares the quarantine of each AE title with its quota
    THREADS = "threads", OTHER_DEADLINE_SECONDS  # the number of threads of the host
    CLOCK = "clock", OTHER_DEADLINE_SECONDS  # the system clock, compared with the clock of the service
    PLUGINS = "plugins", OTHER_DEADLINE_SECONDS  # loading of plugins, and their registration hooks
    CERTIFICATES = "certificates", OTHER_DEADLINE_SECONDS  # reads certificates from files and from platforms
    STORAGE = "storage", 30.0  # a few calls of stat(2); on a network file system that does not answer, they hang
    GENERATION = "generation", OTHER_DEADLINE_SECONDS  # of storage and ledger, to notice an old state of one of them
    REFUSALS = "refusals of", OTHER_DEADLINE_SECONDS  # what a receiver has refused recently
    PROCESS = "", OTHER_DEADLINE_SECONDS  # a part is named like its process: host, receiver 1

    def __init__(self, title: str, deadline_seconds: float) -> None:
        self.title = title
        self.deadline_seconds = deadline_seconds


@frozen
class Part:
    """One part. `str` returns the name that operators see in `status`, logs and events."""

    kind: PartKind
    name: str = ""  # name of the AE title, submitter, plugin or server; "" for a part that exists once

    def __str__(self) -> str:
        return f"{self.kind.title} {self.name}".strip()


@frozen
class PartWork:
    """The work of a part: its step function, and the number of threads that call it."""

    step: Step
    threads: int = 1


Parts = Mapping[Part, PartWork]


def lane_part(ae_title: str) -> Part:
    """Return the part of an AE title: its lane."""
    return Part(PartKind.LANE, ae_title)


def submitter_part(name: str) -> Part:
    """Return the part of a table [submitters.<name>]: its job queue."""
    return Part(PartKind.SUBMITTER, name)


def process_part(name: str) -> Part:
    """Return the part of a whole process."""
    return Part(PartKind.PROCESS, name)
