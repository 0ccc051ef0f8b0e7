"""One session with NVIDIA's own client, run in a virtual environment that contains it.

    python nvidia_session.py HOST:PORT FOLDER

Prints the results that the client returns, as one JSON object. This is a separate program, not a test: the client needs
an older version of protobuf than this project.
"""

from __future__ import annotations

import datetime
import json
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from nvidia_clara import ClaraClient, JobsClient, JobTypes, PayloadsClient, PipelinesClient, PipelineTypes

DEFINITION = PipelineTypes.PipelineDefinition(name="lung.yaml", content="api-version: 0.4.0\nname: lung\n")
SIZE = 300_000  # bytes: so large that the client uploads the file in several pieces


def main(address: str, folder: Path) -> None:
    pipelines, jobs, payloads = clients = (PipelinesClient(address), JobsClient(address), PayloadsClient(address))
    pipeline_id = pipelines.create_pipeline([DEFINITION], metadata={"owner": "me"})
    results: dict[str, Any] = {"version": ClaraClient(address).version().label, "pipeline": pipeline_id.value}
    results["pipelines"] = [[item.pipeline_id.value, item.name] for item in pipelines.list_pipelines()]
    results["pipeline name"] = pipelines.pipeline_details(pipeline_id).name
    job = run_job(jobs, payloads, pipeline_id, folder, results)
    list_jobs(jobs, pipeline_id, job, results)
    use_reusable_payload(jobs, payloads, pipeline_id, results)
    results["refused name"] = refusal(lambda: jobs.create_job(pipeline_id, "Not A Name"))
    results["second start"] = refusal(lambda: jobs.start_job(job.job_id))
    results["repeated metadata"] = refusal(lambda: jobs.add_metadata(job.job_id, {"INSTANCES": "2"}))
    pipelines.remove_pipeline(pipeline_id)
    results["removed pipeline"] = refusal(lambda: jobs.create_job(pipeline_id, "name"))
    for client in clients:
        client.close()
    sys.stdout.write(json.dumps(results))


def run_job(jobs: Any, payloads: Any, pipeline_id: Any, folder: Path, results: dict[str, Any]) -> Any:
    job = jobs.create_job(pipeline_id, "ae-lung-1", job_priority=JobTypes.JobPriority.Higher, metadata={"Source": "AE"})
    results["added metadata"] = dict(jobs.add_metadata(job.job_id, {"Instances": "1", "Spare": "x"}))
    results["remaining metadata"] = dict(jobs.remove_metadata(job.job_id, ["spare"]))
    data = bytes(range(250)) * (SIZE // 250)
    results["no files"] = [file.name for file in payloads.get_details(job.payload_id).file_details]
    stored = payloads.upload(job.payload_id, "dcm/1.dcm", file_object=BytesIO(data))
    results["uploaded"] = [stored.name, stored.size]
    payloads.upload(job.payload_id, "dcm/2.dcm", file_object=BytesIO(b"x"))
    payloads.remove_from(job.payload_id, "input/dcm/2.dcm")
    results["files"] = [[file.name, file.size] for file in payloads.get_details(job.payload_id).file_details]
    token = jobs.start_job(job.job_id, {"threshold": "3"})
    results["started"] = [token.job_state, token.job_status, token.job_priority]
    status = jobs.get_status(job.job_id)
    results["status"] = [status.job_state, status.job_status, status.job_priority, status.name, dict(status.metadata)]
    results["times"] = [time and time.isoformat() for time in (status.date_created, status.date_started)]
    results["logs"] = jobs.job_logs(job.job_id, "segment")
    payloads.download_from(job.payload_id, "./input/dcm/1.dcm", dest_path=folder / "1.dcm")
    results["downloaded"] = (folder / "1.dcm").read_bytes() == data
    return job


def list_jobs(jobs: Any, pipeline_id: Any, job: Any, results: dict[str, Any]) -> None:
    other = jobs.create_job(pipeline_id, "ae-lung-2")
    token = jobs.cancel_job(other.job_id, "not needed")
    results["canceled"] = [token.job_state, token.job_status]
    results["jobs"] = [item.name for item in jobs.list_jobs()]
    healthy = JobTypes.JobFilter(
        created_after=job_time(jobs, job) - datetime.timedelta(seconds=1),
        has_job_status=[JobTypes.JobStatus.Healthy],
        pipeline_ids=[pipeline_id],
    )
    results["healthy jobs"] = [item.job_id.value == job.job_id.value for item in jobs.list_jobs(healthy)]
    nothing = JobTypes.JobFilter(has_job_status=[JobTypes.JobStatus.Faulted])
    results["faulted jobs"] = jobs.list_jobs(nothing)


def job_time(jobs: Any, job: Any) -> Any:
    return jobs.get_status(job.job_id).date_created


def use_reusable_payload(jobs: Any, payloads: Any, pipeline_id: Any, results: dict[str, Any]) -> None:
    payload_id = payloads.create_payload({"kind": "atlas"}).payload_id
    payloads.upload(payload_id, "atlas.nii", file_object=BytesIO(b"atlas"))
    results["payload metadata"] = dict(payloads.add_metadata(payload_id, {"of": "lung"}))
    results["remaining payload metadata"] = dict(payloads.remove_metadata(payload_id, ["kind"]))
    job = jobs.create_job(pipeline_id, "ae-lung-3", input_payloads=[payload_id])
    payloads.delete_payload(payload_id)
    results["inputs"] = [file.name for file in payloads.get_details(job.payload_id).file_details]
    results["empty upload"] = refusal(lambda: payloads.upload(job.payload_id, "empty", file_object=BytesIO()))


def refusal(call: Any) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the client raises no more specific type
        return str(error)
    return "not refused"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
