"""Whatever a plugin does, and wherever: what depends on it is told of by name, and everything else goes on.

Each case runs the host as the service does, with its threads, and a plugin that misbehaves in one spot. Tried: without
the boundary in question, nearly every case.
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
from dicom_adapter.ledger import jobs
from dicom_adapter.plugins import isolation, registry
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.adapter import encode, request_of
from dicom_adapter.simulation.memory import memory_storage
from dicom_adapter.simulation.platform import MemorySubmitter, Platform
from dicom_adapter.testing import Plugin

PATIENCE_S = 60.0
SHORT_S = 0.3  # the deadlines of these tests
SECRET = "Nobody^Norbert"  # a plugin's exception may quote a patient; nothing that is logged may

CONFIGURATION = """
[storage]
backend = "short-of-room"
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


class Misdeed(Enum):
    RAISES = "raises"
    HANGS = "hangs"
    NONSENSE = "returns nonsense"


class Panic(BaseException):
    """As libraries written in other languages raise it."""


class Misbehaviour:
    """What the bad plugin does in one spot; everywhere else it behaves."""

    def __init__(self, spot: str, misdeed: Misdeed, nonsense: Any = None) -> None:
        self.spot = spot
        self.misdeed = misdeed
        self.nonsense = object() if nonsense is None else nonsense
        self.let_go = threading.Event()  # ends what hangs

    def at(self, spot: str, otherwise: Any = None) -> Any:
        if spot != self.spot:
            return otherwise
        if self.misdeed is Misdeed.RAISES:
            raise Panic(SECRET)
        if self.misdeed is Misdeed.HANGS:
            self.let_go.wait(2 * PATIENCE_S)
            return otherwise
        return self.nonsense


def made(doing: Misbehaviour, prefix: str, **answers: Any) -> dict[str, Any]:
    """Methods, each of which answers with this, or misbehaves."""

    def make(name: str, answer: Any) -> Callable[..., Any]:
        return lambda _self, *_arguments: doing.at(f"{prefix}.{name}", answer)

    return {name: make(name, answer) for name, answer in answers.items()}


def bad_processor(doing: Misbehaviour) -> type:
    def handle_instance(self: JobProcessorBase[Any], instance: Any) -> Any:
        self.submit_pipeline_job("job", "pipeline", JobPriority.NORMAL, [instance])
        self.call_later(0, lambda: doing.at("processor.timer"))
        return doing.at("processor.handle_instance")

    def init(self: JobProcessorBase[Any], settings: Any, context: Any) -> Any:
        JobProcessorBase.__init__(self, settings, context)
        return doing.at("processor.__init__")

    body = made(doing, "processor", open=None, job_changed=None, free_space=None, waiting=(), close=None)
    body |= {"name": "bad", "__init__": init, "handle_instance": handle_instance}
    body |= {"describe": classmethod(lambda _cls, _settings: doing.at("processor.describe", ""))}
    return type("BadProcessor", (JobProcessorBase,), body)


def bad_submitter(doing: Misbehaviour) -> type:
    def init(self: Submitter[Any], settings: Any, context: Any) -> Any:
        Submitter.__init__(self, settings, context)
        return doing.at("submitter.__init__")

    def upload(_self: Submitter[Any], _job: Job, _upload: Any) -> Any:
        if doing.spot == "submitter.cancel":
            raise Retriable("so that the job can be cancelled")
        return doing.at("submitter.upload")

    created, status = PlatformJob(job_id="p"), PlatformStatus(state="runs", finished=False)
    body = made(doing, "submitter", open=None, create_job=created, add_metadata=None, start=None, status=status)
    body |= made(doing, "submitter", cancel=None, close=None)
    return type("BadSubmitter", (Submitter,), body | {"name": "bad", "__init__": init, "upload": upload})


def bad_plugin(doing: Misbehaviour) -> object:
    """A plugin that has every hook, and misbehaves in one spot."""
    server = type("BadServer", (Server,), made(doing, "server", start=None, is_alive=True, stop=None) | {"name": "bad"})
    answers = {
        "dicom_adapter_processors": [bad_processor(doing)],
        "dicom_adapter_submitters": [bad_submitter(doing)],
        "dicom_adapter_servers": [server()],
        **{name: [] for name in ("dicom_adapter_storage_backends", "dicom_adapter_commands", "dicom_adapter_http")},
        **dict.fromkeys(OBSERVERS, None),
    }

    def hook(name: str) -> Callable[[], Any]:
        return hookimpl(lambda: doing.at(name, answers[name]))

    return SimpleNamespace(**{name: hook(name) for name in answers})


class Healthy:
    """A plugin that works: makes a job of each instance, and tells when one was submitted and reclaimed."""

    def __init__(self) -> None:
        self.submitted = threading.Event()
        self.reclaimed = threading.Event()
        self.began = threading.Event()  # a job of the bad AE title that has metadata

        class Good(JobProcessorBase[NoSettings]):
            name = "good"

            def handle_instance(self, instance: Any) -> None:
                self.submit_pipeline_job("job", "pipeline", JobPriority.NORMAL, [instance])
                self.remove_instances([instance])

        class GoodSubmitter(MemorySubmitter):
            platform: ClassVar[Platform] = Platform()

        class ShortOfRoom(memory_storage()):  # type: ignore[misc] # made at run time
            name = "short-of-room"

            def capacity(self) -> Capacity:
                return Capacity(total_bytes=1000, free_bytes=100)  # so that processors are asked to make room

        self.components = {"processors": [Good], "submitters": [GoodSubmitter], "storage": [ShortOfRoom]}

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
    """What is logged, to be waited for."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self._news = threading.Condition()

    def __call__(self, _logger: Any, _method: str, entry: Any) -> Any:
        with self._news:
            self.entries.append(dict(entry))
            self._news.notify_all()
        raise structlog.DropEvent

    def wait_for(self, event: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        def found() -> list[Mapping[str, Any]]:
            return [e for e in self.entries if e["event"] == event and fields.items() <= e.items()]

        with self._news:
            assert self._news.wait_for(found, PATIENCE_S), f"no {event} {fields} in {self.entries}"
            return found()[0]


@pytest.fixture
def log_book() -> Iterator[LogBook]:
    book, processors = LogBook(), structlog.get_config()["processors"]
    before = list(processors)
    processors[:] = [book]  # in place: whoever logs has this list already
    yield book
    processors[:] = before


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for half a minute."""
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
    """Where, what, and what the log says of it: an event and some of its fields; none when there is nothing to say."""

    spot: str
    misdeed: Misdeed
    event: str = ""
    fields: Mapping[str, Any] = {}
    nonsense: Any = None

    def __str__(self) -> str:
        return f"{self.spot} {self.misdeed.value}"


LANE = {"ae_title": "BAD"}
LANE_PART, SUBMITTER_PART = {"part": "AE title BAD"}, {"part": "submitter bad"}
OBSERVERS = ("dicom_adapter_instance_stored", "dicom_adapter_job_changed", "dicom_adapter_instances_reclaimed")
REGISTRATION = ("dicom_adapter_processors", "dicom_adapter_submitters", "dicom_adapter_storage_backends")
BROUGHT = ("dicom_adapter_http", "dicom_adapter_servers")
TURNS = ("handle_instance", "timer", "job_changed", "free_space")
AT_THE_STOP = ("processor.close", "submitter.close", "server.stop")
RAISES, HANGS, NONSENSE = Misdeed


def of_hooks() -> Iterator[Case]:
    for misdeed in Misdeed:
        yield from (Case(hook, misdeed, "plugin_load_failed") for hook in REGISTRATION)
        yield from (Case(hook, misdeed, "hook_failed", {"hook": hook}) for hook in BROUGHT)
    yield Case("dicom_adapter_http", NONSENSE, "http_mount_failed", {"plugin": "bad"}, nonsense=[7])
    yield Case("dicom_adapter_servers", NONSENSE, "hook_failed", {"hook": "dicom_adapter_servers"}, nonsense=[7])
    for hook in OBSERVERS:
        yield Case(hook, RAISES, "observer_failed", {"hook": hook})
        yield Case(hook, HANGS, "part_hangs", {"part": "observer bad"})
        yield Case(hook, NONSENSE)


def of_processors() -> Iterator[Case]:
    for misdeed in Misdeed:
        yield Case("processor.describe", misdeed, "ae_title_refused", LANE)
    for method in ("open", *TURNS):
        yield Case(f"processor.{method}", RAISES, "processor_failed", LANE)
        yield Case(f"processor.{method}", HANGS, "part_hangs", LANE_PART)
        yield Case(f"processor.{method}", NONSENSE)
    yield Case("processor.__init__", RAISES, "processor_failed", LANE)
    yield Case("processor.__init__", HANGS, "part_hangs", LANE_PART)
    yield Case("processor.__init__", NONSENSE, "processor_failed", LANE)
    yield Case("processor.waiting", RAISES, "processor_waiting_failed", LANE)
    yield Case("processor.waiting", HANGS, "part_hangs", LANE_PART)
    yield Case("processor.waiting", NONSENSE, "processor_waiting_failed", LANE)
    yield Case("processor.close", RAISES, "processor_close_failed", LANE)
    yield Case("processor.close", HANGS, "part_close_failed", LANE_PART)
    yield Case("processor.close", NONSENSE)


def of_submitters() -> Iterator[Case]:
    for misdeed in Misdeed:
        yield Case("submitter.__init__", misdeed, "submitter_creation_failed", {"submitter": "bad"})
    yield Case("submitter.open", RAISES, "worker_failed", {"worker": "submitter bad"})
    yield Case("submitter.open", HANGS, "part_hangs", SUBMITTER_PART)
    yield Case("submitter.open", NONSENSE)
    for method in ("create_job", "add_metadata", "upload", "start", "cancel"):
        yield Case(f"submitter.{method}", RAISES, "job_faulted", LANE)
        yield Case(f"submitter.{method}", HANGS, "part_hangs", SUBMITTER_PART)
    yield Case("submitter.create_job", NONSENSE, "job_faulted", LANE)
    yield from (Case(f"submitter.{method}", NONSENSE) for method in ("add_metadata", "upload", "start"))
    yield Case("submitter.cancel", NONSENSE, "job_cancelled", LANE)
    yield Case("submitter.status", RAISES, "platform_not_asked")
    yield Case("submitter.status", HANGS, "part_hangs", {"part": "platform watch bad"})
    yield Case("submitter.status", NONSENSE, "platform_not_asked")
    yield Case("submitter.close", RAISES, "submitter_close_failed")
    yield Case("submitter.close", HANGS, "part_close_failed", SUBMITTER_PART)
    yield Case("submitter.close", NONSENSE)


def of_servers() -> Iterator[Case]:
    for method in ("start", "is_alive"):
        yield Case(f"server.{method}", RAISES, "worker_failed", {"worker": "server bad bad"})
        yield Case(f"server.{method}", HANGS, "part_hangs", {"part": "server bad bad"})
        yield Case(f"server.{method}", NONSENSE)
    for misdeed in (RAISES, HANGS):
        yield Case("server.stop", misdeed, "server_stop_failed", {"server": "bad bad"})
    yield Case("server.stop", NONSENSE)


CASES = [*of_hooks(), *of_processors(), *of_submitters(), *of_servers()]


def test_every_hook_and_method_is_tried_in_every_way() -> None:
    """A new one has to be added above. Commands are tried elsewhere, what storage backends do in their own suite."""
    methods = [f"processor.{name}" for name in (*PROCESSOR.methods, "__init__", "describe", "timer")]
    methods += [f"submitter.{name}" for name in (*SUBMITTER.methods, "__init__")]
    methods += [f"server.{name}" for name in ("start", "is_alive", "stop")]
    hooks = [name for name in vars(hookspecs) if name.startswith("dicom_adapter_") and name != "dicom_adapter_commands"]
    wanted = {(spot, misdeed) for spot in (*hooks, *methods) for misdeed in Misdeed}
    assert wanted == {(case.spot, case.misdeed) for case in CASES}


@frozen
class Running:
    """The host with both plugins."""

    process: HostProcess
    healthy: Healthy
    receive: Callable[[str], None]
    cancel_jobs: Callable[[str], None]
    close: Callable[[], None]


def begin(folder: Path, doing: Misbehaviour) -> Running:
    """Start the host as its process does."""
    healthy = Healthy()
    found = discover(Plugin(healthy, name="healthy"), Plugin(bad_plugin(doing), name="bad"))
    text = CONFIGURATION + (HTTP if doing.spot == "dicom_adapter_http" else "")
    config = load(text, folder=folder, catalogue=found.catalogue()).config
    assert config is not None
    host_main._log_plugins(found)
    process = HostProcess(config, found, first=True)
    read_end, write_end = os.pipe()
    data_folder = DataFolder.of(config)
    ledger, clock = data_folder.open_ledger(config.ledger_url), SystemClock()
    storage = data_folder.open_storage(config.storage, found.catalogue())
    store = Store(config, Resources(ledger=ledger, storage=storage, clock=clock))

    def receive(ae_title: str) -> None:
        data_set = make_instance(patient_name=SECRET)
        answer = store.keep(request_of(data_set, ae_title, "SENDER", "association"), encode(data_set))
        assert answer.instance is not None, answer
        os.write(write_end, b"\0")

    def cancel_jobs(ae_title: str) -> None:
        with ledger.read() as transaction:
            rows = jobs.newest(transaction, 10)
        for row in rows:
            if row.job.ae_title == ae_title:
                operators.cancel(ledger, clock, row.job.job_id)

    def close() -> None:
        process.stop()
        os.close(write_end)  # who follows it ends by that
        for thread in threading.enumerate():
            if thread.name == threads.WAKE_UPS:
                thread.join(PATIENCE_S)
        os.close(read_end)
        storage.close()
        ledger.close()

    process.start(read_end)
    return Running(process, healthy, receive, cancel_jobs, close)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_plugin_does_costs_nothing_but_what_depends_on_it(case: Case, tmp_path: Path, log_book: LogBook) -> None:
    """The healthy AE title receives, submits and reclaims; the log names who misbehaves, without what it said."""
    doing = Misbehaviour(case.spot, case.misdeed, case.nonsense)
    running = begin(tmp_path, doing)
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
            doing.let_go.set()
        running.close()
        doing.let_go.set()
    if case.event:
        log_book.wait_for(case.event, case.fields)
    if case.spot not in REGISTRATION:  # what a plugin says before there is any instance is shown
        assert SECRET not in str(log_book.entries)
