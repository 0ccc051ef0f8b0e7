"""The cache in the real service: the steps of its how-to, and consistency after `kill -9`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing import make_study, write
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_cache.wire.cache_pb2 import ComposeRequest, JobRequest, SearchStudiesRequest
from dicom_adapter_cache.wire.cache_pb2_grpc import CacheStub
from dicom_adapter_clara_client.testing import PlatformEmulator
from support import STORAGE, PlatformFolder, Run, send

CACHE = """
[ae-titles.CACHE]
processor = "cache"
[ae-titles.CACHE.settings]
settle = 0
pipeline-lung = "8abf244aff7647989d4f6b3987a85759"
"""
PATIENCE_S = 60.0  # longest wait on a busy machine


def study(folder: Path, uid: str, instances: int = 2) -> list[Path]:
    """Write the files of a study with this UID and return them."""
    target = folder / uid
    target.mkdir(parents=True)
    paths = []
    for number, data_set in enumerate(make_study(study_uid=uid, instances=instances, rows=16, columns=16)):
        paths.append(target / f"{number}.dcm")
        write(data_set, paths[-1])
    return paths


def cache_of(service: LaunchedService) -> httpx.Client:
    port = service.wait_for("http_listening")["port"]
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/cache", timeout=PATIENCE_S)


def wait_until(holds: Callable[[], Any]) -> Any:
    """Call `holds` until the result is true, and return the result. For states that no event reports."""
    end = time.monotonic() + PATIENCE_S
    while not (result := holds()):
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.05)
    return result


@pytest.mark.dcmtk
@pytest.mark.timeout(300)
@pytest.mark.parametrize("api", ["rest", "grpc"])
def test_two_studies_become_a_job_and_are_deleted(
    launch_service: LaunchService, dcmtk: Run, platform_emulator: PlatformEmulator, tmp_path: Path, api: str
) -> None:
    """Follow the steps of docs/cache.md with `dcmsend`, `curl` or a gRPC client, and the platform emulator."""
    for uid in ("1.2.3", "1.2.4"):
        study(tmp_path / "studies", uid)
    grpc_table = "[ae-titles.CACHE.settings.grpc]\nport = 0\n"
    service = launch_service(f"[http]\nport = 0\n{_storage(platform_emulator.rest)}{CACHE}{grpc_table}")
    port = service.port()
    dcmtk("dcmsend", "-aec", "CACHE", "+sd", "+r", "localhost", port, tmp_path / "studies")
    (_compose_with_curl if api == "rest" else _compose_over_grpc)(service)
    service.wait_for("instances_reclaimed")
    [arrived] = platform_emulator.platform.jobs.list()
    assert "both" == arrived.name


def _compose_with_curl(service: LaunchedService) -> None:
    url = f"http://127.0.0.1:{service.wait_for('http_listening')['port']}/cache"
    wait_until(lambda: 4 == sum(study["instances"] for study in _curl(f"{url}/studies")["items"]))
    order = {"pipeline": "lung", "name": "both", "studies": ["1.2.3", "1.2.4"], "keep": False}
    json_type, key = ("-H", "Content-Type: application/json"), ("-H", "Idempotency-Key: my-first-job")
    job = _curl(f"{url}/jobs", *json_type, *key, "-d", json.dumps(order))
    assert 4 == job["instances"]
    wait_until(lambda: "submitted" == _curl(f"{url}/jobs/{job['jobId']}")["state"])
    wait_until(lambda: 0 == _curl(f"{url}/studies")["total"])


def _compose_over_grpc(service: LaunchedService) -> None:
    port = service.wait_for("cache_grpc_listening")["port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        cache, everything = CacheStub(channel), SearchStudiesRequest()
        wait_until(lambda: 4 == sum(study.instances for study in cache.SearchStudies(everything)))
        uids = [study.study_instance_uid for study in cache.SearchStudies(everything)]
        request = ComposeRequest(pipeline="lung", name="both", studies=uids, clean_up=True, idempotency_key="my-job")
        job = cache.Compose(request)
        assert 4 == job.instances
        wait_until(lambda: "submitted" == cache.GetJob(JobRequest(job_id=job.job_id)).state)
        wait_until(lambda: not list(cache.SearchStudies(everything)))


def _storage(url: str) -> str:
    return STORAGE.replace(
        'type = "fake"\nfolder = "platform"', f'type = "clara-rest"\nfollow = false\nendpoint = "{url}"'
    )


def _curl(*arguments: str) -> Any:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_between_compose_and_clean_up_loses_nothing_and_submits_nothing_twice(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    """Kill the service a little later in each round. A repeated call with the same key returns the same
    job, and each study is submitted once."""
    configuration = f"[http]\nport = 0\n{STORAGE}{CACHE}"
    rounds = 4
    for number in range(rounds):
        service = launch_service(configuration)
        uid = f"1.2.{number}"
        send(study(tmp_path / "studies", uid), service, "CACHE")
        order = {"pipeline": "lung", "name": f"job {number}", "studies": [uid], "keep": False}
        with cache_of(service) as cache:
            wait_until(lambda: cache.get(f"/studies/{uid}").is_success)  # noqa: B023 - it is called at once
            first = cache.post("/jobs", json=order, headers={"Idempotency-Key": uid}).json()
        time.sleep(0.15 * number)  # kill the service at another step of the job each time
        service.kill()
        service = launch_service(configuration)
        service.port()
        with cache_of(service) as cache:
            second = cache.post("/jobs", json=order, headers={"Idempotency-Key": uid}).json()
            assert first["jobId"] == second["jobId"]
            wait_until(lambda: "submitted" == cache.get(f"/jobs/{first['jobId']}").json()["state"])  # noqa: B023
            wait_until(lambda: 0 == cache.get("/studies").json()["total"])
        assert 0 == service.stop()
    platform = PlatformFolder(tmp_path / "service" / "platform")
    assert [f"job {number}" for number in range(rounds)] == [job["name"] for job in platform.jobs]
    command = [sys.executable, "-m", "dicom_adapter", "audit", "-c", str(tmp_path / "service" / "adapter.toml")]
    audited = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert 0 == audited.returncode, audited.stdout + audited.stderr


@pytest.mark.timeout(300)
def test_a_delete_and_a_compose_of_one_study_at_the_same_time_do_not_interleave(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    """Either the job has the complete study, or the study does not exist when the job is composed."""
    service = launch_service(f"[http]\nport = 0\n{STORAGE}{CACHE}")
    for number in range(5):
        uid = f"1.2.{number}"
        send(study(tmp_path / "studies", uid, instances=3), service, "CACHE")
        order = {"pipeline": "lung", "name": "job", "studies": [uid]}
        with cache_of(service) as cache, ThreadPoolExecutor(2) as clients:
            wait_until(lambda: cache.get(f"/studies/{uid}").is_success)  # noqa: B023 - it is called at once
            composed = clients.submit(cache.post, "/jobs", json=order)
            deleted = clients.submit(cache.delete, f"/studies/{uid}")
            assert 204 == deleted.result().status_code
            answer = composed.result()
            assert (answer.status_code, answer.json().get("instances")) in [(201, 3), (404, None)]
    assert 0 == service.stop()
