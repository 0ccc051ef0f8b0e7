"""The counters and histograms that the processes of a service count: names, labels and buckets.

`/metrics` shows each of them, and the documentation has their texts. The values of labels are names from the
configuration, and words of fixed sets. They are never UIDs, patient data or addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from dicom_adapter.api.receiving import RejectionCause, StoreOutcome
from dicom_adapter.api.values import JobState

# Outcomes of instances
OUTCOMES = {outcome: outcome.value.lower().replace(" ", "-") for outcome in StoreOutcome}
CUT_OFF = "cut-off"  # the association ended before the data set was complete
# Outcomes of associations
ENDS = ("released", "aborted", "lost")  # as in `ClosedAssociation`
REJECTED = "rejected"
NO_AE_TITLE = ""  # value of the label for all AE titles that are not configured

# Upper bounds of buckets, in seconds
RESPONSE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TURN_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 25.0)
WAIT_BOUNDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)


@frozen(kw_only=True)
class Measure:
    """A counter or a histogram."""

    name: str  # base unit at the end; a counter is shown with the further suffix `_total`
    text: str  # one sentence for operators
    labels: Sequence[str]
    # The values of the last label, if they are a fixed set. Prometheus needs the value zero before the first event: it
    # does not notice an increase from no value to one.
    words: Sequence[str] = ()
    bounds: Sequence[float] = ()  # of a histogram: the upper bounds of its buckets, in seconds; empty: a counter


RECEIVED_INSTANCES = Measure(
    name="dicom_adapter_received_instances",
    text="C-STORE requests that were answered, or cut off by the end of their association.",
    labels=("ae_title", "outcome"),
    words=(*OUTCOMES.values(), CUT_OFF),
)
RECEIVED_BYTES = Measure(
    name="dicom_adapter_received_bytes",
    text="Bytes of the data sets of C-STORE requests.",
    labels=("ae_title", "outcome"),
)
ASSOCIATIONS = Measure(
    name="dicom_adapter_associations",
    text="Associations that have ended, and rejected associations.",
    labels=("ae_title", "outcome"),
    words=(*ENDS, REJECTED),
)
REJECTIONS = Measure(
    name="dicom_adapter_rejections",
    text="Rejected associations, and connections that were closed before an association.",
    labels=("ae_title", "cause"),
    words=tuple(cause.value for cause in RejectionCause),
)
STORE_RESPONSE = Measure(
    name="dicom_adapter_store_response_seconds",
    text="Time from the last byte of a C-STORE request to its response.",
    labels=("ae_title",),
    bounds=RESPONSE_BOUNDS,
)
TURN = Measure(
    name="dicom_adapter_lane_turn_seconds",
    text="Duration of a turn: one call of the job processor, and the transaction of its jobs and releases.",
    labels=("ae_title",),
    bounds=TURN_BOUNDS,
)
JOBS_CREATED = Measure(
    name="dicom_adapter_jobs_created",
    text="Jobs that processors have submitted, and delivery jobs.",
    labels=("ae_title", "submitter", "pipeline"),
)
JOBS_ENDED = Measure(
    name="dicom_adapter_jobs_ended",
    text="Jobs that have ended. A faulted or failed job that is retried ends again.",
    labels=("ae_title", "submitter", "outcome"),
    words=tuple(
        state.value
        for state in (JobState.SUBMITTED, JobState.SUCCEEDED, JobState.CANCELLED, JobState.FAULTED, JobState.FAILED)
    ),
)
JOB_RETRIES = Measure(
    name="dicom_adapter_job_retries",
    text="Failed attempts of a step of a job after which the step is retried.",
    labels=("ae_title", "submitter"),
)
ARRIVAL_TO_JOB = Measure(
    name="dicom_adapter_arrival_to_job_seconds",
    text="Time from the arrival of the last instance of a job to the creation of the job. It includes the wait for "
    "further instances.",
    labels=("ae_title", "pipeline"),
    bounds=WAIT_BOUNDS,
)
JOB_TO_RESULT = Measure(
    name="dicom_adapter_job_to_result_seconds",
    text="Time from the creation of a job to its success, when its outputs are stored. Only jobs that are followed.",
    labels=("ae_title", "pipeline"),
    bounds=WAIT_BOUNDS,
)
RESULT_TO_DELIVERY = Measure(
    name="dicom_adapter_result_to_delivery_seconds",
    text="Time from the success of a job to the delivery of its results to a destination.",
    labels=("ae_title", "destination"),
    bounds=WAIT_BOUNDS,
)

OF_RECEIVERS = (RECEIVED_INSTANCES, RECEIVED_BYTES, ASSOCIATIONS, REJECTIONS, STORE_RESPONSE)
OF_HOST = (
    TURN,
    JOBS_CREATED,
    JOBS_ENDED,
    JOB_RETRIES,
    ARRIVAL_TO_JOB,
    JOB_TO_RESULT,
    RESULT_TO_DELIVERY,
)
MEASURES = (*OF_RECEIVERS, *OF_HOST)
