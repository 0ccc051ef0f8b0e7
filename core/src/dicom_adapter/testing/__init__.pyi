"""The public names of `dicom_adapter.testing` and their modules, for type checkers and for `__init__.py`."""

from dicom_adapter.dicom.synthetic import make_instance as make_instance
from dicom_adapter.dicom.synthetic import make_study as make_study
from dicom_adapter.dicom.synthetic import write as write
from dicom_adapter.simulation.adapter import Plugin as Plugin
from dicom_adapter.simulation.clock import VirtualClock as VirtualClock
from dicom_adapter.simulation.platform import Platform as Platform
from dicom_adapter.simulation.platform import ReceivedJob as ReceivedJob
from dicom_adapter.testing.adapter import Adapter as Adapter
from dicom_adapter.testing.expectation import ExpectedJob as ExpectedJob
from dicom_adapter.testing.processor_suite import BaseProcessorTests as BaseProcessorTests
from dicom_adapter.testing.processor_traffic import Arrival as Arrival
from dicom_adapter.testing.service import Service as Service
from dicom_adapter.testing.storage_suite import BaseStorageBackendTests as BaseStorageBackendTests
from dicom_adapter.testing.submitter_jobs import PlatformRecord as PlatformRecord
from dicom_adapter.testing.submitter_suite import BaseSubmitterTests as BaseSubmitterTests
