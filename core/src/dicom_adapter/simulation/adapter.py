"""The adapter in one process and thread, with the real ledger, flow and plugins, a virtual clock, and no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from attrs import evolve, frozen
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.hookspecs import PROJECT
from dicom_adapter.api.receiving import StoreRequest, StoreResult
from dicom_adapter.api.values import AssociationReport, AssociationStatus, InstanceStorageInfo, Job
from dicom_adapter.config.model import Config
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.host.draining import PreviousConfig, with_draining
from dicom_adapter.host.host import Host
from dicom_adapter.ledger import association_reports, instances, jobs, lanes, recorded_events
from dicom_adapter.ledger.configurations import Draining
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.clock import VirtualClock

NOTHING = Draining()  # no AE titles and submitters
POLL_EVERY = timedelta(hours=1)  # how often the host looks for changes by other processes; here there are none
PEER_ADDRESS = "127.0.0.1"

T = TypeVar("T")


@frozen
class Plugin:
    """A plugin for one test: a module or object with hook implementations, treated like an installed plugin.

    The other attributes are those of an `importlib.metadata.EntryPoint`.
    """

    plugin: object
    name: str = "under-test"
    value: str = ""
    dist: Any = None
    group: str = PROJECT

    def load(self) -> object:
        return self.plugin


class SimulatedAdapter:
    """An adapter without processes and network. Not thread-safe: only the thread of the test may use it."""

    def __init__(self, config: Config, plugins: Plugins, clock: VirtualClock) -> None:
        self.config = config
        self.clock = clock
        self._plugins = plugins
        self._is_down = False  # see `down`
        self._open: dict[str, AssociationReport] = {}  # what was sent in each open association
        self._reports: list[AssociationReport] = []  # reports that wait for the ledger
        self._previous: list[PreviousConfig] = []  # earlier configurations: their removed parts may not be finished
        self._start()

    def _start(self) -> None:
        folder = DataFolder.of(self.config)
        marker = folder.prepare(is_new=True)  # a simulation has no disks that may be missing
        self.ledger = folder.open_ledger(self.config.ledger_url)
        self.ledger.migrate()
        self.storage = folder.open_storage(self.config.storage, self._plugins.catalogue())
        self.resources = Resources(
            ledger=self.ledger, storage=self.storage, clock=self.clock, storage_problem=marker.problem
        )
        self._store = Store(self.config, self.resources)
        self.host = Host(
            self.config,
            self._plugins,
            self.resources,
            lambda *_: InlineExecutor(),
            lambda _part: None,
            poll_every=POLL_EVERY,
        )
        self.host.run_until_idle()

    def restart_with(self, config: Config) -> None:
        """Close everything and start again from the data on disk, as after a stop or a crash."""
        self.close()
        self.config = config
        self._start()

    def configure(self, config: Config, draining: Draining = NOTHING) -> None:
        """Apply another configuration, as a reload does. The removed parts in `draining` first finish their work."""
        self._previous = [PreviousConfig(config=self.config, draining=draining), *self._previous]
        for close in self.host.configure(*with_draining(config, self._previous)).removed.values():
            close()
        self._store.configure(config)
        self.config = config
        self._run_until_idle()

    def close(self) -> None:
        self.host.close()
        self.storage.close()
        self.ledger.close()

    # --- actions ----------------------------------------------------------------------------------------------------

    def receive_association(
        self,
        *data_sets: Dataset,
        ae_title: str,
        calling_ae_title: str,
        association_id: str = "",
        status: AssociationStatus = AssociationStatus.RELEASED,
        failed: Mapping[str, int] | None = None,
        cut_off: int = 0,
        studies: Collection[str] = (),
    ) -> list[StoreResult]:
        """Receive instances now, in one association, then end it as `status`; deliver everything to the processor.

        With OPEN the association remains open, and a later call with its `association_id` continues it. `failed`:
        number of C-STOREs that fail in addition, by status, such as {"OUT_OF_RESOURCES": 60}. `cut_off`: number of data
        sets that are incomplete when the association ends. `studies`: the Study Instance UIDs of the failed and
        incomplete instances; empty if unknown.
        """
        association_id = association_id or uuid4().hex
        results = [
            self._store.keep(make_request(data_set, ae_title, calling_ae_title, association_id), encode(data_set))
            for data_set in data_sets
        ]
        duplicates = {
            str(data_set.StudyInstanceUID)
            for data_set, result in zip(data_sets, results, strict=True)
            if result.duplicate_of is not None
        }
        report = AssociationReport(
            association_id=association_id,
            ae_title=ae_title,
            calling_ae_title=calling_ae_title,
            peer_address=PEER_ADDRESS,
            status=status,
            began_at=self.clock.now(),
            at=self.clock.now(),
            acknowledged=sum(result.outcome.is_acknowledged for result in results),
            failed=failed or {},
            cut_off=cut_off,
            studies=tuple(sorted({*studies, *duplicates})),
            all_studies_known=bool(studies) or not (failed or cut_off),
        )
        self._report(_continued(self._open.pop(association_id, None), report), has_failures=bool(failed))
        self._run_until_idle()
        return results

    def _report(self, report: AssociationReport, *, has_failures: bool) -> None:
        """Write a report to the ledger if the association has ended, or has new failures, as a receiver does."""
        if report.status is AssociationStatus.OPEN:
            self._open[report.association_id] = report
            if not has_failures:
                return
        else:
            self._store.forget_association(report.association_id)
        self._reports.append(report)
        self._write_reports()

    def _write_reports(self) -> None:
        """Write the waiting reports. If the ledger is unavailable, they keep waiting, as in a receiver."""
        with suppress(LedgerUnavailable):
            if self._reports:
                with self.ledger.write() as transaction:
                    association_reports.record(transaction, self._reports)
                self._reports.clear()

    def crash_receiver(self) -> None:
        """Lose all open associations, as in a crash of the receiver."""
        self._open.clear()
        self._reports.clear()
        with self.ledger.write() as transaction:
            association_reports.lose_open(transaction, RECEIVER, (RECEIVER,), self.clock.now())
        self._run_until_idle()

    def end_wait(self, ae_title: str, *studies: str) -> None:
        """Let the processor stop waiting for more instances of these studies, as an operator does."""
        with self.ledger.write() as transaction:
            association_reports.end_wait(transaction, ae_title, studies, self.clock.now())
        self._run_until_idle()

    def advance(self, seconds: float) -> None:
        """Advance the clock. Groups and timers that become due run at their due times."""
        self.advance_to(self.clock.now() + timedelta(seconds=seconds))

    def advance_to(self, end: datetime) -> None:
        """Advance the clock to `end`."""
        due = self._run_until_idle()
        while due is not None and due <= end:
            self.clock.move_to(max(due, self.clock.now()))
            due = self.host.run_until_idle(only_due=True)
        self.clock.move_to(end)
        self._run_until_idle()

    def _run_until_idle(self) -> datetime | None:
        self._write_reports()
        return None if self._is_down else self.host.run_until_idle()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Context manager: the host is down while instances are received. At the end, the adapter restarts."""
        self._is_down = True
        try:
            yield
        finally:
            self._is_down = False
        self.restart_with(self.config)

    # --- observations -----------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in the order of their submission."""
        with self.ledger.read() as transaction:
            return [row.job for row in reversed(jobs.newest(transaction, 100_000))]

    def instances_of(self, job: Job) -> list[InstanceStorageInfo]:
        """Return the instances of a job, in their order in the job."""
        with self.ledger.read() as transaction:
            row = jobs.get(transaction, job.job_id)
            assert row is not None, f"there is no job {job.job_id}"
            return [instance for _position, instance in instances.of_job(transaction, row.number, missing_only=False)]

    @property
    def states(self) -> dict[str, int]:
        """The number of instances in each state."""
        counted: dict[str, int] = {}
        with self.ledger.read() as transaction:
            for (_ae_title, state), count in instances.count_by_state(transaction).items():
                counted[state] = counted.get(state, 0) + count
        return counted

    @property
    def lanes(self) -> dict[str, LaneReport]:
        """The report on each AE title, as operators see it."""
        with self.ledger.read() as transaction:
            return lanes.load(transaction)

    @property
    def events(self) -> list[Event]:
        """All recorded events, oldest first."""
        with self.ledger.read() as transaction:
            return [event for _number, event in recorded_events.after(transaction, 0, 1_000_000)]


class InlineExecutor(Executor):
    """Executor that calls each function immediately, in the caller's thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except KeyboardInterrupt:  # the user interrupted the test
            raise
        except BaseException as failure:  # noqa: BLE001 - executors catch every exception
            future.set_exception(failure)
        return future


def _continued(earlier: AssociationReport | None, report: AssociationReport) -> AssociationReport:
    """Return the report with everything that happened earlier in the association."""
    if earlier is None:
        return report
    return evolve(
        report,
        began_at=earlier.began_at,
        acknowledged=earlier.acknowledged + report.acknowledged,
        failed=Counter(earlier.failed) + Counter(report.failed),
        studies=tuple(dict.fromkeys([*earlier.studies, *report.studies])),
        all_studies_known=earlier.all_studies_known and report.all_studies_known,
    )


def make_request(data_set: Dataset, ae_title: str, calling_ae_title: str, association_id: str) -> StoreRequest:
    """Return the C-STORE request for a data set."""
    return StoreRequest(
        ae_title=ae_title,
        calling_ae_title=calling_ae_title,
        peer_address=PEER_ADDRESS,
        association_id=association_id,
        sop_class_uid=data_set.SOPClassUID,
        sop_instance_uid=data_set.SOPInstanceUID,
        transfer_syntax_uid=data_set.file_meta.TransferSyntaxUID,
    )


def encode(data_set: Dataset) -> bytes:
    """Encode a data set in the transfer syntax that its File Meta Information names."""
    file = DicomBytesIO()
    file.is_implicit_VR = data_set.file_meta.TransferSyntaxUID.is_implicit_VR
    file.is_little_endian = data_set.file_meta.TransferSyntaxUID.is_little_endian
    write_dataset(file, data_set)
    return file.getvalue()
