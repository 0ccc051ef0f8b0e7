"""`Launch`: everything that the runner of a job needs, as the file `launch.json` of the job folder.

A submitter makes one `Launch` for each run: the arguments and the environment of one process. `command` makes it from
the pipeline's `command`; `container` makes the arguments of podman or docker. The runner treats both alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from attrs import asdict, field, frozen

from dicom_adapter_pipelines.durable_files import write_file


@frozen(kw_only=True)
class Launch:
    """One process to run for a job, and its limits."""

    job_id: str  # of the adapter; named in the reasons of failures, because `dicom-adapter jobs show` needs it
    arguments: tuple[str, ...]  # the program and its arguments; no shell reads them
    environment: Mapping[str, str] = field(repr=False)  # the whole environment of the process; may contain secrets
    user: str = ""  # name or number of the user that runs the process; "": the user of the adapter
    time_limit: float | None = None  # seconds of one run; then all processes of the job are ended
    may_wait: bool = False  # the time for which the process has a file `waiting` in the job folder is not limited
    grace: float = 10.0  # seconds from SIGTERM to SIGKILL
    linger: float = 1.0  # seconds for which other processes of the job may run after the process, before they are ended
    success: tuple[int, ...] = (0,)  # exit statuses of a process that has done its work
    expect_results: bool = True  # a run without output has failed
    ignored_outputs: tuple[str, ...] = ()  # names of files below output/ that are not outputs
    max_log_bytes: int = 10 << 20  # of stdout and stderr together; the middle is omitted
    max_output_bytes: int = 8 << 30  # of the files below output/ and work/ together
    memory: int | None = None  # bytes of address space of each process
    cpu_seconds: int | None = None  # CPU time of each process
    reruns: int = 1  # number of further runs after interruptions: power losses, or a killed runner
    # Another program and its arguments, run for at most a minute after the process has ended, and before the process of
    # an interrupted run is started again. It ends and removes what is not a descendant of the process, such as a
    # container. It must succeed if nothing is left.
    end_arguments: tuple[str, ...] = ()
    details: Mapping[str, str] = field(factory=dict)  # of the submitter, such as a GPU; not used by the runner

    def save(self, path: Path) -> None:
        """Write the file, readable only by the user of the adapter, because the environment may contain secrets."""
        write_file(path, json.dumps(asdict(self), indent=1).encode())


def load_launch(path: Path) -> Launch | None:
    """Read a file that `save` wrote; None if there is none."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Launch(**{**values, **lists})
