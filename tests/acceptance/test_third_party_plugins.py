"""Third-party plugins: separate distributions, installed with pip next to the adapter and selected by name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, write_study
from support.requestor import rejection
from support.third_party import install

pytestmark = pytest.mark.slow

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.BATCH]
processor = "batch"
settings = { size = 2, pipeline = "pipeline-1" }

[ae-titles.HEAD.settings]
pipeline-h = "pipeline-2"
"""
)
DUPLICATE_NAME = '\n[ae-titles.TWICE]\nprocessor = "twice"\n'
TEMPORARY_CONGESTION = (2, 3, 1)  # result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)

BATCH = '''
import attrs
from dicom_adapter import JobPriority, JobProcessorBase, at_least, hookimpl, setting


@attrs.frozen(kw_only=True)
class BatchSettings:
    size: int = setting(validator=at_least(1), help="Instances in a batch.")
    pipeline: str = setting(help="The pipeline's id.")


class Batch(JobProcessorBase[BatchSettings]):
    """Submits a job for each `size` instances."""

    name = "batch"

    def open(self):
        self.waiting_instances = []

    def handle_instance(self, instance):
        self.waiting_instances.append(instance)
        if len(self.waiting_instances) == self.settings.size:
            batch, self.waiting_instances = self.waiting_instances, []
            self.submit_pipeline_job("batch", self.settings.pipeline, JobPriority.IMMEDIATE, batch)
            self.remove_instances(batch)


@hookimpl
def dicom_adapter_processors():
    return [Batch]
'''
TWICE = """
from dicom_adapter import JobProcessorBase, hookimpl


class Twice(JobProcessorBase):
    name = "twice"

    def handle_instance(self, instance):
        self.remove_instances([instance])


@hookimpl
def dicom_adapter_processors():
    return [Twice]
"""
OBSERVER = """
from dicom_adapter import hookimpl


@hookimpl
def dicom_adapter_instance_stored(instance):
    raise SystemExit("an observer that exits")


@hookimpl
def dicom_adapter_job_changed(job):
    raise RuntimeError("an observer that fails")
"""
UNKNOWN_HOOK = """
from dicom_adapter import hookimpl


@hookimpl
def dicom_adapter_instance_arrived(instance):
    pass
"""


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with a third-party processor and observer."""
    return install(tmp_path_factory.mktemp("healthy"), batch=BATCH, observer=OBSERVER)


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with a processor that works, and plugins that cannot be used."""
    return install(
        tmp_path_factory.mktemp("broken"),
        batch=BATCH,
        unimportable="import a_missing_library",
        unknown_hook=UNKNOWN_HOOK,
        twice_a=TWICE,
        twice_b=TWICE,
    )


def command(python: str, *arguments: object) -> tuple[int, str, list[str]]:
    """Run a command in an environment, and return exit status, standard output and lines of standard error."""
    program = [python, "-m", "dicom_adapter", *map(str, arguments)]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout, run.stderr.splitlines()


def batches(platform: PlatformFolder) -> list[tuple[str, str, int]]:
    """Return pipeline, priority and number of instances of each started job."""
    return [(job["pipelineId"], job["priority"], len(job["instances"])) for job in platform.jobs]


def test_jobs_of_a_third_party_processor_reach_the_platform(
    launch_service: LaunchService, platform: PlatformFolder, healthy: str, tmp_path: Path
) -> None:
    """A failing observer does not affect the jobs."""
    service = launch_service(CONFIGURATION, "--strict", python=healthy)
    sent = send(write_study(tmp_path / "study", instances=4), service, "BATCH")
    assert [True] * 4 == [result.ok for result in sent]
    service.wait_for("job_submitted", times=2)
    assert [("pipeline-1", "immediate", 2)] * 2 == batches(platform)
    service.wait_for("instances_reclaimed")
    plugin = "plugin 'observer' of acceptance-observer 1.2"
    service.wait_for("observer_failed", times=4, plugin=plugin, hook="dicom_adapter_instance_stored")
    service.wait_for("observer_failed", plugin=plugin, hook="dicom_adapter_job_changed")
    assert 0 == service.stop()


def test_a_missing_plugin_affects_only_its_ae_title(launch_service: LaunchService) -> None:
    """`run` starts and logs the reason. Associations with the AE title are rejected temporarily."""
    service = launch_service(CONFIGURATION)
    assert TEMPORARY_CONGESTION == rejection(service.port(), "BATCH")
    assert rejection(service.port(), "HEAD") is None
    reason = "needs processor 'batch', which is not installed; did you mean 'cache'? (installed: aetitle, cache)"
    assert reason == service.wait_for("ae_title_refused", ae_title="BATCH")["reason"]
    assert reason == service.wait_for("association_rejected", ae_title="BATCH")["reason"]


def test_a_missing_plugin_fails_check_and_a_strict_start(launch_service: LaunchService) -> None:
    """Both commands report the AE title and the processor that it needs. The service does not start."""
    service = launch_service(CONFIGURATION, "--strict")
    checked = CliRunner().invoke(app, ["check", str(service.configuration)])
    hint = "did you mean 'cache'? (installed: aetitle, cache)"
    message = (
        f"error: {service.configuration}: AE title 'BATCH': needs processor 'batch', which is not installed; {hint}"
    )
    assert (1, [message]) == (checked.exit_code, checked.stderr.splitlines())
    assert 1 == service.wait()
    service.wait_for("text", times=2)
    expected = [message, "error: not started, because of --strict"]
    assert expected == [entry["text"] for entry in service.logged("text")]
    assert not (service.configuration.parent / "data").exists()


PROBLEMS = {
    "acceptance-unimportable": "failed to load: ModuleNotFoundError: No module named 'a_missing_library'",
    "acceptance-unknown_hook": "implements unknown hooks: dicom_adapter_instance_arrived",
    "acceptance-twice_a": "processor 'twice' is also provided by acceptance-twice_b 1.2",
    "acceptance-twice_b": "processor 'twice' is also provided by acceptance-twice_a 1.2",
}


def test_broken_plugins_are_listed_with_distribution_and_reason(broken: str) -> None:
    """The exit status of `plugins` is 1. Plugins that work are listed, too."""
    status, output, _errors = command(broken, "plugins", "--json")
    listed = json.loads(output)
    assert 1 == status
    assert PROBLEMS == {row["distribution"]: row["problem"] for row in listed if row["problem"]}
    assert {"aetitle", "batch", "fake", "local"} <= {row["name"] for row in listed if not row["problem"]}


def test_broken_plugins_affect_only_the_ae_titles_that_need_them(
    launch_service: LaunchService, platform: PlatformFolder, broken: str, tmp_path: Path
) -> None:
    """`check` reports every reason and fails. `run` serves all other AE titles."""
    service = launch_service(CONFIGURATION + DUPLICATE_NAME, python=broken)
    service.wait_for("host_started")  # before that, `check` also reports the incomplete data folder
    status, _output, lines = command(broken, "check", service.configuration)
    errors = [line for line in lines if not line.startswith("warning: the service (PID ")]  # it uses the data folder
    assert 1 == status
    assert (
        f"error: {service.configuration}: AE title 'TWICE': needs processor 'twice', which is not installed"
        in errors[0]
    )
    assert sorted(PROBLEMS.values()) == sorted(line.split(": ", 3)[3] for line in errors[1:])
    assert TEMPORARY_CONGESTION == rejection(service.port(), "TWICE")
    assert rejection(service.port(), "HEAD") is None
    send(write_study(tmp_path / "study"), service, "BATCH")
    service.wait_for("job_submitted")
    assert [("pipeline-1", "immediate", 2)] == batches(platform)
    assert len(PROBLEMS) == len(service.logged("plugin_load_failed"))
