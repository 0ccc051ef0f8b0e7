"""Part of the conformance suite for submitters: attachments of jobs that deliver results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter.api.errors import DicomAdapterError, StoredObjectMissing
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.testing.submitter_jobs import PATIENT_ID, JobSteps, PlatformRecord, make_attachment, make_upload

OnPlatform = Callable[[], Sequence[PlatformRecord]]
REPORT, IMAGE = b'{"finding": "none"}', b"\0mask" * 40_000
ATTACHMENTS = (make_attachment(0, "report.json", REPORT), make_attachment(1, "series-mask.nii.gz", IMAGE))


class AttachmentTests:
    """Tests of `attach`, for submitters that take attachments. `PlatformRecord.attachments` must be filled in."""

    @pytest.fixture
    def taker(self, submitter: Submitter[Any]) -> Submitter[Any]:
        """An open submitter that takes attachments."""
        if not submitter.takes_attachments:
            pytest.skip("takes_attachments = False: attachments are not tested")
        return submitter

    def test_attachments_arrive_with_the_instances(
        self, taker: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """A repeated `attach` adds no attachment. Calls are repeated after a crash, or if a response was lost."""
        steps.create(taker)
        steps.describe(taker)
        steps.upload(taker, make_upload(0, b"instance"))
        steps.attach(taker, *ATTACHMENTS)
        steps.attach(taker, *ATTACHMENTS, repeated=True)
        steps.start(taker)
        [record] = on_platform()
        assert [b"instance"] == list(record.files)
        assert {"report.json": REPORT, "series-mask.nii.gz": IMAGE} == dict(record.attachments)

    def test_job_may_have_attachments_only(
        self, taker: Submitter[Any], steps: JobSteps, on_platform: OnPlatform
    ) -> None:
        """A pipeline may write a report and no DICOM."""
        steps.create(taker)
        steps.describe(taker)
        steps.attach(taker, *ATTACHMENTS)
        steps.start(taker)
        [record] = on_platform()
        assert (0, 2, True) == (len(record.files), len(record.attachments), record.started)

    def test_error_of_attach_has_no_patient_data(self, taker: Submitter[Any], steps: JobSteps) -> None:
        """The names of an attachment may contain patient data, and errors are logged."""
        missing = StoredObjectMissing("its stored object is missing")

        def fail() -> Any:
            raise missing

        steps.create(taker)
        with pytest.raises(DicomAdapterError) as raised:
            taker.attach(steps.job, evolve(ATTACHMENTS[0], open=fail))
        assert PATIENT_ID not in str(raised.value)
        assert "report" not in str(raised.value)
