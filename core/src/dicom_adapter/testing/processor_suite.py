"""The conformance suite for job processors: subclass it to test that your processor follows the rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import structlog

from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.values import AssociationStatus, Waiting
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.ledger import instances
from dicom_adapter.simulation.adapter import Plugin
from dicom_adapter.testing.adapter import Adapter
from dicom_adapter.testing.processor_traffic import (
    ENDS,
    PATIENT_ID,
    PATIENT_NAME,
    Arrival,
    JobSummary,
    format_jobs,
    malformed_traffic,
    summarize_jobs,
    usual_traffic,
)

AE_TITLE, OTHER_AE_TITLE = "SUITE", "OTHER"
FAILING_CALLS = 2  # number of calls of `submit` and `remove` that fail, one in each run
FAILING_TURNS = 2  # number of calls of `handle_instance` that fail, one in each run


class InjectedFailure(Exception):
    """The error that the suite raises during a turn."""


class UnusableContext:
    """A context whose use raises an error: constructors must not use their context."""

    ae_title = AE_TITLE

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the constructor used `context.{name}`: move that to open() or a turn")


class BaseProcessorTests:
    """Base class of tests: subclass it with `processor`, `settings` and other attributes as needed.

        class TestExpectedSeries(BaseProcessorTests):
            processor = ExpectedSeries
            settings = 'series = 2\\npipeline-a = "pipeline-1"'

    Pytest collects the subclass. Most tests send the same instances to a new adapter, each test with another failure,
    and expect the same jobs.
    """

    processor: ClassVar[type[JobProcessorBase[Any]]]
    settings: ClassVar[str] = ""  # the TOML of the table [ae-titles.<AE title>.settings]
    modality: ClassVar[str] = "CT"  # modality of the instances that the suite sends
    all_jobs_after: ClassVar[float] = 600.0  # seconds after which every group has become a job
    holds: ClassVar[bool] = False  # True for a processor that keeps instances until a request

    _expected_jobs: ClassVar[list[JobSummary]]

    def traffic(self) -> Sequence[Arrival]:
        """Return the instances to send. Override this method if the processor makes no job of the usual instances."""
        return usual_traffic(self.modality)

    # --- fixtures

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Callable[..., Adapter]]:
        """A factory of adapters with the processor at one or more AE titles."""
        made: list[Adapter] = []

        def make(*ae_titles: str, overwrite: bool = False) -> Adapter:
            folder = tmp_path / f"adapter-{len(made)}"
            folder.mkdir()
            made.append(
                Adapter(folder, self._configuration(ae_titles or (AE_TITLE,), overwrite=overwrite), [self._plugin()])
            )
            return made[-1]

        yield make
        for adapter in made:
            adapter.close()

    @pytest.fixture
    def expected_jobs(self, make: Callable[..., Adapter]) -> list[JobSummary]:
        """The jobs that result without failures; computed once for each class."""
        if "_expected_jobs" not in vars(type(self)):
            adapter = make()
            self._replay(adapter)
            type(self)._expected_jobs = summarize_jobs(adapter, AE_TITLE)
        return type(self)._expected_jobs

    def _configuration(self, ae_titles: Sequence[str], *, overwrite: bool) -> str:
        tables = [
            f'[ae-titles.{ae_title}]\nprocessor = "suite"\noverwrite-same-instance = {str(overwrite).lower()}\n'
            f"[ae-titles.{ae_title}.settings]\n{self.settings}\n"
            for ae_title in ae_titles
        ]
        return "\n".join(tables)

    def _plugin(self) -> Plugin:
        """Return a plugin with the processor under the name "suite", which no installed processor has."""
        renamed = type(self.processor.__name__, (self.processor,), {"name": "suite"})

        @hookimpl
        def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
            return [renamed]

        return Plugin(SimpleNamespace(dicom_adapter_processors=dicom_adapter_processors), name="suite")

    def _replay(self, adapter: Adapter, *ae_titles: str, after_each: Callable[[], None] = lambda: None) -> None:
        """Send the traffic at its times, then advance the clock until all groups have become jobs."""
        for arrival in self.traffic():
            for ae_title in ae_titles or (AE_TITLE,):
                adapter.receive(*arrival.data_sets, ae_title=ae_title, at=arrival.at)
            after_each()
        adapter.advance(self.all_jobs_after)

    # --- class, constructor, description, threads

    def test_processor_is_complete_and_has_a_name(self) -> None:
        """All abstract methods are implemented, and `name`, by which the configuration selects the class, is set."""
        missing = sorted(getattr(self.processor, "__abstractmethods__", ()))
        assert [] == missing, f"these methods are missing: {', '.join(missing)}"
        name = getattr(self.processor, "name", None)
        assert isinstance(name, str), "the class attribute `name` is missing"

    def test_constructor_has_no_side_effects(
        self, make: Callable[..., Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The constructor is called again after each failure: create files and threads in `open`, timers in turns."""
        settings = make().config.ae_titles[AE_TITLE].settings
        folder = tmp_path / "empty"
        folder.mkdir()
        monkeypatch.chdir(folder)
        threads = set(threading.enumerate())
        self.processor(settings, UnusableContext())
        assert set(threading.enumerate()) <= threads, "the constructor started threads"
        assert [] == list(folder.iterdir()), "the constructor created files: move that to open(), in data_folder"

    def test_describe_returns_one_line(self, make: Callable[..., Adapter]) -> None:
        """`dicom-adapter check` and the log show the description on one line."""
        description = self.processor.describe(make().config.ae_titles[AE_TITLE].settings)
        assert isinstance(description, str), f"describe() must return a string, not {type(description).__name__}"
        assert "\n" not in description, "describe() must return one line"

    def test_no_threads_remain_after_close(self, make: Callable[..., Adapter]) -> None:
        """`close` ends the threads that a processor has started: the adapter replaces a processor after a failure."""
        threads = set(threading.enumerate())
        adapter = make()
        self._replay(adapter)
        adapter.restart()
        started = set(threading.enumerate()) - threads
        assert set() == started, f"threads still run after close(): {sorted(thread.name for thread in started)}"

    # --- jobs

    def test_instances_become_jobs_and_are_removed(self, make: Callable[..., Adapter]) -> None:
        """Every instance is submitted and then removed: an instance that is never removed is stored forever."""
        adapter = make()
        self._replay(adapter)
        if self.holds:
            return
        assert adapter.jobs, f"no job was submitted within {self.all_jobs_after:g} s\n{adapter.describe()}"
        pending = adapter.states.get("pending", 0)
        assert 0 == pending, f"instances never removed: {pending}; call remove_instances()\n{adapter.describe()}"

    def test_no_turn_fails(self, make: Callable[..., Adapter]) -> None:
        """No turn fails, and the lane is not stopped."""
        adapter = make()
        self._replay(adapter)
        self._expect_no_failure(adapter)

    def test_job_contains_each_instance_once(self, make: Callable[..., Adapter]) -> None:
        """A job contains each instance at most once."""
        adapter = make()
        self._replay(adapter)
        for job in summarize_jobs(adapter, AE_TITLE):
            assert len(job.instances) == len(set(job.instances)), f"{job}: it contains an instance twice"

    def test_two_ae_titles_share_no_state(self, make: Callable[..., Adapter], expected_jobs: list[JobSummary]) -> None:
        """Each AE title has its own processor object: keep state in the object, not in its class or module."""
        both = make(AE_TITLE, OTHER_AE_TITLE)
        self._replay(both, AE_TITLE, OTHER_AE_TITLE)
        self._expect_same(
            expected_jobs, summarize_jobs(both, AE_TITLE), both, "another AE title uses the same processor"
        )

    # --- restarts: the adapter delivers pending instances again

    def test_redelivery_gives_the_same_jobs(
        self, make: Callable[..., Adapter], expected_jobs: list[JobSummary]
    ) -> None:
        """The service restarts after each arrival: pending instances are delivered again, at their original times."""
        adapter = make()
        self._replay(adapter, after_each=adapter.restart)
        self._expect_same(
            expected_jobs, summarize_jobs(adapter, AE_TITLE), adapter, "the service restarts after each arrival"
        )

    def test_delayed_delivery_gives_the_same_jobs(
        self, make: Callable[..., Adapter], expected_jobs: list[JobSummary]
    ) -> None:
        """The host is down while instances arrive. Delayed turns use `self.now()`, so that the jobs are the same."""
        adapter = make()
        with adapter.down():
            self._replay(adapter)
        adapter.advance(self.all_jobs_after)
        self._expect_same(
            expected_jobs, summarize_jobs(adapter, AE_TITLE), adapter, "the host was down while instances arrived"
        )

    # --- failures: a turn that fails has no effect

    @pytest.mark.parametrize("call", ["submit", "remove"])
    def test_failed_turn_has_no_effect(
        self, make: Callable[..., Adapter], expected_jobs: list[JobSummary], monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """`submit_pipeline_job` or `remove_instances` fails once: a new processor submits the same jobs."""
        for number in range(1, FAILING_CALLS + 1):
            adapter = make()
            with _failing(monkeypatch, Turn, call, number):
                self._replay(adapter)
            self._expect_same(
                expected_jobs, summarize_jobs(adapter, AE_TITLE), adapter, f"call {number} of {call} failed"
            )

    def test_turn_that_fails_at_its_end_has_no_effect(
        self, make: Callable[..., Adapter], expected_jobs: list[JobSummary], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`handle_instance` fails once, at its end: a new processor submits the same jobs."""
        for number in range(1, FAILING_TURNS + 1):
            adapter = make()
            with _failing(monkeypatch, self.processor, "handle_instance", number, at_end=True):
                self._replay(adapter)
            self._expect_same(
                expected_jobs, summarize_jobs(adapter, AE_TITLE), adapter, f"turn {number} failed once at its end"
            )

    # --- interrupted associations

    @pytest.mark.parametrize("restarts", [False, True], ids=["undisturbed", "restarted"])
    def test_reports_about_associations_lose_nothing(
        self, make: Callable[..., Adapter], expected_jobs: list[JobSummary], restarts: bool
    ) -> None:
        """`association_changed` also handles repeated reports, and reports about no pending instance."""
        adapter = make()
        studies = [str(data_set.StudyInstanceUID) for arrival in self.traffic() for data_set in arrival.data_sets]
        adapter.receive(failed={"OUT_OF_RESOURCES": 1}, studies=studies)
        for number, (arrival, end) in enumerate(zip(self.traffic(), cycle(ENDS), strict=False)):
            adapter.receive(*arrival.data_sets, at=arrival.at, association_id=f"{number:032x}", **end)
            if restarts:
                adapter.restart()  # reports about pending instances are delivered again
        adapter.crash_receiver()
        adapter.advance(self.all_jobs_after)
        adapter.receive(status=AssociationStatus.LOST, cut_off=1, studies=studies)
        adapter.end_wait(AE_TITLE, *studies)
        adapter.advance(self.all_jobs_after)
        self._expect_no_failure(adapter)
        with adapter.ledger.read() as transaction:
            kept = {one.sop_instance_uid for one in instances.pending_after(transaction, 0, 10_000, AE_TITLE)}
        kept.update(uid for job in summarize_jobs(adapter, AE_TITLE) for uid in job.instances)
        lost = {uid for job in expected_jobs for uid in job.instances} - kept
        assert set() == lost, f"instances removed without a job: {len(lost)}\n{adapter.describe()}"

    # --- duplicates and malformed values

    def test_duplicate_replaces_the_earlier_instance(self, make: Callable[..., Adapter]) -> None:
        """With `overwrite-same-instance = true`, a duplicate replaces the instance, with a new `instance_id`."""
        adapter = make(overwrite=True)
        for arrival in self.traffic():
            adapter.receive(*arrival.data_sets, at=arrival.at)
            adapter.receive(*(_change_pixels(data_set) for data_set in arrival.data_sets))
        adapter.advance(self.all_jobs_after)
        self._expect_no_failure(adapter)
        for job in adapter.jobs:
            uids = [instance.sop_instance_uid for instance in adapter.instances_of(job)]
            assert len(uids) == len(set(uids)), f"job '{job.name}' contains an instance and its duplicate"
        pending = adapter.states.get("pending", 0)
        assert self.holds or 0 == pending, f"instances never removed: {pending}\n{adapter.describe()}"

    def test_missing_and_malformed_values_are_handled(self, make: Callable[..., Adapter], tmp_path: Path) -> None:
        """Each instance is handled, or quarantined with a reason (`Unprocessable`)."""
        adapter = make()
        for arrival in malformed_traffic(self.modality):
            adapter.receive(*arrival.data_sets, at=arrival.at)
        adapter.advance(self.all_jobs_after)
        self._expect_no_failure(adapter)
        assert not (tmp_path.parent / "etc").exists(), "a patient ID was used as a path"

    # --- operators see waiting groups, and no patient data

    def test_waiting_returns_valid_groups(self, make: Callable[..., Adapter]) -> None:
        """`waiting` returns valid groups, which contain no more instances than are pending."""
        adapter = make()
        for arrival in self.traffic():
            adapter.receive(*arrival.data_sets, at=arrival.at)
            waiting = self._waiting(adapter)
            assert sum(group.instance_count for group in waiting) <= adapter.states.get("pending", 0), (
                f"waiting() returned more instances than are pending\n{adapter.describe()}"
            )

    def test_patient_data_is_not_visible(self, make: Callable[..., Adapter], capfd: pytest.CaptureFixture[str]) -> None:
        """Labels, job names, messages and logs contain no patient data: many people can read them."""
        adapter, shown = make(), []
        with structlog.testing.capture_logs() as logged:
            for arrival in self.traffic():
                adapter.receive(*arrival.data_sets, at=arrival.at)
                shown += [group.label for group in self._waiting(adapter)]
            for arrival in malformed_traffic(self.modality):
                adapter.receive(*arrival.data_sets)
            adapter.advance(self.all_jobs_after)
        shown += [job.name for job in adapter.jobs] + [job.pipeline_id for job in adapter.jobs]
        shown += [str(event.detail) for event in adapter.events] + [str(entry) for entry in logged]
        shown += [self.processor.describe(adapter.config.ae_titles[AE_TITLE].settings), *capfd.readouterr()]
        for text in shown:
            assert PATIENT_ID not in text, f"a patient ID is visible in: {text.replace(PATIENT_ID, '<patient>')}"
            assert PATIENT_NAME not in text, f"a patient name is visible in: {text.replace(PATIENT_NAME, '<patient>')}"

    # --- helpers

    def _waiting(self, adapter: Adapter) -> list[Waiting]:
        with structlog.testing.capture_logs() as logged:
            (lane,) = adapter.host.describe_lanes()
        failed = [entry["error"] for entry in logged if entry["event"] == "processor_waiting_failed"]
        assert [] == failed, f"waiting() failed or returned something other than Waiting objects: {failed}"
        for group in lane.waiting:
            assert group.until is None or group.until.utcoffset() is not None, "Waiting.until must have a time zone"
        return list(lane.waiting)

    def _expect_no_failure(self, adapter: Adapter) -> None:
        failed = [event.detail for event in adapter.events if event.event in ("processor_failed", "lane_stopped")]
        assert [] == failed, f"turns failed: {failed}\n{adapter.describe()}"

    def _expect_same(self, expected: list[JobSummary], actual: list[JobSummary], adapter: Adapter, when: str) -> None:
        if expected != actual:
            lines = [f"the jobs differ when {when}", "expected:", *format_jobs(expected)]
            lines += ["actual:", *format_jobs(actual), *_first_difference(expected, actual), "", adapter.describe()]
            raise AssertionError("\n".join(lines))


def _first_difference(expected: list[JobSummary], actual: list[JobSummary]) -> Iterator[str]:
    """Yield the fields in which the first two different jobs differ."""
    for one, other in zip(expected, actual, strict=False):
        if one != other:
            for name in ("at", "name", "pipeline_id", "priority", "instances", "metadata"):
                if getattr(one, name) != getattr(other, name):
                    yield f"first difference: {name} {getattr(other, name)} instead of {getattr(one, name)}"
            return


@contextmanager
def _failing(
    monkeypatch: pytest.MonkeyPatch, cls: type, name: str, number: int, *, at_end: bool = False
) -> Iterator[None]:
    """Make the `number`-th call of a method fail: before it does anything, or `at_end`."""
    calls = 0
    method = getattr(cls, name)

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not at_end:
            raise InjectedFailure
        result = method(*arguments, **keywords)
        if calls == number:
            raise InjectedFailure
        return result

    with monkeypatch.context() as patch:
        patch.setattr(cls, name, failing)
        yield


def _change_pixels(data_set: Any) -> Any:
    """Return an instance with the same UIDs and different pixels, as a modality resends a corrected image."""
    return make_instance(
        modality=str(data_set.Modality),
        patient_id=data_set.PatientID,
        patient_name=data_set.PatientName,
        study_uid=data_set.StudyInstanceUID,
        series_uid=data_set.SeriesInstanceUID,
        sop_uid=data_set.SOPInstanceUID,
        accession_number=data_set.AccessionNumber,
        rows=8,
        columns=8,
    )
