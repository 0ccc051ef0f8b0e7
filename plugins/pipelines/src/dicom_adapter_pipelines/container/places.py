"""The paths of a job's files and folders in a container, as each contract defines them."""

from __future__ import annotations

from collections.abc import Mapping

from dicom_adapter_pipelines.contracts import Contract, JobPlaces

JOB, WORK = "/job.json", "/tmp"  # noqa: S108 - a folder of the job is mounted there
CONTAINER_PLACES: Mapping[Contract, JobPlaces] = {
    Contract.PLAIN: JobPlaces(input="/input", output="/output", job=JOB, work=WORK),
    # As today's packager writes these paths; the manifest in the image may have others.
    Contract.MAP: JobPlaces(input="/var/holoscan/input", output="/var/holoscan/output", job=JOB, work=WORK),
    Contract.MERCURE: JobPlaces(input="/tmp/data", output="/tmp/output", job=JOB, work=WORK),  # noqa: S108 - in the container
}
