"""A plugin for the sandbox in which `dicom-adapter doctor` tests plugins, and traffic through a simulated adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from dicom_adapter.api.counts import counted
from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.processor import JobProcessorBase
from dicom_adapter.api.values import AssociationStatus, InstanceStorageInfo, JobPriority
from dicom_adapter.config import Config
from dicom_adapter.dicom.synthetic import make_study
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.simulation.adapter import SimulatedAdapter
from dicom_adapter.simulation.clock import VirtualClock
from dicom_adapter.simulation.platform import MemoryPlugin

FIRST_S, SECOND_S = 3600.0, 600.0  # seconds of virtual time before and after a restart
FREED_BYTES = 1  # number of bytes that the processor is requested to free: processors must accept such a request


class ImmediateProcessor(JobProcessorBase[NoSettings]):
    """Submit a job for each instance, so that observers are notified of events."""

    name = "doctor-sandbox"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        self.submit_pipeline_job("doctor", "doctor", JobPriority.NORMAL, [instance])
        self.remove_instances([instance])


class SandboxPlugin(MemoryPlugin):
    """A plugin with a storage backend, a submitter and a processor, under names that no other plugin uses."""

    def __init__(self) -> None:
        super().__init__()
        self.storage.name = self.submitter.name = "doctor-sandbox"
        self.processor = ImmediateProcessor

    @hookimpl
    def dicom_adapter_processors(self) -> Iterable[type[JobProcessorBase[NoSettings]]]:
        return [self.processor]

    def document(self, folder: Path) -> dict[str, Any]:
        """Return a configuration that uses only the components of this plugin."""
        return {
            "default-submitter": "sandbox",
            "storage": {"backend": self.storage.name, "path": str(folder), "watermark-percent": 100, "reserve": 0},
            "submitters": {"sandbox": {"type": self.submitter.name}},
            "ae-titles": {"SANDBOX": {"processor": self.processor.name}},
        }


def play(config: Config, plugins: Plugins, ae_title: str) -> str:
    """Receive studies, advance an hour, restart the adapter, and advance ten minutes; return a summary.

    Raises Refused if the AE title cannot be served.
    """
    adapter = SimulatedAdapter(config, plugins, VirtualClock())
    try:
        if ae_title in adapter.host.refused:
            raise Refused(adapter.host.refused[ae_title])
        studies = _receive_studies(adapter, ae_title)
        adapter.advance(FIRST_S)
        adapter.end_wait(ae_title, *studies)
        adapter.host.handles[ae_title].ask(lambda processor: processor.free_space(FREED_BYTES))
        adapter.restart_with(config)
        adapter.advance(SECOND_S)
        states = ", ".join(f"{count} {state}" for state, count in adapter.states.items())
        passed = timedelta(seconds=FIRST_S + SECOND_S)
        return f"{counted(len(adapter.jobs), 'job')}; instances: {states}; {passed} on the virtual clock"
    finally:
        adapter.close()


def _receive_studies(adapter: SimulatedAdapter, ae_title: str) -> set[str]:
    """Receive three studies of two patients in interrupted associations; the first study arrives in two parts.

    Return the Study Instance UIDs.
    """
    first = make_study(modality="CT", seed="doctor first", series=2, instances=2)
    second = make_study(modality="MR", seed="doctor second", instances=2)
    third = make_study(modality="OT", seed="doctor third", instances=1, patient_id="another")
    aborted, lost = AssociationStatus.ABORTED, AssociationStatus.LOST
    ends: list[tuple[list[Dataset], Mapping[str, Any]]] = [
        (first[:3], {"status": aborted}),
        (second, {"failed": {"OUT_OF_RESOURCES": 1}}),
        (third, {"status": lost, "cut_off": 1}),
        (first[3:], {}),
    ]
    for data_sets, end in ends:
        adapter.receive_association(*data_sets, ae_title=ae_title, calling_ae_title="DOCTOR", **end)
        adapter.advance(2.0)
    return {str(data_set.StudyInstanceUID) for data_sets, _end in ends for data_set in data_sets}
