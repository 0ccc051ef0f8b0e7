"""A receiver on a free port of the loopback interface, in the process of the caller."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from pydicom.dataset import Dataset

from dicom_adapter.config.model import Config
from dicom_adapter.dicom.synthetic import write
from dicom_adapter.net import scu
from dicom_adapter.net.address import Address
from dicom_adapter.net.results import SendResult
from dicom_adapter.net.server import DicomServer
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.runtime.resources import Resources

HOST = "127.0.0.1"
TIMEOUT_S = 30.0  # time limit of each exchange: long enough for a busy machine


class Loopback:
    """A receiver that listens from its construction until `close`."""

    def __init__(self, config: Config, resources: Resources) -> None:
        self._receiver = Receiver(config, resources, None)
        self._server = DicomServer(evolve(config.dicom, bind=HOST, port=0), self._receiver)
        self.port = self._server.start()

    def send(self, data_sets: Sequence[Dataset], ae_title: str, calling_ae_title: str) -> list[SendResult]:
        """Send data sets in one association. Return the results in the same order."""
        return send(data_sets, Address(ae_title=ae_title, host=HOST, port=self.port), calling_ae_title)

    def close(self) -> None:
        self._server.stop(0)
        self._receiver.close()


def send(data_sets: Sequence[Dataset], address: Address, calling_ae_title: str) -> list[SendResult]:
    """Send data sets in one association. Return the results in the same order."""
    results: list[SendResult] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.dcm" for number in range(len(data_sets))]
        for data_set, path in zip(data_sets, paths, strict=True):
            write(data_set, path)
        scu.send(paths, address, calling_ae_title=calling_ae_title, timeout=TIMEOUT_S, on_result=results.append)
    return sorted(results, key=lambda result: paths.index(result.path))
