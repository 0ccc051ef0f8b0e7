"""`python delivery_submitter.py PORT PARALLEL ASSOCIATIONS FILES`: the submitter `dicom` without the adapter.

It sends the Part 10 files listed in FILES, PARALLEL at a time. The program prints seconds, CPU seconds, and the growth
of its memory as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from pydicom.filereader import read_file_meta_info

from dicom_adapter import InstanceStorageInfo, Job, JobPriority, SubmitterContext, Upload
from dicom_adapter_delivery.dicom_settings import DicomSettings
from dicom_adapter_delivery.dicom_submitter import DicomSubmitter

NOW = datetime.now(timezone.utc)


def upload_of(position: int, path: Path) -> Upload:
    meta = read_file_meta_info(path)
    size = path.stat().st_size
    instance = InstanceStorageInfo(
        instance_id=position + 1,
        ae_title="LUNG",
        calling_ae_title="BENCH",
        peer_address="127.0.0.1",
        association_id="bench",
        sop_class_uid=str(meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        study_instance_uid="1.2",
        series_instance_uid="1.2",
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
        patient_id="",
        issuer_of_patient_id="",
        received_at=NOW,
        storage_key="",
        size_bytes=size,
        checksum=0,
    )
    opened = partial(path.open, "rb", buffering=0)
    return Upload(instance=instance, position=position, size_bytes=size, open=lambda: cast(BinaryIO, opened()))


def main() -> None:
    port, parallel, associations = map(int, sys.argv[1:4])
    paths = Path(sys.argv[4]).read_text(encoding="utf-8").splitlines()
    uploads = [upload_of(position, Path(path)) for position, path in enumerate(paths)]
    job = Job(
        job_id=32 * "0",
        name="bench",
        ae_title="LUNG",
        pipeline_id="bench",
        priority=JobPriority.NORMAL,
        submitter="pacs",
        instance_count=len(uploads),
        created_at=NOW,
        changed_at=NOW,
    )
    settings = DicomSettings(host="127.0.0.1", port=port, ae_title="BENCH", associations=associations)
    submitter = DicomSubmitter(settings, SubmitterContext(name="pacs", data_folder=Path("unused")))
    submitter.open()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    with ThreadPoolExecutor(parallel) as threads:
        list(threads.map(partial(submitter.upload, job), uploads))
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    submitter.close()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    growth = (after.ru_maxrss - before.ru_maxrss) * 1024  # ru_maxrss is in KiB
    print(json.dumps({"seconds": seconds, "cpu_seconds": used, "growth_bytes": growth}))  # noqa: T201


if __name__ == "__main__":
    main()
