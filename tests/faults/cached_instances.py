"""The content of the cache: all studies and instances, and the files of the instances."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from attrs import frozen

from faults.adapter import AE_TITLES, CACHE
from faults.orders import NOT_FOUND, UNAVAILABLE
from faults.records import data_set_digest

PAGE = 7  # entries of a page; a small number, so that there are many pages
ANSWER_SECONDS = 75.0  # time limit of a request; longer than the time limit of the cache for its lane
LONGEST_START_SECONDS = 120.0  # longest wait for the host
AGAIN_SECONDS = 0.5  # between two requests
NO_STUDY = "2.25.0"  # a UID that no study has


@frozen(kw_only=True)
class CachedInstance:
    """One instance in the cache."""

    study_instance_uid: str
    sop_instance_uid: str
    digest: str  # of the data set that the cache returns


def read_cached_instances(port: int, folder: Path) -> tuple[CachedInstance, ...]:
    """Read the whole content over REST. `folder`: for temporary files."""
    wait_for_lane(port)
    with _cache(port) as cache, tempfile.TemporaryDirectory(dir=folder) as temporary:
        return tuple(_read_instances(cache, Path(temporary) / "downloaded.dcm"))


def wait_for_lane(port: int) -> None:
    """Wait until the cache has processed all instances that were received before this call.

    The request is for a job of a study that does not exist. The cache refuses it with 404 only after it has processed
    these instances.
    """
    order = {"name": "nothing", "pipeline": AE_TITLES[CACHE].pipelines[0], "studies": [NO_STUDY]}
    deadline = time.monotonic() + LONGEST_START_SECONDS
    with _cache(port) as cache:
        while (status := _status(cache, order)) in (None, UNAVAILABLE) and time.monotonic() < deadline:
            time.sleep(AGAIN_SECONDS)
    if status != NOT_FOUND:
        raise RuntimeError(
            f"the cache must refuse a job of a study that does not exist with {NOT_FOUND}: its status is {status}"
        )


def _status(cache: httpx.Client, order: dict[str, Any]) -> int | None:
    try:
        return cache.post("/jobs", json=order).status_code
    except httpx.TransportError:
        return None  # the host is starting


def _cache(port: int) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{port}/cache", timeout=ANSWER_SECONDS, trust_env=False)


def _read_instances(cache: httpx.Client, file: Path) -> Iterator[CachedInstance]:
    for study in _pages(cache, "/studies"):
        uid = study["studyInstanceUid"]
        for instance in _pages(cache, f"/studies/{uid}/instances"):
            sop_instance_uid = instance["sopInstanceUid"]
            file.write_bytes(cache.get(f"/instances/{sop_instance_uid}/file").raise_for_status().content)
            yield CachedInstance(
                study_instance_uid=uid, sop_instance_uid=sop_instance_uid, digest=data_set_digest(file)
            )


def _pages(cache: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    offset, total = 0, 1
    while offset < total:
        page = cache.get(path, params={"limit": PAGE, "offset": offset}).raise_for_status().json()
        yield from page["items"]
        offset, total = offset + PAGE, page["total"]
