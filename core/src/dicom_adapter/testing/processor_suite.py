"""The conformance suite of job processors: tests to subclass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import structlog

from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.values import Waiting
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.simulation.adapter import Plugin
from dicom_adapter.testing.adapter import Adapter
from dicom_adapter.testing.processor_traffic import (
    NAME,
    PATIENT,
    Arrival,
    JobSummary,
    hostile_traffic,
    listed,
    summarize_jobs,
    usual_traffic,
)

AE_TITLE, OTHER = "SUITE", "OTHER"
MOST_FAILURES = 2  # calls of each kind that are made to fail, one at a time
TURNS_THAT_FAIL = 2  # calls of `handle_instance` that are made to fail


class InjectedFailure(Exception):
    """The error that the suite raises during a turn."""


class NoContext:
    """The context that is passed to a constructor, which must not use it."""

    ae_title = AE_TITLE

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the constructor used `context.{name}`: that belongs into open() or into a turn")


class BaseProcessorTests:
    """Subclass it with `processor`, `settings` and other attributes as needed; pytest collects the subclass.

        class TestExpectedSeries(BaseProcessorTests):
            processor = ExpectedSeries
            settings = 'series = 2\\npipeline-a = "pipeline-1"'

    Each test sends the same traffic to its own adapter, with or without disturbances.
    """

    processor: ClassVar[type[JobProcessorBase[Any]]]
    settings: ClassVar[str] = ""  # the TOML of the table [ae-titles.<AE title>.settings]
    modality: ClassVar[str] = "CT"  # of the instances that arrive
    settles_after: ClassVar[float] = 600.0  # seconds after which every group has become jobs
    holds: ClassVar[bool] = False  # True for a processor that keeps instances until a request

    _undisturbed: ClassVar[list[JobSummary]]

    def traffic(self) -> Sequence[Arrival]:
        """What arrives; override it when the usual traffic makes no job."""
        return usual_traffic(self.modality)

    # --- what the tests work with

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
    def undisturbed(self, make: Callable[..., Adapter]) -> list[JobSummary]:
        """The jobs that result from the traffic without failures; computed once for each class."""
        if "_undisturbed" not in vars(type(self)):
            adapter = make()
            self._play(adapter)
            type(self)._undisturbed = summarize_jobs(adapter, AE_TITLE)
        return type(self)._undisturbed

    def _configuration(self, ae_titles: Sequence[str], *, overwrite: bool) -> str:
        tables = [
            f'[ae-titles.{ae_title}]\nprocessor = "suite"\noverwrite-same-instance = {str(overwrite).lower()}\n'
            f"[ae-titles.{ae_title}.settings]\n{self.settings}\n"
            for ae_title in ae_titles
        ]
        return "\n".join(tables)

    def _plugin(self) -> Plugin:
        """Return the processor under another name, so that it does not conflict with an installed one."""
        named = type(self.processor.__name__, (self.processor,), {"name": "suite"})

        @hookimpl
        def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
            return [named]

        return Plugin(SimpleNamespace(dicom_adapter_processors=dicom_adapter_processors), name="suite")

    def _play(self, adapter: Adapter, *ae_titles: str, after: Callable[[], None] = lambda: None) -> None:
        """Send the traffic at its times, then wait until all groups have become jobs."""
        for arrival in self.traffic():
            for ae_title in ae_titles or (AE_TITLE,):
                adapter.receive(*arrival.data_sets, ae_title=ae_title, at=arrival.at)
            after()
        adapter.advance(self.settles_after)

    # --- the life of a processor

    def test_it_is_complete_and_has_a_name(self) -> None:
        """The configuration chooses it by `name`, and every abstract method is there."""
        missing = sorted(getattr(self.processor, "__abstractmethods__", ()))
        assert [] == missing, f"these methods are missing: {', '.join(missing)}"
        name = getattr(self.processor, "name", None)
        assert isinstance(name, str), "the class attribute `name` is missing, by which the configuration chooses it"

    def test_to_make_one_changes_nothing(
        self, make: Callable[..., Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A constructor is called again after every failure: files, threads and timers belong elsewhere."""
        settings = make().config.ae_titles[AE_TITLE].settings
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        threads = set(threading.enumerate())
        self.processor(settings, NoContext())
        assert set(threading.enumerate()) <= threads, "the constructor started threads"
        assert [] == list(elsewhere.iterdir()), "the constructor made files: that belongs into open(), in data_folder"

    def test_it_says_what_its_settings_mean(self, make: Callable[..., Adapter]) -> None:
        """`check` and the log show the description, which is one line."""
        told = self.processor.describe(make().config.ae_titles[AE_TITLE].settings)
        assert isinstance(told, str), f"describe() must return a text, not {type(told).__name__}"
        assert "\n" not in told, "describe() must return one line"

    def test_it_leaves_no_threads(self, make: Callable[..., Adapter]) -> None:
        """A processor is called on its lane and on no other thread; it is replaced after a failure, and ends then."""
        threads = set(threading.enumerate())
        adapter = make()
        self._play(adapter)
        adapter.restart()
        started = set(threading.enumerate()) - threads
        assert set() == started, f"threads are left after close(): {sorted(thread.name for thread in started)}"

    # --- instances become jobs

    def test_instances_become_jobs_and_are_given_back(self, make: Callable[..., Adapter]) -> None:
        """An instance that is never released is stored for ever."""
        adapter = make()
        self._play(adapter)
        if self.holds:
            return
        assert adapter.jobs, f"no job came about within {self.settles_after:g} s\n{adapter.account()}"
        pending = adapter.states.get("pending", 0)
        assert 0 == pending, f"{pending} instances were never removed, and would stay for ever\n{adapter.account()}"

    def test_no_turn_fails(self, make: Callable[..., Adapter]) -> None:
        """No turn fails, and the lane is not stopped."""
        adapter = make()
        self._play(adapter)
        self._expect_no_failure(adapter)

    def test_an_instance_is_in_a_job_once(self, make: Callable[..., Adapter]) -> None:
        """A job contains each instance at most once."""
        adapter = make()
        self._play(adapter)
        for outcome in summarize_jobs(adapter, AE_TITLE):
            assert len(outcome.instances) == len(set(outcome.instances)), f"{outcome}: it has an instance twice"

    def test_two_ae_titles_do_not_disturb_each_other(
        self, make: Callable[..., Adapter], undisturbed: list[JobSummary]
    ) -> None:
        """Each has its own processor: no state is kept in classes or modules."""
        both = make(AE_TITLE, OTHER)
        self._play(both, AE_TITLE, OTHER)
        self._expect_same(undisturbed, summarize_jobs(both, AE_TITLE), both, "another AE title has the same processor")

    # --- a processor's memory is a cache of the ledger

    def test_redelivery_gives_the_same_jobs(self, make: Callable[..., Adapter], undisturbed: list[JobSummary]) -> None:
        """The service restarts after each arrival: pending instances are delivered again, at their original times."""
        adapter = make()
        self._play(adapter, after=adapter.restart)
        self._expect_same(
            undisturbed, summarize_jobs(adapter, AE_TITLE), adapter, "the service restarts after each arrival"
        )

    def test_what_came_while_the_host_was_down_gives_the_same_jobs(
        self, make: Callable[..., Adapter], undisturbed: list[JobSummary]
    ) -> None:
        """Delayed turns decide as they would have in time: by `self.now()`, not by the wall clock."""
        adapter = make()
        with adapter.down():
            self._play(adapter)
        adapter.advance(self.settles_after)
        self._expect_same(
            undisturbed, summarize_jobs(adapter, AE_TITLE), adapter, "the host was down, deadlines included"
        )

    # --- a turn is a transaction

    @pytest.mark.parametrize("call", ["submit", "remove"])
    def test_a_turn_that_raises_leaves_nothing(
        self, make: Callable[..., Adapter], undisturbed: list[JobSummary], monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """One call during a turn fails once: a new processor submits the same jobs for the same instances."""
        for number in range(1, MOST_FAILURES + 1):
            adapter = make()
            with _failing(monkeypatch, Turn, call, number):
                self._play(adapter)
            self._expect_same(
                undisturbed, summarize_jobs(adapter, AE_TITLE), adapter, f"call {number} of {call} failed"
            )

    def test_a_turn_that_raises_at_its_end_leaves_nothing(
        self, make: Callable[..., Adapter], undisturbed: list[JobSummary], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`handle_instance` fails once, after it has done its work."""
        for number in range(1, TURNS_THAT_FAIL + 1):
            adapter = make()
            with _failing(monkeypatch, self.processor, "handle_instance", number, at_its_end=True):
                self._play(adapter)
            self._expect_same(
                undisturbed, summarize_jobs(adapter, AE_TITLE), adapter, f"turn {number} failed once at its end"
            )

    # --- what may come

    def test_an_instance_that_comes_again_stands_for_the_earlier_one(self, make: Callable[..., Adapter]) -> None:
        """With `overwrite-same-instance = true`, a duplicate replaces the instance, with a new `instance_id`."""
        adapter = make(overwrite=True)
        for arrival in self.traffic():
            adapter.receive(*arrival.data_sets, at=arrival.at)
            adapter.receive(*(_corrected(data_set) for data_set in arrival.data_sets))
        adapter.advance(self.settles_after)
        self._expect_no_failure(adapter)
        for job in adapter.jobs:
            uids = [instance.sop_instance_uid for instance in adapter.instances_of(job)]
            assert len(uids) == len(set(uids)), f"job '{job.name}' has an instance and its correction"
        pending = adapter.states.get("pending", 0)
        assert self.holds or 0 == pending, f"{pending} instances were never removed\n{adapter.account()}"

    def test_values_that_no_hospital_should_have_do_no_harm(self, make: Callable[..., Adapter], tmp_path: Path) -> None:
        """Missing, empty and hostile values: it is handled, or quarantined with a reason (`Unprocessable`)."""
        adapter = make()
        for arrival in hostile_traffic(self.modality):
            adapter.receive(*arrival.data_sets, at=arrival.at)
        adapter.advance(self.settles_after)
        self._expect_no_failure(adapter)
        assert not (tmp_path.parent / "etc").exists(), "a patient's ID has become a path"

    # --- operators see what waits, and no patient

    def test_what_waits_is_told(self, make: Callable[..., Adapter]) -> None:
        """`waiting` returns valid values, with no more instances than are pending."""
        adapter = make()
        for arrival in self.traffic():
            adapter.receive(*arrival.data_sets, at=arrival.at)
            waiting = self._waiting(adapter)
            assert sum(group.instance_count for group in waiting) <= adapter.states.get("pending", 0), (
                f"waiting() tells of more instances than there are\n{adapter.account()}"
            )

    def test_no_patient_shows(self, make: Callable[..., Adapter], capfd: pytest.CaptureFixture[str]) -> None:
        """Labels, job names, messages and logs are visible to many people."""
        adapter, shown = make(), []
        with structlog.testing.capture_logs() as logged:
            for arrival in self.traffic():
                adapter.receive(*arrival.data_sets, at=arrival.at)
                shown += [group.label for group in self._waiting(adapter)]
            for arrival in hostile_traffic(self.modality):
                adapter.receive(*arrival.data_sets)
            adapter.advance(self.settles_after)
        shown += [job.name for job in adapter.jobs] + [job.pipeline_id for job in adapter.jobs]
        shown += [str(event.detail) for event in adapter.events] + [str(entry) for entry in logged]
        shown += [self.processor.describe(adapter.config.ae_titles[AE_TITLE].settings), *capfd.readouterr()]
        for text in shown:
            assert PATIENT not in text, f"a patient's ID shows in: {text.replace(PATIENT, '<patient>')}"
            assert NAME not in text, f"a patient's name shows in: {text.replace(NAME, '<patient>')}"

    # --- how it is compared

    def _waiting(self, adapter: Adapter) -> list[Waiting]:
        with structlog.testing.capture_logs() as logged:
            (lane,) = adapter.host.describe_lanes()
        failed = [entry["error"] for entry in logged if entry["event"] == "processor_waiting_failed"]
        assert [] == failed, f"waiting() failed or gave what is no Waiting: {failed}"
        for group in lane.waiting:
            assert group.until is None or group.until.utcoffset() is not None, "Waiting.until must have a time zone"
        return list(lane.waiting)

    def _expect_no_failure(self, adapter: Adapter) -> None:
        failed = [event.detail for event in adapter.events if event.event in ("processor_failed", "lane_stopped")]
        assert [] == failed, f"turns failed: {failed}\n{adapter.account()}"

    def _expect_same(self, expected: list[JobSummary], actual: list[JobSummary], adapter: Adapter, what: str) -> None:
        if expected != actual:
            lines = [f"the jobs are other ones when {what}", "undisturbed:", *listed(expected)]
            lines += ["then:", *listed(actual), *_first_difference(expected, actual), "", adapter.account()]
            raise AssertionError("\n".join(lines))


def _first_difference(expected: list[JobSummary], actual: list[JobSummary]) -> Iterator[str]:
    """Yield the fields in which the first two different jobs differ."""
    for one, other in zip(expected, actual, strict=False):
        if one != other:
            for name in ("at", "name", "pipeline_id", "priority", "instances", "metadata"):
                if getattr(one, name) != getattr(other, name):
                    yield f"the first that differs has {name} {getattr(other, name)} instead of {getattr(one, name)}"
            return


@contextmanager
def _failing(
    monkeypatch: pytest.MonkeyPatch, cls: type, name: str, number: int, *, at_its_end: bool = False
) -> Iterator[None]:
    """Make the `number`-th call of a method fail, before or after it has done its work."""
    calls = 0
    method = getattr(cls, name)

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not at_its_end:
            raise InjectedFailure
        result = method(*arguments, **keywords)
        if calls == number:
            raise InjectedFailure
        return result

    with monkeypatch.context() as patch:
        patch.setattr(cls, name, failing)
        yield


def _corrected(data_set: Any) -> Any:
    """Return the same SOP instance with different content, as a modality resends it."""
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
