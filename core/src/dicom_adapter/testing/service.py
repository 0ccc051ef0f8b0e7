"""The real service in its own processes, and a function that sends instances to it."""

from __future__ import annotations

from pydicom.dataset import Dataset

from dicom_adapter.net.address import Address
from dicom_adapter.net.results import SendResult
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.loopback import HOST, send


class Service(LaunchedService):
    """`dicom-adapter run` on a free port."""

    def send(self, *data_sets: Dataset, ae_title: str, calling_ae_title: str = "TEST-SCU") -> list[SendResult]:
        """Send data sets in one association as soon as the service listens. Return the results in the same order."""
        return send(data_sets, Address(ae_title=ae_title, host=HOST, port=self.port()), calling_ae_title)
