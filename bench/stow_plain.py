"""`python stow_plain.py URL PARALLEL FILES`: the plain loop to which the submitter `dicomweb` is compared.

The loop stores the files listed in FILES with STOW-RS, PARALLEL at a time, with httpx, one file in each request and in
pieces of the same size as the submitter, without verification, ledger or retries. The program prints seconds and CPU
seconds as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

PIECE_BYTES = 1 << 18  # the submitter's size of pieces
TIMEOUT_S = 600.0  # time limit of each network operation
BOUNDARY = "plain-loop"
HEAD = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def main(url: str, parallel: str, files: str) -> None:
    """Store all files once."""
    client = httpx.Client(trust_env=False, timeout=TIMEOUT_S)
    paths = [Path(line) for line in Path(files).read_text().splitlines()]

    def store(path: Path) -> None:
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}',
            "Content-Length": str(len(HEAD) + path.stat().st_size + len(TAIL)),
            "Accept": "application/dicom+json",
        }
        client.post(f"{url}/studies", content=_body(path), headers=headers).raise_for_status()

    with ThreadPoolExecutor(int(parallel)) as executor:
        used, began = _cpu_seconds(), time.monotonic()
        for _done in executor.map(store, paths):
            pass
        figures = {"seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - used}
    sys.stdout.write(json.dumps(figures) + "\n")


def _body(path: Path) -> Iterator[bytes]:
    yield HEAD
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
    yield TAIL


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
