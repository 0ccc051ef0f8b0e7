"""dicom-adapter as a receiver of the benchmark: `dicom-adapter run` with its defaults."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from receive_values import AE_TITLE, Running

from dicom_adapter.config import DicomConfig
from dicom_adapter.service.launch import LaunchedService

HERE = Path(__file__).parent
START_S = 600.0  # longest wait for the start, which takes long with many pending instances
DEFAULT_ASSOCIATIONS = DicomConfig().max_associations

# All other settings have their defaults: each instance is synced with its recovery record before the response. The
# limits of free space are disabled, and no group is due before the run ends.
CONFIGURATION = """\
[dicom]
port = 0
bind = "127.0.0.1"
{limit}
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "fake"
"""
GROUPING = """
[ae-titles.BENCH.settings]
group-by = "study"
timeout = {timeout}
pipeline-bench = "bench"
"""
KEEPING = """
[ae-titles.BENCH]
processor = "cache"
"""
BUSY = """
[ae-titles.BUSY]
processor = "busy"
"""
BUSY_METADATA = "Metadata-Version: 2.1\nName: bench-busy\nVersion: 1\n"
BUSY_ENTRY_POINTS = "[dicom_adapter]\nbusy = receive_busy\n"


@contextmanager
def adapter(
    folder: Path, associations: int, *, is_busy: bool = False, keeps: bool = False, data: Path | None = None
) -> Iterator[Running]:
    """Run `dicom-adapter run`. Yield its port and process.

    `is_busy`: another AE title has a plugin that computes all the time. `keeps`: the processor is `cache` instead of
    `aetitle`. `data`: an existing data folder, which is copied.
    """
    if data is not None:
        shutil.copytree(data, folder / "data")
    configuration = configure(folder, associations, is_busy=is_busy, keeps=keeps)
    with importable(_install_busy(folder)) if is_busy else nullcontext():
        service = LaunchedService(configuration)
    try:
        port = service.port(START_S)
        for ae_title in (AE_TITLE, "BUSY") if is_busy else (AE_TITLE,):
            service.wait_for("lane_caught_up", START_S, ae_title=ae_title)
        service.stop_reading()
        yield Running(port, service.pids()[0])
    finally:
        service.kill()


def configure(
    folder: Path, associations: int, *, is_busy: bool = False, keeps: bool = False, timeout: float = 3600
) -> Path:
    """Write the configuration of a service. `timeout`: seconds until a group is due; `cache` has no groups."""
    limit = f"max-associations = {associations}\n" if associations > DEFAULT_ASSOCIATIONS else ""
    configuration = folder / "bench.toml"
    table = KEEPING if keeps else GROUPING.format(timeout=timeout)
    text = CONFIGURATION.format(limit=limit) + table + (BUSY if is_busy else "")
    configuration.write_text(text, encoding="utf-8")
    return configuration


def _install_busy(folder: Path) -> Path:
    """Install the plugin `receive_busy` as a distribution in a separate folder."""
    site = folder / "site"
    information = site / "bench_busy-1.dist-info"
    information.mkdir(parents=True)
    shutil.copy(HERE / "receive_busy.py", site)
    (information / "METADATA").write_text(BUSY_METADATA, encoding="utf-8")
    (information / "entry_points.txt").write_text(BUSY_ENTRY_POINTS, encoding="utf-8")
    return site


@contextmanager
def importable(site: Path) -> Iterator[None]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(site), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
