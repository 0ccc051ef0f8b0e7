"""Plugins that misbehave, a healthy plugin, and a function that installs them, for the benchmark and for tests."""

from __future__ import annotations

from pathlib import Path

HEALTHY = """
from dicom_adapter import JobPriority, JobProcessorBase, at_least, hookimpl, setting
from attrs import frozen


@frozen(kw_only=True)
class Settings:
    size: int = setting(default=1, validator=at_least(1), help="Instances of a job.")


class Healthy(JobProcessorBase[Settings]):
    name = "healthy"

    def open(self):
        self.held = []

    def handle_instance(self, instance):
        self.held.append(instance)
        if len(self.held) == self.settings.size:
            self.submit_pipeline_job("healthy", "pipeline", JobPriority.NORMAL, self.held)
            self.remove_instances(self.held)
            self.held = []


@hookimpl
def dicom_adapter_processors():
    return [Healthy]
"""
CRASHING = """
from dicom_adapter import JobProcessorBase, hookimpl


class Crashing(JobProcessorBase):
    name = "crashing"

    def handle_instance(self, instance):
        raise SystemExit("crashed")


@hookimpl
def dicom_adapter_processors():
    return [Crashing]


@hookimpl
def dicom_adapter_instance_stored(instance):
    raise MemoryError("crashed")


@hookimpl
def dicom_adapter_job_changed(job):
    raise RuntimeError("crashed")


@hookimpl
def dicom_adapter_servers(lanes):
    return 7
"""
HANGING = """
import threading

from dicom_adapter import JobProcessorBase, hookimpl

NEVER = threading.Event()


class Hanging(JobProcessorBase):
    name = "hanging"

    def handle_instance(self, instance):
        NEVER.wait()


@hookimpl
def dicom_adapter_processors():
    return [Hanging]


@hookimpl
def dicom_adapter_job_changed(job):
    NEVER.wait()
"""
LEAKING = """
import threading

from dicom_adapter import JobProcessorBase, hookimpl

NEVER = threading.Event()
THREADS = 30  # for each instance


class Leaking(JobProcessorBase):
    name = "leaking"

    def handle_instance(self, instance):
        for _number in range(THREADS):
            threading.Thread(target=NEVER.wait, daemon=True).start()
        self.remove_instances([instance])


@hookimpl
def dicom_adapter_processors():
    return [Leaking]
"""
OUTDATED = """
raise ImportError("a name that is not there any more")
"""
BAD = {"crashing": CRASHING, "hanging": HANGING, "leaking": LEAKING, "outdated": OUTDATED}
GROUPS = {"outdated": "dicom_adapter.v0"}  # entry point groups; the default is the group of this version

AE_TITLES = """
[ae-titles.CRASHES]
processor = "crashing"

[ae-titles.HANGS]
processor = "hanging"

[ae-titles.LEAKS]
processor = "leaking"

[ae-titles.OUTDATED]
processor = "outdated"
"""


def write_plugins(folder: Path, plugins: dict[str, str]) -> None:
    """Write plugins into a folder for PYTHONPATH, each as a distribution isolation-<name> 1.0."""
    for name, source in plugins.items():
        (folder / f"isolation_{name}.py").write_text(source, encoding="utf-8")
        info = folder / f"isolation_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: isolation-{name}\nVersion: 1.0\n", encoding="utf-8"
        )
        point = f"[{GROUPS.get(name, 'dicom_adapter')}]\n{name} = isolation_{name}\n"
        (info / "entry_points.txt").write_text(point, encoding="utf-8")
