"""Measure how fast the submitter `dicomweb` delivers a large job to Orthanc, and the adapter's memory meanwhile.

    .venv/bin/python bench/stow.py [--instances 1000] [--repeat 3]

Each round stores the same files in a new Orthanc with a plain loop, and in another new Orthanc with the adapter, in
alternating order, so that other load of the machine affects both alike. Needs Orthanc with its DICOMweb plugin.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated

import attrs
import httpx
import typer
import upload_files
import upload_runs
from machine import describe
from rich.console import Console
from upload_runs import LONGEST_S, Run

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "stow.json"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_S = 30.0  # longest wait for the start of Orthanc
MIN_RATIO = 0.8  # minimum of the adapter's rate, divided by that of the plain loop
MAX_GROWTH_MB = 50.0  # maximum of the growth of the adapter's memory during the job

SUBMITTER = """\
[submitters.platform]
type = "dicomweb"
url = "{url}"
parallel = {parallel}
"""


def main(
    instances: Annotated[int, typer.Option(min=32, max=20_000, help="CT images of 512 KiB in the job.")] = 1000,
    repeat: Annotated[int, typer.Option(min=1, max=20, help="Rounds.")] = 3,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Concurrent uploads.")] = 4,
    folder: Annotated[Path | None, typer.Option(help="Folder of the files (default: a temporary one).")] = None,
    *,
    write: Annotated[bool, typer.Option(help="Write bench/results/stow.json.")] = True,
) -> None:
    """Measure deliveries with STOW-RS, and print the figures."""
    console = Console(width=130)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the files are deleted
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-stow-", dir=folder) as made:
        machine = describe(Path(made))
        console.print(f"{machine}\nmaking {instances} instances …", highlight=False)
        files = upload_files.make(Path(made) / "instances", instances)
        runs: dict[str, list[Run]] = {"plain": [], "adapter": []}
        for number in range(repeat):
            for name, measure in _round(files, Path(made) / f"round-{number}", parallel, number):
                runs[name].append(measured := measure())
                console.print(f"round {number + 1}: {name}: {measured.mb_per_s:.0f} MB/s", highlight=False)
    what = f"{instances} CT images of 512 KiB ({files.size_bytes / 1e9:.2f} GB), {parallel} at a time"
    verdict = _verdict(runs["plain"], runs["adapter"])
    console.print({"what": what, **verdict})
    if write:
        values = {
            "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": attrs.asdict(machine),
            "what": what,
            "verdict": verdict,
            "runs": {name: [attrs.asdict(run) for run in of_name] for name, of_name in runs.items()},
        }
        RESULTS.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _round(
    files: upload_files.Instances, folder: Path, parallel: int, number: int
) -> Iterator[tuple[str, Callable[[], Run]]]:
    folder.mkdir()
    both: list[tuple[str, Callable[[], Run]]] = [
        (name, partial(measure, files, folder / name, parallel))
        for name, measure in (("plain", _plain), ("adapter", _adapter))
    ]
    yield from reversed(both) if number % 2 else both


def _plain(files: upload_files.Instances, folder: Path, parallel: int) -> Run:
    """Run the plain loop in a separate process."""
    folder.mkdir()
    listed = folder / "files.txt"
    listed.write_text("\n".join(map(str, files.paths)))
    with _orthanc(folder / "orthanc", len(files.paths)) as url:
        command = [sys.executable, str(HERE / "stow_plain.py"), url, str(parallel), str(listed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=LONGEST_S)  # noqa: S603 - ours
    return Run(size_bytes=files.size_bytes, **json.loads(done.stdout))


def _adapter(files: upload_files.Instances, folder: Path, parallel: int) -> Run:
    """Run `dicom-adapter run`, which finds the instances, waits until their study is complete, and submits one job."""
    folder.mkdir()
    with _orthanc(folder / "orthanc", len(files.paths)) as url:
        return upload_runs.submit(files, folder / "adapter", SUBMITTER.format(url=url, parallel=parallel))


@contextmanager
def _orthanc(folder: Path, expected: int) -> Iterator[str]:
    """Start a new Orthanc; yield the URL of its DICOMweb service. At the end, it must have `expected` instances."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, folder / "orthanc.json"], stdout=log, stderr=log)  # noqa: S603
        try:
            _wait(f"http://127.0.0.1:{port}/system")
            yield f"http://127.0.0.1:{port}/dicom-web"
            found = httpx.get(f"http://127.0.0.1:{port}/statistics").json()["CountInstances"]
            assert found == expected, f"Orthanc has {found} instances: a fast run with losses is invalid"
        finally:
            process.terminate()
            process.wait(LONGEST_S)


def _wait(url: str) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            httpx.get(url).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _verdict(plain: Sequence[Run], adapter: Sequence[Run]) -> dict[str, float | bool]:
    """Return medians of all rounds; a ratio is the median of the rounds' ratios; the growth is the worst round's."""
    ratio = statistics.median(ours.mb_per_s / theirs.mb_per_s for ours, theirs in zip(adapter, plain, strict=True))
    growth = max(run.growth_bytes or 0 for run in adapter) / 1e6
    return {
        "adapter_mb_per_s": round(statistics.median(run.mb_per_s for run in adapter), 1),
        "plain_mb_per_s": round(statistics.median(run.mb_per_s for run in plain), 1),
        "ratio": round(ratio, 3),
        "growth_mb": round(growth, 1),
        "adapter_cpu_s_per_gb": round(statistics.median(run.cpu_s_per_gb or 0 for run in adapter), 2),
        "plain_cpu_s_per_gb": round(statistics.median(run.cpu_s_per_gb or 0 for run in plain), 2),
        "meets_limits": ratio >= MIN_RATIO and growth < MAX_GROWTH_MB,
    }


if __name__ == "__main__":
    typer.run(main)
