"""Outputs of emulated jobs. When a job succeeds, the outputs that its `RunPlan` names are stored in its payload."""

from __future__ import annotations

from typing import BinaryIO

from dicom_adapter_clara_client.emulator.payloads import INPUT, Payloads
from dicom_adapter_clara_client.emulator.values import ClaraJob
from dicom_adapter_clara_client.made_outputs import make_outputs

OUTPUT = "operators/emulator"  # the folder of an operator's output on NVIDIA's platform is operators/<operator>
PIECE_BYTES = 1 << 18


def store_outputs(payloads: Payloads, job: ClaraJob) -> None:
    """Store the outputs of a job that succeeds now. A repetition stores the same files again."""
    plan = job.run
    if plan.output_folder is None and not plan.secondary_capture:
        return
    made = make_outputs(
        plan.output_folder,
        lambda: _first_input(payloads, job),
        secondary_capture=plan.secondary_capture,
        seed=job.job_id,
    )
    for output in made:
        with output.open() as source:
            payloads.store_output(
                job.payload_id, f"{OUTPUT}/{output.name}", iter(lambda: source.read(PIECE_BYTES), b"")
            )


def _first_input(payloads: Payloads, job: ClaraJob) -> BinaryIO | None:
    """Open the first file in the input folder, by name; None if there is none."""
    files = payloads.details(job.payload_id).files
    first = next((file.name for file in files if file.name.startswith(f"{INPUT}/")), None)
    return None if first is None else payloads.download(job.payload_id, first)[1]
