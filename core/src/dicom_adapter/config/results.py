"""The configuration of results: [ae-titles.<AE title>.results]."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, frozen
from attrs.validators import optional

from dicom_adapter.api.settings import ByteSize, SubmitterReference, at_least, between, setting


def _validate_destinations(_instance: Any, _attribute: Attribute[Any], value: tuple[SubmitterReference, ...]) -> None:
    """no name twice

    Validate the list of destinations.
    """
    if len(set(value)) != len(value):
        raise ValueError("must not contain a name twice")


@frozen(kw_only=True)
class ResultsConfig:
    """[ae-titles.<AE title>.results]: what happens with the outputs of the AE title's jobs."""

    to: tuple[SubmitterReference, ...] = setting(
        default=(),
        validator=_validate_destinations,
        help=(
            "Destinations of DICOM outputs: names of `[submitters.<name>]` tables that deliver, such as a PACS; not "
            "those that run pipelines, such as `command`. Each destination gets every output that passes the checks. "
            "Without destinations, the outputs are only kept."
        ),
    )
    to_sender: bool = setting(
        default=False,
        help=(
            "If true, DICOM outputs are also delivered to each calling AE title that has sent instances of the job: by "
            "the first `[submitters.<name>]` table that sends to this AE title (`ae-title` of the type `dicom`), "
            "unless one in `to` does. If there is none, the outputs are kept for `ledger.history-days`, and can be "
            "delivered later."
        ),
    )
    expect_results: bool = setting(
        default=False, help="If true, a job that ends with success and has no output is failed."
    )
    max_output: ByteSize = setting(
        default=ByteSize(4 * 10**9),
        validator=at_least(1, "bytes"),
        help=(
            'Largest size of one output, in bytes or as text, for example `"4 GB"`. A job with a larger output is '
            "faulted, and nothing of it is delivered."
        ),
    )
    max_bytes: ByteSize = setting(
        default=ByteSize(20 * 10**9),
        validator=at_least(1, "bytes"),
        help="Largest total size of all outputs of a job. A job with larger outputs is faulted.",
    )
    max_outputs: int = setting(
        default=20_000,
        validator=at_least(1),
        help="Largest number of outputs of a job. A job with more outputs is faulted.",
    )
    keep_days: float | None = setting(
        default=None,
        validator=optional(between(0, 3660, "days")),
        help=(
            "Days for which results are kept after they were collected; delivered results may be exported again until "
            "then. If omitted, results are kept until they are delivered to each destination; without destinations, "
            "for `ledger.history-days`."
        ),
    )
