"""One trace contains the spans from an association to the deliveries of its results, without patient data."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dicom_adapter import AssociationStatus, Job, Retriable
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter import entry, entry_spans
from dicom_adapter.flow.process.turn import Turn
from dicom_adapter.ledger import instances, trace_contexts
from dicom_adapter.runtime import traces
from dicom_adapter.runtime.traces import OpenTelemetryTraces, Traces
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, STATUS_EVERY_S, Site, output

MakeAdapter = Callable[..., Adapter]
# Uploads need two steps: one sends the files, and one finds that all are sent. The platform reports two states.
ONE_TRACE = Counter({"group": 1, "submit": 5, "poll": 2, "result": 1, "deliver": 10})
PLANTED = "Planted"


class Exported:
    """The spans that an SDK has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces: Traces = OpenTelemetryTraces(provider)

    def spans(self, *names: str) -> Sequence[ReadableSpan]:
        """Return the spans with these names; all if there are none."""
        return [span for span in self._exporter.get_finished_spans() if not names or span.name in names]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Exported:
    """Traces are on in adapters of this test."""
    made = Exported()
    monkeypatch.setattr(traces, "of_process", lambda: made.traces)
    return made


@pytest.fixture
def site(exported: Exported, make_adapter: MakeAdapter) -> Site:
    assert exported.traces.is_on
    return Site(make_adapter(CONFIGURATION))


def trace_of(context: str) -> tuple[str, str]:
    """Return the ids of the trace and the span of a context."""
    _version, trace_id, span_id, _flags = context.split("-")
    return trace_id, span_id


def ids(span: Any) -> tuple[str, str]:
    """Return the ids of the trace and the span of a span or a link."""
    context = span.context
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def associated(site: Site, exported: Exported) -> str:
    """Record that the association of the last instance has a trace, as a receiver does. Return its context."""
    span = exported.traces.start("receive")
    span.end()
    with site.adapter.ledger.write() as transaction:
        association_id = instances.pending_after(transaction, 0, 10, "LUNG")[-1].association_id
        trace_contexts.insert(transaction, association_id, span.context, site.adapter.clock.now())
    return span.context


def test_one_trace_contains_all_steps_despite_restarts(site: Site, exported: Exported) -> None:
    """Verified to fail when the context of a job is not stored in the ledger."""
    job = site.start_job()
    site.adapter.restart()
    site.end_job({"a.dcm": output()}, job)
    site.adapter.restart()
    assert ONE_TRACE == Counter(span.name for span in exported.spans())
    group = exported.one("group")
    assert job.job_id == dict(group.attributes or {})["dicom_adapter.job_id"]
    children = exported.spans("submit", "poll", "result", "deliver")
    assert {ids(group)} == {ids_of_parent(span) for span in children}
    assert all(span.status.is_ok for span in exported.spans())


def ids_of_parent(span: ReadableSpan) -> tuple[str, str]:
    assert span.parent is not None
    return f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}"


def test_the_span_of_a_group_covers_its_wait(site: Site, exported: Exported) -> None:
    site.start_job()
    group = exported.one("group")
    assert group.end_time is not None
    assert group.start_time is not None
    assert 5 == round((group.end_time - group.start_time) / 1e9)


def test_a_group_continues_the_first_association_and_links_to_the_others(site: Site, exported: Exported) -> None:
    """An association without a trace, for example because traces were off, is left out."""
    contexts = []
    for number in range(3):
        site.adapter.receive(make_instance(seed="study", instance_number=number + 1))
        if number:
            contexts.append(associated(site, exported))
    site.adapter.advance(5)
    group = exported.one("group")
    assert trace_of(contexts[0]) == ids_of_parent(group)
    assert [trace_of(contexts[1])] == [ids(link) for link in group.links]


def traced_association(site: Site, exported: Exported) -> tuple[str, str]:
    """Record the context of a new association, as a receiver does before the first row. Return its id and context."""
    span = exported.traces.start("receive")
    association_id = uuid4().hex
    with site.adapter.ledger.write() as transaction:
        trace_contexts.insert(transaction, association_id, span.context, site.adapter.clock.now())
    return association_id, span.context


def receive_open(site: Site, association_id: str, *numbers: int) -> None:
    """Receive instances of one study in an association that stays open."""
    data_sets = [make_instance(seed="study", instance_number=number) for number in numbers]
    site.adapter.receive(*data_sets, association_id=association_id, status=AssociationStatus.OPEN)


def test_the_first_rows_of_an_association_have_a_span(site: Site, exported: Exported) -> None:
    """The rows that follow at once have none.

    Verified to fail when each transaction has a span.
    """
    association_id, context = traced_association(site, exported)
    receive_open(site, association_id, 1)
    receive_open(site, association_id, 2)
    enter = exported.one("enter")
    assert trace_of(context) == ids_of_parent(enter)
    assert {
        "dicom_adapter.ae_title": "LUNG",
        "dicom_adapter.association_id": association_id,
        "dicom_adapter.instances": 1,
    } == dict(enter.attributes or {})


def test_rows_that_are_late_have_a_span_from_their_arrival(site: Site, exported: Exported) -> None:
    """Verified to fail when only the first rows of an association have a span, and when it begins with the entry."""
    association_id, _context = traced_association(site, exported)
    receive_open(site, association_id, 1)
    with site.adapter.ledger.read() as transaction:
        [instance] = instances.pending_after(transaction, 0, 10, "LUNG")
    results = [StoreResult(outcome=StoreOutcome.STORED, instance=instance)]
    now = instance.received_at + timedelta(seconds=3)
    with site.adapter.ledger.read() as transaction:
        for span in entry_spans.start(exported.traces, transaction, results, (), now):
            span.end(now)
    _first, late = exported.spans("enter")
    assert late.start_time is not None
    assert late.end_time is not None
    assert 3 == round((late.end_time - late.start_time) / 1e9)


def test_rows_that_are_not_committed_have_no_span(
    site: Site, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when a span ends before the commit."""
    association_id, _context = traced_association(site, exported)

    def failing(*_arguments: Any) -> Any:
        raise LedgerUnavailable("locked")

    monkeypatch.setattr(entry, "_recoveries", failing)
    receive_open(site, association_id, 1)
    assert not exported.spans("enter")
    monkeypatch.undo()


def test_the_rows_of_an_association_without_a_trace_have_no_span(site: Site, exported: Exported) -> None:
    """Such a span would be a trace of its own."""
    receive_open(site, uuid4().hex, 1)
    assert not exported.spans("enter")


def test_a_turn_that_is_not_committed_has_no_span(
    site: Site, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Turn.commit
    failures = [LedgerUnavailable("locked")]

    def failing(*arguments: Any) -> Any:
        committed = commit(*arguments)
        if failures and committed.jobs:
            raise failures.pop()
        return committed

    monkeypatch.setattr(Turn, "commit", failing)
    site.adapter.receive(make_instance())
    site.adapter.advance(20)
    assert not failures
    assert 1 == len(exported.spans("group"))


def test_a_failed_step_has_no_text_of_the_platform(site: Site, exported: Exported) -> None:
    """Such a text, and that of an exception, may contain patient data.

    Verified to fail when the status of the span has the error of the job.
    """
    site.adapter.platform.fail("create_job", Retriable(f"no space for {PLANTED}"))
    site.adapter.platform.fail("create_job", ValueError(PLANTED))
    site.adapter.receive(make_instance())
    site.adapter.advance(60)
    first, second = exported.spans("submit")
    assert ["retried", "faulted"] == [first.status.description, second.status.description]
    assert not [span for span in exported.spans() if PLANTED in span.to_json()]


def test_no_span_contains_patient_data(site: Site, exported: Exported) -> None:
    """Nor UIDs, nor names of outputs and of quarantine reasons."""
    planted = {"patient_id": "PLANTED-ID", "patient_name": "Planted^Name", "accession_number": "PLANTED-ACC"}
    instance = make_instance(**planted)
    association_id, _context = traced_association(site, exported)
    site.adapter.receive(instance, association_id=association_id)
    site.adapter.advance(5)
    job: Job = site.adapter.jobs[-1]
    site.end_job({"Planted.dcm": output(), "Planted.json": b"{}"}, job)
    text = "".join(span.to_json() for span in exported.spans())
    assert job.job_id in text
    assert exported.spans("enter")
    forbidden = [*planted.values(), PLANTED, instance.StudyInstanceUID, instance.SOPInstanceUID]
    assert [] == [value for value in forbidden if value.lower() in text.lower()]


def test_contexts_are_deleted_with_the_history(site: Site) -> None:
    job = site.end_job({"a.dcm": output()})
    with site.adapter.ledger.read() as transaction:
        assert trace_contexts.find(transaction, job.job_id)
    site.wait_days(200)
    with site.adapter.ledger.read() as transaction:
        assert "" == trace_contexts.find(transaction, job.job_id)


def test_attributes_are_those_of_the_list(exported: Exported) -> None:
    with pytest.raises(ValueError, match="patient_id"):
        exported.traces.start("receive").set(patient_id="P")


def test_without_an_sdk_nothing_of_opentelemetry_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then traces cost nothing."""
    monkeypatch.delenv(traces.PROVIDER_VARIABLE, raising=False)
    code = (
        "import sys, dicom_adapter.receiver.__main__, dicom_adapter.host.__main__\n"
        "from dicom_adapter.runtime import traces\n"
        "assert traces.of_process() is traces.OFF\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert "[]" == subprocess.check_output([sys.executable, "-c", code], text=True).strip()


def test_nothing_is_recorded_while_traces_are_off(make_adapter: MakeAdapter) -> None:
    site = Site(make_adapter(CONFIGURATION))
    assert not site.adapter.resources.traces.is_on
    job = site.end_job({"a.dcm": output()})
    site.adapter.advance(STATUS_EVERY_S)
    with site.adapter.ledger.read() as transaction:
        assert "" == trace_contexts.find(transaction, job.job_id)
