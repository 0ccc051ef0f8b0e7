"""One run of the command of a job, from its start to the outcome."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dicom_adapter_pipelines.bounded_log import BoundedLog
from dicom_adapter_pipelines.job_folder import JobFolder
from dicom_adapter_pipelines.launch import Launch
from dicom_adapter_pipelines.outputs import OutputRefused, measure
from dicom_adapter_pipelines.runner.processes import descendants, end_group, send, start_process

TICK = 0.25  # seconds between two looks at the clock, the cancellation and the output
MEASURE_PAUSE = 10  # a measurement of the output is followed by a pause of 10 times its duration
KILL_SECONDS = 30.0  # a process that is still there so long after SIGKILL waits for a device: it is given up
STOP_PAUSE = 0.5  # a machine that shuts down sends SIGTERM to all processes; the runner's may arrive last
PIECE_BYTES = 1 << 16  # of one read from the command
# Values of `CommandRun.ended_by`; all others are sentences for the operator.
CANCELLED = "cancelled"
STOPPED = "stopped"


class CommandRun:
    """Runs the command once. `ended_by` is the reason why the runner ended the command; "" if it ended on its own."""

    def __init__(self, folder: JobFolder, launch: Launch, log: BoundedLog) -> None:
        self._folder, self._launch, self._log = folder, launch, log
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._exited_at = self._measured = self._pause = 0.0
        self._looked_at = 0.0  # monotonic time of the last look for the file `waiting`
        self._waited = 0.0  # seconds for which the file `waiting` existed
        self._signalled_at: float | None = None  # time of the first SIGTERM
        self._stop_requested = False
        self.exit_status: int | None = None  # negative: the number of the signal that ended the command
        self.ended_by = ""
        self.left_behind = 0  # processes that were ended after the command
        self.unkillable = False

    def run(self, on_start: Callable[[], None]) -> None:
        """Run the command until no process of it is left. `on_start` is called when it was started.

        Raises OSError, SubprocessError or Permanent if the command cannot be started.
        """
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        with _woken_by_signals(self._request_stop) as wake, selectors.DefaultSelector() as selector:
            try:
                self._process = self._start(writing)
            finally:
                os.close(writing)
            on_start()
            selector.register(wake, selectors.EVENT_READ)
            selector.register(reading, selectors.EVENT_READ)
            self._began = self._looked_at = time.monotonic()
            while self._reap():
                self._decide()
                self._wait(selector, wake, reading)
            self._read(reading)
            self._note_stop()
        os.close(reading)

    def _start(self, output: int) -> subprocess.Popen[bytes]:
        launch = self._launch
        return start_process(
            launch.arguments,
            environment=launch.environment,
            folder=self._folder.work,
            output=output,
            user=launch.user,
            memory=launch.memory,
            cpu_seconds=launch.cpu_seconds,
        )

    def _request_stop(self) -> None:
        self._stop_requested = True

    # --- watching

    def _wait(self, selector: selectors.BaseSelector, wake: socket.socket, reading: int) -> None:
        for key, _events in selector.select(TICK):
            if key.fileobj is wake:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(PIECE_BYTES)
            elif not self._read(reading, pieces=16):
                selector.unregister(reading)

    def _read(self, reading: int, pieces: int | None = None) -> bool:
        """Log what was printed. Return False at the end of the stream."""
        while pieces is None or pieces > 0:
            try:
                data = os.read(reading, PIECE_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log.write(data)
            pieces = None if pieces is None else pieces - 1
        return True

    def _reap(self) -> bool:
        """Collect the processes that have ended. Return False if none is left, or the rest cannot be ended."""
        assert self._process is not None
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not process:
                return not self.unkillable
            if process == self._process.pid:
                self.exit_status = os.waitstatus_to_exitcode(status)
                self._process.returncode = self.exit_status
                self._exited_at = time.monotonic()

    # --- deciding

    def _decide(self) -> None:
        """Begin to end the processes if there is a reason; continue if this has begun."""
        now = time.monotonic()
        if self._signalled_at is not None:
            self._continue_to_end(now)
            return
        self.ended_by = self._reason_to_end(now)
        if self.ended_by or (self.exit_status is not None and now - self._exited_at >= self._launch.linger):
            if self.ended_by:
                self._log.note(f"ending the command: {self.ended_by}")
            else:
                self.left_behind = len(descendants(os.getpid()))
                self._log.note(f"the command has ended; ending the {self.left_behind} processes that it left running")
            self._signalled_at = now
            self._signal_all(signal.SIGTERM)

    def _reason_to_end(self, now: float) -> str:
        launch = self._launch
        if self._stop_requested:
            return STOPPED
        if self._folder.is_cancelled:
            return CANCELLED
        if self.exit_status is not None:
            return ""
        self._note_wait(now)
        if launch.time_limit is not None and now - self._began - self._waited > launch.time_limit:
            return f"it has run longer than time-limit = {launch.time_limit:g} seconds"
        if now - self._measured < self._pause:
            return ""
        problem = size_problem(self._folder, launch)
        self._measured = time.monotonic()
        self._pause = max(TICK, MEASURE_PAUSE * (self._measured - now))
        return problem

    def _note_wait(self, now: float) -> None:
        """Add up the time for which the process waits for a GPU: it is not part of the run's time."""
        if self._launch.may_wait and self._folder.waiting_file.exists():
            self._waited += now - self._looked_at
        self._looked_at = now

    def _continue_to_end(self, now: float) -> None:
        assert self._signalled_at is not None
        if now - self._signalled_at < self._launch.grace:
            return
        self._signal_all(signal.SIGKILL)
        self.unkillable = now - self._signalled_at > self._launch.grace + KILL_SECONDS

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self.exit_status is None:  # otherwise the number of the group may belong to others
            end_group(number, self._process.pid)
        send(number, descendants(os.getpid()))

    def _note_stop(self) -> None:
        """Find out whether the machine is shutting down, if the command was ended by a SIGTERM of others."""
        if not self.ended_by and self.exit_status in (-signal.SIGTERM, 128 + signal.SIGTERM):
            time.sleep(STOP_PAUSE)
            self.ended_by = STOPPED if self._stop_requested else ""


def size_problem(folder: JobFolder, launch: Launch) -> str:
    """Return why the output is too large, or "" if it is not."""
    try:
        size = measure(folder.output) + measure(folder.work)
    except OutputRefused as refusal:
        return str(refusal)
    if size > launch.max_output_bytes:
        return f"its files in `output` and `work` are larger than max-output-bytes = {launch.max_output_bytes}"
    return ""


@contextmanager
def _woken_by_signals(on_stop: Callable[[], None]) -> Iterator[socket.socket]:
    """Return a socket that is readable after a signal. SIGTERM calls `on_stop`; SIGHUP and SIGINT have no effect."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            on_stop()

    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        # Functions, not SIG_IGN, which the command would inherit.
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, handle)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(-1)
