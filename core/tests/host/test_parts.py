"""Parts of the host: steps are short, and a hanging part does not delay the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import AssociationStatus, JobProcessorBase, Submitter
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.process import lane as lane_module
from dicom_adapter.host import host, observers
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.plugins import isolation
from dicom_adapter.runtime.parts import Part, PartKind, lane_part, submitter_part
from dicom_adapter.simulation.platform import MemorySubmitter
from dicom_adapter.testing import Plugin

LUNG = '[ae-titles.LUNG]\nprocessor = "by-study"\nsettings = { pipeline-a = "1" }\n'
FIRST = 'default-submitter = "first"\n[submitters.first]\ntype = "memory"\n'
TWO_SUBMITTERS = """
[submitters.good]
type = "memory"
[submitters.bad]
type = "bad"
[ae-titles.LUNG]
processor = "by-study"
submitter = "good"
settings = { pipeline-a = "1" }
[ae-titles.LIVER]
processor = "by-study"
submitter = "bad"
settings = { pipeline-a = "1" }
"""
TWO_PROCESSORS = LUNG + '[ae-titles.LIVER]\nprocessor = "bad"\n'

MakeAdapter = Callable[..., Any]


def observing(**hooks: Callable[..., Any]) -> Plugin:
    """Return the plugin `observer` with these observer hooks."""
    return Plugin(
        SimpleNamespace(**{f"dicom_adapter_{name}": hookimpl(hook) for name, hook in hooks.items()}), name="observer"
    )


# --- steps are short --------------------------------------------------------------------------------------------------


def test_a_lane_performs_a_limited_number_of_turns_in_one_step(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slice of 0 seconds, each step is one turn and requests the next step at once. No turn is lost.

    Verified to fail when a step performs all turns that are due.
    """
    adapter = make_adapter(LUNG)
    monkeypatch.setattr(lane_module, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    still_open = AssociationStatus.OPEN  # the end of an association is a turn, too
    adapter.receive(*[make_instance() for _number in range(3)], ae_title="LUNG", status=still_open)
    adapter.host.parts()[Part(PartKind.NOTIFY)].step()
    lane = adapter.host.parts()[lane_part("LUNG")]
    waiting = []
    for _turn in range(3):
        assert adapter.clock.now() == lane.step()
        [report] = adapter.host.describe_lanes()
        waiting.append(sum(group.instance_count for group in report.waiting))
    assert [1, 2, 3] == waiting
    assert lane.step() > adapter.clock.now()


def test_reclaim_deletes_a_limited_number_of_objects_in_one_step(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the sweep deletes one object and continues where the previous step stopped."""
    monkeypatch.setattr("dicom_adapter.flow.reclaim.reclaim.BATCH", 1)
    adapter = make_adapter(LUNG)
    adapter.receive(*[make_instance() for _number in range(3)], ae_title="LUNG")
    reclaim = adapter.host.parts()[Part(PartKind.RECLAIM)].step
    monkeypatch.setattr(host, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(adapter.host, "_add_candidates", lambda _instance_ids: None)
    adapter.advance(6)
    assert {"released": 3} == adapter.states
    remaining = []
    for _step in range(3):
        adapter.clock.advance(60)
        assert adapter.clock.now() == reclaim()
        remaining.append(adapter.states.get("released", 0))
    assert [2, 1, 0] == remaining


# --- observers --------------------------------------------------------------------------------------------------------


def test_the_queue_of_a_hanging_observer_is_limited(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further notifications are dropped.

    The log has one event when the first notification is dropped, and another with the number of dropped ones when the
    observer continues.

    Verified to fail when the queue has no limit.
    """
    monkeypatch.setattr(observers, "QUEUE_LIMIT", 2)
    notified: list[str] = []
    adapter = make_adapter(LUNG, observing(instance_stored=lambda instance: notified.append(instance.sop_instance_uid)))
    parts = adapter.host.parts()
    with monkeypatch.context() as hanging, capture_logs() as logged:
        hanging.setattr(adapter.host, "run_until_idle", lambda: None)
        adapter.receive(*[make_instance() for _number in range(5)], ae_title="LUNG")
        parts[Part(PartKind.NOTIFY)].step()
    assert 1 == len([entry for entry in logged if entry["event"] == "observer_queue_filled"])
    with capture_logs() as logged:
        parts[Part(PartKind.OBSERVER, "observer")].step()
    assert 2 == len(notified)
    assert [("notifications_dropped", 3)] == [(entry["event"], entry["dropped"]) for entry in logged]


def test_a_hanging_observer_does_not_delay_another(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each plugin with observer hooks is a separate part. Here, only the step of the part `quick` runs."""
    notified: list[str] = []
    slow = observing(job_changed=lambda job: notified.append("slow"))
    quick = Plugin(SimpleNamespace(dicom_adapter_job_changed=hookimpl(lambda job: notified.append("quick"))), "quick")
    adapter = make_adapter(LUNG, slow, quick)
    parts = adapter.host.parts()
    assert ["observer", "quick"] == sorted(part.name for part in parts if part.kind is PartKind.OBSERVER)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.clock.advance(5)
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    parts[lane_part("LUNG")].step()  # this turn queues a job
    parts[Part(PartKind.OBSERVER, "quick")].step()
    assert ["quick"] == notified


# --- plugins that cannot be created -----------------------------------------------------------------------------------


def bad_submitter(constructor: Callable[..., Any]) -> Plugin:
    """Return a plugin with a submitter `bad`."""
    bad = type("Bad", (MemorySubmitter,), {"name": "bad", "__init__": constructor})
    return Plugin(SimpleNamespace(dicom_adapter_submitters=hookimpl(lambda: [bad])))


def exit_process(*_arguments: Any, **_fields: Any) -> Any:
    raise SystemExit("no licence")


def hang(*_arguments: Any, **_fields: Any) -> Any:
    threading.Event().wait()


@pytest.mark.parametrize(
    ("constructor", "reason"),
    [(exit_process, "SystemExit at "), (hang, "it did not return within 0.05 seconds")],
)
def test_a_submitter_that_cannot_be_created_affects_only_its_ae_titles(
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
    constructor: Callable[..., Any],
    reason: str,
) -> None:
    """Associations to these AE titles are rejected with the reason; instances that arrived before stay pending."""
    monkeypatch.setattr(isolation, "CALL_SECONDS", 0.05)
    adapter = make_adapter(TWO_SUBMITTERS, bad_submitter(constructor))
    assert LaneState.STOPPED is adapter.lanes["LIVER"].state
    assert adapter.lanes["LIVER"].reason.startswith(f"submitter 'bad' cannot be created: {reason}")
    adapter.receive(make_instance(), ae_title="LIVER")
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(6)
    assert [("LUNG", "submitted")] == [(job.ae_title, job.state.value) for job in adapter.jobs]
    assert {"pending": 1, "reclaimed": 1} == adapter.states


@pytest.mark.parametrize("describe", [exit_process, hang])
def test_a_processor_that_cannot_describe_its_settings_affects_only_its_ae_titles(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, describe: Callable[..., Any]
) -> None:
    """Associations to these AE titles are rejected with the reason."""
    monkeypatch.setattr(isolation, "CALL_SECONDS", 0.05)
    members = {"name": "bad", "describe": classmethod(describe), "handle_instance": exit_process}
    bad = type("Bad", (JobProcessorBase,), members)
    adapter = make_adapter(TWO_PROCESSORS, Plugin(SimpleNamespace(dicom_adapter_processors=hookimpl(lambda: [bad]))))
    assert adapter.lanes["LIVER"].reason.startswith("its processor cannot describe its settings: ")
    assert ["LUNG"] == list(adapter.host.served)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(6)
    assert ["submitted"] == [job.state.value for job in adapter.jobs]


def test_a_submitter_that_hangs_in_open_does_not_delay_the_close(
    monkeypatch: pytest.MonkeyPatch, make_adapter: MakeAdapter
) -> None:
    """A submitter that is not open is not closed.

    Verified to fail when `close` waits for the end of `open` (then this test hangs).
    """
    monkeypatch.setattr("dicom_adapter.flow.submit.submission.OPENING_SECONDS", 0.05)
    second = '[submitters.second]\ntype = "memory"\n'
    adapter = make_adapter(FIRST + LUNG)
    entered = threading.Event()

    def hang_in_open(_submitter: Submitter[Any]) -> None:
        entered.set()
        hang()

    monkeypatch.setattr(MemorySubmitter, "open", hang_in_open)
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    adapter.reload(FIRST + second + LUNG)
    step = adapter.host.parts()[submitter_part("second")].step
    threading.Thread(target=step, daemon=True).start()
    assert entered.wait(30)
    adapter.close()
