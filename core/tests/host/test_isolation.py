"""Isolation of plugins: a fault in any hook or method affects only the parts that need the plugin, and is logged.

Each case runs the host with its threads, as the service does, and with a plugin that has one fault.

Verified to fail, in nearly all cases, when the code that guards the call is removed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import structlog
from attrs import frozen

from dicom_adapter import Capacity, JobPriority, JobProcessorBase, NoSettings, Retriable, Server, Submitter, hookimpl
from dicom_adapter.api import hookspecs
from dicom_adapter.api.values import Job, JobState, PlatformJob, PlatformStatus
from dicom_adapter.config import load
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.flow.submit import operators
from dicom_adapter.host import __main__ as host_main
from dicom_adapter.host import servers, threads
from dicom_adapter.host.threads import HostProcess
from dicom_adapter.ledger import association_reports, jobs
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.plugins import isolation, registry
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.simulation.memory import memory_storage
from dicom_adapter.simulation.platform import MemorySubmitter, Platform
from dicom_adapter.testing import Plugin

PATIENCE_S = 60.0
SHORT_S = 0.3  # time limit of calls in these tests
SECRET = "Nobody^Norbert"  # a plugin's exception may contain patient data, but the log must not

CONFIGURATION = """
[storage]
backend = "short-of-space"
path = "data"
reserve = 0

[submitters.good]
type = "memory"

[submitters.bad]
type = "bad"
status-every = 0.1
retry-first = 0.1

[ae-titles.GOOD]
processor = "good"
submitter = "good"

[ae-titles.BAD]
processor = "bad"
submitter = "bad"
"""
HTTP = """
[http]
port = 0
"""


class FaultMode(Enum):
    RAISES = "raises"
    HANGS = "hangs"
    INVALID = "returns an invalid value"


class Panic(BaseException):
    """A BaseException, as libraries in other languages raise it."""


class InjectedFault:
    """The fault of the bad plugin, which occurs only at one `spot` (a hook or method)."""

    def __init__(self, spot: str, mode: FaultMode, invalid_value: Any = None) -> None:
        self.spot = spot
        self.mode = mode
        self.invalid_value = object() if invalid_value is None else invalid_value
        self.released = threading.Event()  # ends a hanging call

    def at(self, spot: str, otherwise: Any = None) -> Any:
        if spot != self.spot:
            return otherwise
        if self.mode is FaultMode.RAISES:
            raise Panic(SECRET)
        if self.mode is FaultMode.HANGS:
            self.released.wait(2 * PATIENCE_S)
            return otherwise
        return self.invalid_value


def make_methods(fault: InjectedFault, prefix: str, **answers: Any) -> dict[str, Any]:
    """Return methods that return these values, or have the fault."""

    def make(name: str, answer: Any) -> Callable[..., Any]:
        return lambda _self, *_arguments: fault.at(f"{prefix}.{name}", answer)

    return {name: make(name, answer) for name, answer in answers.items()}


def bad_processor(fault: InjectedFault) -> type:
    def handle_instance(self: JobProcessorBase[Any], instance: Any) -> Any:
        self.submit_pipeline_job("job", "pipeline", JobPriority.NORMAL, [instance])
        self.call_later(0, lambda: fault.at("processor.timer"))
        return fault.at("processor.handle_instance")

    def init(self: JobProcessorBase[Any], settings: Any, context: Any) -> Any:
        JobProcessorBase.__init__(self, settings, context)
        return fault.at("processor.__init__")

    body = make_methods(fault, "processor", open=None, job_changed=None, free_space=None, waiting=(), close=None)
    body |= make_methods(fault, "processor", association_changed=None, end_wait=None)
    body |= {"name": "bad", "__init__": init, "handle_instance": handle_instance}
    body |= {"describe": classmethod(lambda _cls, _settings: fault.at("processor.describe", ""))}
    return type("BadProcessor", (JobProcessorBase,), body)


def bad_submitter(fault: InjectedFault) -> type:
    def init(self: Submitter[Any], settings: Any, context: Any) -> Any:
        Submitter.__init__(self, settings, context)
        return fault.at("submitter.__init__")

    def upload(_self: Submitter[Any], _job: Job, _upload: Any) -> Any:
        if fault.spot == "submitter.cancel":
            raise Retriable("so that the job can be cancelled")
        return fault.at("submitter.upload")

    created, status = PlatformJob(job_id="p"), PlatformStatus(state="runs", finished=False)
    body = make_methods(fault, "submitter", open=None, create_job=created, add_metadata=None, start=None, status=status)
    body |= make_methods(fault, "submitter", cancel=None, close=None)
    return type("BadSubmitter", (Submitter,), body | {"name": "bad", "__init__": init, "upload": upload})


def bad_plugin(fault: InjectedFault) -> object:
    """Return a plugin that implements every hook and has one fault."""
    server = type(
        "BadServer", (Server,), make_methods(fault, "server", start=None, is_alive=True, stop=None) | {"name": "bad"}
    )
    answers = {
        "dicom_adapter_processors": [bad_processor(fault)],
        "dicom_adapter_submitters": [bad_submitter(fault)],
        "dicom_adapter_servers": [server()],
        **{name: [] for name in OTHER_HOOKS},
        **dict.fromkeys(OBSERVERS, None),
    }

    def hook(name: str) -> Callable[[], Any]:
        return hookimpl(lambda: fault.at(name, answers[name]))

    return SimpleNamespace(**{name: hook(name) for name in answers})


class Healthy:
    """A valid plugin that submits each instance as a job, and signals submitted jobs and reclaimed instances."""

    def __init__(self) -> None:
        self.submitted = threading.Event()
        self.reclaimed = threading.Event()
        self.began = threading.Event()  # set when a job of the bad AE title has metadata

        class Good(JobProcessorBase[NoSettings]):
            name = "good"

            def handle_instance(self, instance: Any) -> None:
                self.submit_pipeline_job("job", "pipeline", JobPriority.NORMAL, [instance])
                self.remove_instances([instance])

        class GoodSubmitter(MemorySubmitter):
            platform: ClassVar[Platform] = Platform()

        class ShortOfSpace(memory_storage()):  # type: ignore[misc] # a class created at run time
            name = "short-of-space"

            def capacity(self) -> Capacity:
                return Capacity(total_bytes=1000, free_bytes=100)  # so that processors are requested to free space

        self.components = {"processors": [Good], "submitters": [GoodSubmitter], "storage": [ShortOfSpace]}

    @hookimpl
    def dicom_adapter_processors(self) -> Any:
        return self.components["processors"]

    @hookimpl
    def dicom_adapter_submitters(self) -> Any:
        return self.components["submitters"]

    @hookimpl
    def dicom_adapter_storage_backends(self) -> Any:
        return self.components["storage"]

    @hookimpl
    def dicom_adapter_job_changed(self, job: Job) -> None:
        if (job.ae_title, job.state) == ("GOOD", JobState.SUBMITTED):
            self.submitted.set()
        if (job.ae_title, job.state) == ("BAD", JobState.METADATA_SENT):
            self.began.set()

    @hookimpl
    def dicom_adapter_instances_reclaimed(self, instances: Sequence[Any]) -> None:
        if any(instance.ae_title == "GOOD" for instance in instances):
            self.reclaimed.set()


class LogBook:
    """Log processor that collects entries; tests can wait for an entry."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self._changed = threading.Condition()

    def __call__(self, _logger: Any, _method: str, entry: Any) -> Any:
        with self._changed:
            self.entries.append(dict(entry))
            self._changed.notify_all()
        raise structlog.DropEvent

    def wait_for(self, event: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        def matching() -> list[Mapping[str, Any]]:
            return [entry for entry in self.entries if entry["event"] == event and fields.items() <= entry.items()]

        with self._changed:
            assert self._changed.wait_for(matching, PATIENCE_S), f"no {event} {fields} in {self.entries}"
            return matching()[0]


@pytest.fixture
def log_book() -> Iterator[LogBook]:
    book, processors = LogBook(), structlog.get_config()["processors"]
    before = list(processors)
    processors[:] = [book]  # in place, because existing loggers share this list
    yield book
    processors[:] = before


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all time limits, so that no test waits for half a minute."""
    monkeypatch.setattr(registry, "LOAD_SECONDS", 2 * SHORT_S)
    monkeypatch.setattr(registry, "LATE_HOOK_SECONDS", SHORT_S)
    monkeypatch.setattr(isolation, "CALL_SECONDS", SHORT_S)
    monkeypatch.setattr(isolation, "CLOSE_SECONDS", SHORT_S)
    monkeypatch.setattr(servers, "SERVER_STOP_SECONDS", SHORT_S)
    limited = (PartKind.LANE, PartKind.SUBMITTER, PartKind.STATUS_WATCH, PartKind.OBSERVER, PartKind.SERVER)
    for kind in PartKind:
        monkeypatch.setattr(kind, "deadline_seconds", SHORT_S if kind in limited else 5.0)


@frozen
class Case:
    """A spot, a kind of fault, and the log event with some of its fields. The event is empty if nothing is logged."""

    spot: str
    mode: FaultMode
    event: str = ""
    fields: Mapping[str, Any] = {}
    invalid_value: Any = None

    def __str__(self) -> str:
        return f"{self.spot} {self.mode.value}"


LANE = {"ae_title": "BAD"}
LANE_PART, SUBMITTER_PART = {"part": "AE title BAD"}, {"part": "submitter bad"}
OBSERVERS = ("dicom_adapter_instance_stored", "dicom_adapter_job_changed", "dicom_adapter_instances_reclaimed")
REGISTRATION = (
    "dicom_adapter_processors",
    "dicom_adapter_submitters",
    "dicom_adapter_storage_backends",
    "dicom_adapter_notifiers",
)
# Hooks whose results are empty in the faulty plugin
OTHER_HOOKS = (*REGISTRATION[2:], "dicom_adapter_commands", "dicom_adapter_http")
LATE_HOOKS = ("dicom_adapter_http", "dicom_adapter_servers")  # hooks that are called after loading
TURNS = ("handle_instance", "association_changed", "end_wait", "timer", "job_changed", "free_space")
AT_THE_STOP = ("processor.close", "submitter.close", "server.stop")
RAISES, HANGS, INVALID = FaultMode


def of_hooks() -> Iterator[Case]:
    for mode in FaultMode:
        yield from (Case(hook, mode, "plugin_load_failed") for hook in REGISTRATION)
        yield from (Case(hook, mode, "hook_failed", {"hook": hook}) for hook in LATE_HOOKS)
    yield Case("dicom_adapter_http", INVALID, "http_mount_failed", {"plugin": "bad"}, invalid_value=[7])
    yield Case("dicom_adapter_servers", INVALID, "hook_failed", {"hook": "dicom_adapter_servers"}, invalid_value=[7])
    for hook in OBSERVERS:
        yield Case(hook, RAISES, "observer_failed", {"hook": hook})
        yield Case(hook, HANGS, "part_hangs", {"part": "observer bad"})
        yield Case(hook, INVALID)


def of_processors() -> Iterator[Case]:
    for mode in FaultMode:
        yield Case("processor.describe", mode, "ae_title_refused", LANE)
    for method in ("open", *TURNS):
        yield Case(f"processor.{method}", RAISES, "processor_failed", LANE)
        yield Case(f"processor.{method}", HANGS, "part_hangs", LANE_PART)
        yield Case(f"processor.{method}", INVALID)
    yield Case("processor.__init__", RAISES, "processor_failed", LANE)
    yield Case("processor.__init__", HANGS, "part_hangs", LANE_PART)
    yield Case("processor.__init__", INVALID, "processor_failed", LANE)
    yield Case("processor.waiting", RAISES, "processor_waiting_failed", LANE)
    yield Case("processor.waiting", HANGS, "part_hangs", LANE_PART)
    yield Case("processor.waiting", INVALID, "processor_waiting_failed", LANE)
    yield Case("processor.close", RAISES, "processor_close_failed", LANE)
    yield Case("processor.close", HANGS, "part_close_failed", LANE_PART)
    yield Case("processor.close", INVALID)


def of_submitters() -> Iterator[Case]:
    for mode in FaultMode:
        yield Case("submitter.__init__", mode, "submitter_creation_failed", {"submitter": "bad"})
    yield Case("submitter.open", RAISES, "worker_failed", {"worker": "submitter bad"})
    yield Case("submitter.open", HANGS, "part_hangs", SUBMITTER_PART)
    yield Case("submitter.open", INVALID)
    for method in ("create_job", "add_metadata", "upload", "start", "cancel"):
        yield Case(f"submitter.{method}", RAISES, "job_faulted", LANE)
        yield Case(f"submitter.{method}", HANGS, "part_hangs", SUBMITTER_PART)
    yield Case("submitter.create_job", INVALID, "job_faulted", LANE)
    yield from (Case(f"submitter.{method}", INVALID) for method in ("add_metadata", "upload", "start"))
    yield Case("submitter.cancel", INVALID, "job_cancelled", LANE)
    yield Case("submitter.status", RAISES, "platform_status_failed")
    yield Case("submitter.status", HANGS, "part_hangs", {"part": "platform watch bad"})
    yield Case("submitter.status", INVALID, "platform_status_failed")
    yield Case("submitter.close", RAISES, "submitter_close_failed")
    yield Case("submitter.close", HANGS, "part_close_failed", SUBMITTER_PART)
    yield Case("submitter.close", INVALID)


def of_servers() -> Iterator[Case]:
    for method in ("start", "is_alive"):
        yield Case(f"server.{method}", RAISES, "worker_failed", {"worker": "server bad bad"})
        yield Case(f"server.{method}", HANGS, "part_hangs", {"part": "server bad bad"})
        yield Case(f"server.{method}", INVALID)
    for mode in (RAISES, HANGS):
        yield Case("server.stop", mode, "server_stop_failed", {"server": "bad bad"})
    yield Case("server.stop", INVALID)


CASES = [*of_hooks(), *of_processors(), *of_submitters(), *of_servers()]


def test_there_is_a_case_for_every_hook_and_method_with_every_kind_of_fault() -> None:
    """New hooks must be added above. Commands have separate tests, storage backends have a conformance suite."""
    methods = [f"processor.{name}" for name in (*PROCESSOR.methods, "__init__", "describe", "timer")]
    submitter_methods = set(SUBMITTER.methods) - {"attach"}  # needs results; the host calls it as it calls `upload`
    methods += [f"submitter.{name}" for name in (*submitter_methods, "__init__")]
    methods += [f"server.{name}" for name in ("start", "is_alive", "stop")]
    hooks = [name for name in vars(hookspecs) if name.startswith("dicom_adapter_") and name != "dicom_adapter_commands"]
    wanted = {(spot, mode) for spot in (*hooks, *methods) for mode in FaultMode}
    assert wanted == {(case.spot, case.mode) for case in CASES}


@frozen
class Running:
    """A running host with both plugins."""

    process: HostProcess
    healthy: Healthy
    receive: Callable[[str], None]
    cancel_jobs: Callable[[str], None]
    close: Callable[[], None]


def start_host(folder: Path, fault: InjectedFault) -> Running:
    """Start the host as the host process does."""
    healthy = Healthy()
    plugins = discover(Plugin(healthy, name="healthy"), Plugin(bad_plugin(fault), name="bad"))
    text = CONFIGURATION + (HTTP if fault.spot == "dicom_adapter_http" else "")
    config = load(text, folder=folder, catalogue=plugins.catalogue()).config
    assert config is not None
    host_main._log_plugins(plugins)
    data_folder = DataFolder.of(config)
    data_folder.prepare(is_new=True)
    process = HostProcess(config, plugins, SystemClock(), is_first=True)
    read_end, write_end = os.pipe()
    ledger, clock = data_folder.open_ledger(config.ledger_url), SystemClock()
    storage = data_folder.open_storage(config.storage, plugins.catalogue())
    store = Store(config, Resources(ledger=ledger, storage=storage, clock=clock))

    def receive(ae_title: str) -> None:
        data_set = make_instance(patient_name=SECRET)
        answer = store.keep(make_request(data_set, ae_title, "SENDER", "association"), encode(data_set))
        assert answer.instance is not None, answer
        with ledger.write() as transaction:  # causes the turns association_changed and end_wait
            association_reports.lose_open(transaction, RECEIVER, (RECEIVER,), clock.now())
            association_reports.end_wait(transaction, ae_title, [], clock.now())
        os.write(write_end, b"\0")

    def cancel_jobs(ae_title: str) -> None:
        with ledger.read() as transaction:
            rows = jobs.newest(transaction, 10)
        for row in rows:
            if row.job.ae_title == ae_title:
                operators.cancel(ledger, clock, row.job.job_id)

    def close() -> None:
        process.stop()
        os.close(write_end)  # ends the thread that reads the pipe
        for thread in threading.enumerate():
            if thread.name == threads.WAKE_UPS:
                thread.join(PATIENCE_S)
        os.close(read_end)
        storage.close()
        ledger.close()

    process.start(read_end)
    return Running(process, healthy, receive, cancel_jobs, close)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fault_of_a_plugin_affects_only_the_parts_that_need_it(case: Case, tmp_path: Path, log_book: LogBook) -> None:
    """The healthy AE title receives, submits and reclaims. The log names the bad plugin, without the error message."""
    fault = InjectedFault(case.spot, case.mode, case.invalid_value)
    running = start_host(tmp_path, fault)
    try:
        running.receive("BAD")
        if case.spot == "submitter.cancel":
            assert running.healthy.began.wait(PATIENCE_S)
            running.cancel_jobs("BAD")
        running.receive("GOOD")
        assert running.healthy.submitted.wait(PATIENCE_S)
        assert running.healthy.reclaimed.wait(PATIENCE_S)
        if case.event and case.spot not in AT_THE_STOP:
            log_book.wait_for(case.event, case.fields)
    finally:
        if case.spot not in AT_THE_STOP:
            fault.released.set()
        running.close()
        fault.released.set()
    if case.event:
        log_book.wait_for(case.event, case.fields)
    if case.spot not in REGISTRATION:  # errors at registration are logged with their message: no instance exists yet
        assert SECRET not in str(log_book.entries)
