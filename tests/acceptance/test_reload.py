"""Reload: the application of a changed configuration to the running service, by command and by SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.cli.configuration import open_ledger
from dicom_adapter.dicom import synthetic
from dicom_adapter.ledger import configurations
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, wait_until_submitted, write_study
from support.requestor import associate, rejection, try_to_associate
from support.third_party import install, install_beside

HEAD = '[ae-titles.HEAD.settings]\npipeline-h = "head"\n'
LUNG = '[ae-titles.LUNG.settings]\npipeline-l = "lung"\n'
SLOW_LUNG = LUNG + "timeout = 3600\n"
OTHER_LUNG = '[ae-titles.LUNG.settings]\npipeline-x = "other"\ntimeout = 6\ngroup-by = "study"\n'
BOTH = STORAGE + HEAD + LUNG
SUCCESS = 0x0000
NOT_RECOGNIZED = (1, 1, 7)  # result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21)

COUNTING = """
from dicom_adapter import JobPriority, JobProcessorBase, hookimpl


class Counting(JobProcessorBase):
    name = "counting"

    def handle_instance(self, instance):
        self.submit_pipeline_job("counted", "counting", JobPriority.NORMAL, [instance])
        self.remove_instances([instance])


@hookimpl
def dicom_adapter_processors():
    return [Counting]
"""


def write(service: LaunchedService, configuration: str) -> None:
    """Replace the configuration file atomically, as an editor does when it saves."""
    new = service.configuration.with_suffix(".new")
    new.write_text(configuration, encoding="utf-8")
    new.replace(service.configuration)


def call(service: LaunchedService, *arguments: str) -> tuple[int, Any]:
    """Run `reload --json`, and return exit status and output."""
    called = CliRunner().invoke(app, ["reload", str(service.configuration), "--json", *arguments])
    return called.exit_code, json.loads(called.stdout)


def apply(service: LaunchedService, configuration: str, *arguments: str) -> Any:
    """Apply a configuration and return the plan."""
    write(service, configuration)
    status, output = call(service, "--apply", *arguments)
    assert (0, []) == (status, output["problems"]), output["problems"]
    return output["plan"]


def hang_up(service: LaunchedService) -> None:
    os.kill(service.pids()[0], signal.SIGHUP)


def status(service: LaunchedService) -> dict[str, Any]:
    """Return the output of `status` by AE title, and its entry on the configuration."""
    output = json.loads(CliRunner().invoke(app, ["status", "--config", str(service.configuration), "--json"]).stdout)
    return {entry["aeTitle"]: entry for entry in output["aeTitles"]} | {"configuration": output["configuration"]}


def pipelines(platform: PlatformFolder) -> Counter[tuple[str, int]]:
    """Count the jobs by pipeline and number of instances."""
    return Counter((job["pipelineId"], len(job["instances"])) for job in platform.jobs)


def test_the_plan_shows_the_changes_and_applies_nothing(launch_service: LaunchService) -> None:
    """The plan has AE titles, submitters, other keys, and keys that need a restart, as JSON and as text."""
    service = launch_service(BOTH)
    service.port()
    write(
        service,
        "[dicom]\nport = 11113\nidle-timeout = 5\n"
        + STORAGE.replace('folder = "platform"', 'folder = "other"')
        + OTHER_LUNG
        + '[ae-titles.NEW.settings]\npipeline-n = "new"\n',
    )
    exit_code, output = call(service, "--plan")
    plan = output["plan"]
    assert 1 == exit_code
    assert (["NEW"], ["HEAD"], ["LUNG"]) == (
        plan["aeTitles"]["added"],
        plan["aeTitles"]["removed"],
        list(plan["aeTitles"]["changed"]),
    )
    assert ["dicom.port"] == [change["key"] for change in plan["needsRestart"]]
    assert [{"key": "dicom.idle-timeout", "before": "60.0", "after": "5.0"}] == plan["settings"]
    assert ["folder"] == [change["key"] for change in plan["submitters"]["changed"]["platform"]]
    changed = {change["key"]: (change["before"], change["after"]) for change in plan["aeTitles"]["changed"]["LUNG"]}
    assert (None, '"study"') == changed["settings.group-by"]
    assert ('"lung"', None) == changed["settings.pipeline-l"]
    refused = CliRunner().invoke(app, ["reload", str(service.configuration), "--apply"])
    assert 1 == refused.exit_code
    assert "- AE title HEAD: its instances and jobs wait until it is configured again" in refused.stdout
    assert "! dicom.port: 11112 -> 11113: needs a restart of the service" in refused.stdout
    assert "dicom.port: needs a restart of the service; nothing was changed" in refused.stderr
    assert rejection(service.port(), "HEAD") is None
    assert NOT_RECOGNIZED == rejection(service.port(), "NEW")


def test_an_open_association_continues_when_its_ae_title_is_removed_and_another_added(
    launch_service: LaunchService, platform: PlatformFolder
) -> None:
    """New associations are accepted for the added AE title and rejected for the removed one."""
    service = launch_service(STORAGE + HEAD)
    association = associate(service.port(), "HEAD")
    assert SUCCESS == association.send_c_store(synthetic.make_instance()).Status
    processes = service.pids()
    plan = apply(service, STORAGE + LUNG, "--removed", "drain")
    assert (["LUNG"], ["HEAD"]) == (plan["aeTitles"]["added"], plan["aeTitles"]["removed"])
    assert rejection(service.port(), "LUNG") is None
    assert NOT_RECOGNIZED == rejection(service.port(), "HEAD")
    assert SUCCESS == association.send_c_store(synthetic.make_instance()).Status
    association.release()
    service.wait_for("job_submitted", times=2)
    assert {("head", 1): 2} == pipelines(platform)
    assert processes == service.pids()
    assert 0 == service.stop()


def test_sighup_applies_the_file_like_the_command(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """Instances that wait under the old settings become a job under the new settings.

    An unchanged file has no effect.
    """
    service = launch_service(STORAGE + HEAD + SLOW_LUNG)
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    write(service, BOTH)
    hang_up(service)
    service.wait_for("reload_applied")
    service.wait_for("lane_changed", ae_title="LUNG")
    assert [] == service.logged("lane_changed", ae_title="HEAD")
    service.wait_for("job_submitted")
    assert {("lung", 3): 1} == pipelines(platform)
    hang_up(service)
    service.wait_for("reload_not_needed")
    running = status(service)["configuration"]
    assert ("running", "") == (running["state"], running["reason"])


def test_an_invalid_file_is_refused_and_changes_nothing(launch_service: LaunchService) -> None:
    """Command and signal report the same problems as `check`."""
    service = launch_service(BOTH)
    service.port()
    write(service, STORAGE + OTHER_LUNG.replace("timeout = 6", "timeout = 3"))
    checked = CliRunner().invoke(app, ["check", "--json", str(service.configuration)])
    problems = json.loads(checked.stdout)["problems"]
    exit_code, output = call(service, "--apply")
    assert (1, None) == (exit_code, output["applied"])
    assert [*problems, "nothing was changed; a running service keeps its configuration"] == output["problems"]
    hang_up(service)
    assert output["problems"] == service.wait_for("reload_refused")["problems"]
    assert rejection(service.port(), "HEAD") is None


def test_reload_fails_when_no_service_runs(launch_service: LaunchService) -> None:
    service = launch_service(BOTH)
    service.port()
    service.stop()
    exit_code, output = call(service, "--apply")
    assert 1 == exit_code
    assert "no service is running with the data folder" in output["problems"][0]


def test_the_running_configuration_is_recorded_before_the_service_listens(launch_service: LaunchService) -> None:
    """A file that is applied at once is compared with the running configuration, not with an earlier configuration."""
    before = launch_service(BOTH)
    before.port()
    before.stop()
    service = launch_service(BOTH)
    listening = service.wait_for("service_listening")
    with closing(open_ledger(service.configuration)) as ledger, ledger.read() as transaction:
        running = configurations.running(transaction)
    assert running is not None
    assert 2 == running.number
    assert running.changed_at <= datetime.fromisoformat(listening["timestamp"].replace("Z", "+00:00"))


def test_a_removed_ae_title_is_held_until_it_is_configured_again(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """`status` shows the AE title while it has pending instances. A restart of the service keeps them."""
    service = launch_service(STORAGE + HEAD + SLOW_LUNG)
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    apply(service, STORAGE + HEAD)
    assert ("not configured", 3) == (status(service)["LUNG"]["state"], status(service)["LUNG"]["pending"])
    service.stop()
    service = launch_service(STORAGE + HEAD)
    service.port()
    apply(service, BOTH)
    service.wait_for("job_submitted")
    assert {("lung", 3): 1} == pipelines(platform)


@pytest.mark.slow
def test_a_removed_ae_title_drains_across_a_restart(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """The group becomes due, and the job is submitted by a submitter that is also removed.

    Afterwards both are removed.
    """
    two = (
        'default-submitter = "platform"\n' + STORAGE + '[submitters.second]\ntype = "fake"\nfolder = "second"\n' + HEAD
    )
    waiting = '[ae-titles.LUNG]\nsubmitter = "second"\n' + LUNG + 'timeout = 20\ngroup-by = "study"\n'
    service = launch_service(two + waiting)
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    apply(service, STORAGE + HEAD, "--removed", "drain")
    assert "draining" == status(service)["LUNG"]["state"]
    assert NOT_RECOGNIZED == rejection(service.port(), "LUNG")
    service.stop()
    service = launch_service(STORAGE + HEAD)
    service.wait_for("submitter_drained", submitter="second")
    service.wait_for("ae_title_drained", ae_title="LUNG")
    assert {("lung", 3): 1} == pipelines(PlatformFolder(platform.path.parent / "second"))
    assert "LUNG" not in status(service)


@pytest.mark.slow
def test_restarted_processes_use_the_applied_configuration(launch_service: LaunchService, tmp_path: Path) -> None:
    """Host and receiver are killed after the reload."""
    service = launch_service(STORAGE + HEAD)
    service.port()
    apply(service, BOTH)
    for name, event in (("host", "host_started"), ("receiver", "receiver_listening")):
        os.kill(service.wait_for("process_started", name=name)["child"], signal.SIGKILL)
        service.wait_for(event, times=2)
    assert [True] == [result.ok for result in send(write_study(tmp_path / "study", instances=1), service, "LUNG")]
    service.wait_for("job_submitted")


def test_the_http_server_restarts_only_for_ae_titles_with_routes(launch_service: LaunchService) -> None:
    """An AE title for which a plugin serves routes is added, and one without routes."""
    http = "[http]\nport = 0\n" + STORAGE + HEAD
    cache = '[ae-titles.CACHE]\nprocessor = "cache"\n[ae-titles.CACHE.settings]\npipeline-l = "lung"\n'
    service = launch_service(http)
    service.port()
    apply(service, http + LUNG)
    apply(service, http + LUNG + cache)
    port = service.wait_for("http_listening", times=2)["port"]
    assert 200 == httpx.get(f"http://127.0.0.1:{port}/cache/studies", timeout=60).status_code
    assert 2 == len(service.logged("http_listening"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a new virtual environment."""
    return install(tmp_path_factory.mktemp("environment"))


@pytest.mark.slow
def test_a_plugin_installed_while_the_service_runs_is_available_after_a_reload(
    launch_service: LaunchService, platform: PlatformFolder, environment: str, tmp_path: Path
) -> None:
    """The plan announces a restart of the host. Senders see no error."""
    service = launch_service(BOTH, python=environment)
    association = associate(service.port(), "HEAD")
    install_beside(environment, tmp_path / "new", counting=COUNTING)
    write(service, BOTH + '[ae-titles.COUNT]\nprocessor = "counting"\n')
    stop, refused = threading.Event(), []

    def send_repeatedly() -> None:
        while not stop.is_set():
            if association.send_c_store(synthetic.make_instance()).Status != SUCCESS or rejection(port, "LUNG"):
                refused.append(1)

    port = service.port()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_repeatedly)
        command = [environment, "-m", "dicom_adapter", "reload", str(service.configuration), "--json"]
        planned = json.loads(subprocess.run([*command, "--plan"], capture_output=True, check=True).stdout)["plan"]
        subprocess.run([*command, "--apply"], check=True, capture_output=True)
        stop.set()
        sending.result()
    association.release()
    assert [] == refused
    assert True is planned["restartsHost"]
    assert [{"key": "counting", "before": None, "after": "acceptance-counting 1.2"}] == planned["plugins"]
    service.wait_for("host_started", times=2)
    assert [] == service.logged("process_died")
    send(write_study(tmp_path / "study", instances=2), service, "COUNT")
    service.wait_for("job_queued", times=2, ae_title="COUNT")
    assert 0 == service.stop()


@pytest.mark.slow
def test_a_plugin_can_be_disabled_and_enabled_by_reloads(launch_service: LaunchService, tmp_path: Path) -> None:
    """The plan announces a restart of the host. A plugin that an AE title needs cannot be disabled."""
    service = launch_service(BOTH)
    service.port()
    write(service, "[plugins]\ndisable = ['aetitle']\n" + BOTH)
    exit_code, refused = call(service, "--apply")
    assert (1, None) == (exit_code, refused["applied"])
    assert any("[plugins] disable names it" in problem for problem in refused["problems"]), refused
    plan = apply(service, "[plugins]\ndisable = ['cache']\n" + BOTH)
    assert [("plugins.disable", "[]", '["cache"]')] == [tuple(change.values()) for change in plan["settings"]]
    assert (True, ["cache"], [None]) == (
        plan["restartsHost"],
        [change["key"] for change in plan["plugins"]],
        [change["after"] for change in plan["plugins"]],
    )
    service.wait_for("host_started", times=2)
    service.wait_for("plugin_disabled")
    assert [True] == [result.ok for result in send(write_study(tmp_path / "study", instances=1), service, "LUNG")]
    service.wait_for("job_submitted")
    assert True is apply(service, BOTH)["restartsHost"]
    service.wait_for("host_started", times=3)
    assert 1 == len(service.logged("plugin_disabled"))
    assert [] == service.logged("process_died")


@pytest.mark.slow
def test_reloads_under_load_lose_nothing_and_submit_nothing_twice(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """Each acknowledged instance is in exactly one job, although settings change in the middle of studies.

    Verified to fail when a new processor does not get the pending instances.
    """
    two = "[dicom]\nreceivers = 2\n"
    service = launch_service(two + BOTH)
    port, stop, random = service.port(), threading.Event(), Random(7)
    choices = [BOTH, STORAGE + HEAD + OTHER_LUNG, STORAGE + LUNG]
    choices.append(STORAGE.replace('type = "fake"', 'type = "fake"\nretry-first = 3') + HEAD + LUNG)
    acknowledged: list[str] = []

    def send_studies(ae_title: str) -> None:
        while not stop.is_set():
            for data_set in synthetic.make_study(modality="CT", instances=3):
                association = try_to_associate(port, ae_title)
                if association is not None:
                    if association.send_c_store(data_set).Status == SUCCESS:
                        acknowledged.append(data_set.SOPInstanceUID)
                    association.release()
                stop.wait(0.2)

    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(send_studies, ae_title) for ae_title in ("HEAD", "LUNG")]
        try:
            for number in range(8):
                apply(
                    service,
                    two + random.choice(choices) + f"# {number}\n",
                    "--removed",
                    random.choice(["keep", "drain"]),
                )
                stop.wait(1.5)
        finally:
            stop.set()
        for future in sending:
            future.result()
    apply(service, two + BOTH)
    wait_until_submitted(service, len(acknowledged))
    assert 0 == service.stop()
    submitted = [entry["sopInstanceUid"] for job in platform.jobs for entry in job["instances"]]
    assert sorted(acknowledged) == sorted(submitted)
