"""Step 4 (`process`) of the flow: the span of the group from which a job was made, and the trace context of the job.

The span `group` continues the trace of the association that has sent the first instance of the job; links lead to the
traces of the others. Later spans of the job, also in other processes and after a restart, are children of this span.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from dicom_adapter.api.values import Job
from dicom_adapter.ledger import Transaction, trace_contexts
from dicom_adapter.runtime.traces import Span, Traces

MOST_LINKS = 100


def start(traces: Traces, transaction: Transaction, created: Iterable[Job], now: datetime) -> Sequence[Span]:
    """Start the span of each new job, and record its trace context. End the spans when the transaction is committed."""
    return [_start(traces, transaction, job, now) for job in created] if traces.is_on else ()


def _start(traces: Traces, transaction: Transaction, job: Job, now: datetime) -> Span:
    origins = trace_contexts.origins(transaction, job.job_id)
    contexts = [origin.context for origin in origins if origin.context]
    parent, links = next(iter(contexts), ""), contexts[1 : MOST_LINKS + 1]
    span = traces.start("group", parent=parent, links=links, at=origins[0].first_at)
    span.set(
        ae_title=job.ae_title,
        job_id=job.job_id,
        submitter=job.submitter,
        pipeline=job.pipeline_id,
        instances=job.instance_count,
    )
    trace_contexts.insert(transaction, job.job_id, span.context, now)
    return span
