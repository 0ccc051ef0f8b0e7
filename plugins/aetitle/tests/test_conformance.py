"""The AE Title Job Processor passes the conformance suite with every kind of grouping."""

from __future__ import annotations

from dicom_adapter.testing import BaseProcessorTests
from dicom_adapter_aetitle.processor import AeTitleJobProcessor


class TestByStudy(BaseProcessorTests):
    """Grouping by study, the default without a timeout."""

    processor = AeTitleJobProcessor
    settings = 'pipeline-lung = "p1"\npipeline-liver = "p2"'


class TestByPatient(BaseProcessorTests):
    """Grouping by patient, the default with a timeout."""

    processor = AeTitleJobProcessor
    settings = 'timeout = 60\nmax-wait = 100\npriority = "higher"\npipeline-lung = "p1"'


class TestByAnyAttribute(BaseProcessorTests):
    """Grouping by an attribute that is read from the stored instance."""

    processor = AeTitleJobProcessor
    settings = 'group-by = "AccessionNumber"\npipeline-lung = "p1"'

    # The suite's second patient has no Accession Number; the patient's instances are quarantined.
