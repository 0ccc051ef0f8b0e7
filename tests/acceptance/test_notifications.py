"""Notifications of real services: a webhook that fails for a time, a killed service, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter.testing.service import Service
from support.webhook_receiver import WebhookReceiver, webhook_receiver

CONFIGURATION = """
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.local]
type = "command"
status-every = 0.2

[submitters.local.pipelines.fails]
command = ["/bin/false"]

[ae-titles.LUNG.settings]
pipeline-lung = "fails"

[notifications.oncall]
type = "webhook"
url = "{url}/T0PSECRET"
gather = 0
pause = 0
"""
SECONDS = 60.0  # longest wait
PLANTED = {"patient_name": "Planted^Name", "patient_id": "PLANTED-ID", "accession_number": "PLANTED-ACC"}


@pytest.fixture
def webhook() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as server:
        yield server


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["notifications", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def start(launch_service: LaunchService, webhook: WebhookReceiver) -> Service:
    service = launch_service(CONFIGURATION.replace("{url}", webhook.url))
    service.port()
    return service


def test_a_failed_job_is_reported_after_the_webhook_and_the_service_were_down(
    launch_service: LaunchService, webhook: WebhookReceiver
) -> None:
    """The service is killed while its message waits; after the next start it is sent once.

    The commands and the log show the waiting message and the problem, without the path of the URL.
    """
    webhook.status = 500
    service = start(launch_service, webhook)
    service.wait_for("host_started")
    service.send(make_instance(**PLANTED), ae_title="LUNG")
    service.wait_for("notification_failed", attempts=1)
    configuration = str(service.configuration)
    (entry,) = json.loads(run("list", configuration, "--json")[1])
    assert ("oncall", "webhook", None, 1) == (entry["name"], entry["type"], entry["lastSent"], len(entry["waiting"]))
    assert "[job-failed] LUNG, submitter local" in entry["waiting"][0]
    service.kill()
    webhook.status = 204
    before = len(webhook.requests)
    service = start(launch_service, webhook)
    service.wait_for("notification_sent", notices=1)
    ((_, _, body),) = webhook.requests[before:]
    assert [("job-failed", "LUNG")] == [(one["kind"], one["aeTitle"]) for one in json.loads(body)["notices"]]
    assert 1 == len({json.loads(body)["id"] for _, _, body in webhook.requests})
    assert [] == [value for value in PLANTED.values() if value.encode() in b"".join(one[2] for one in webhook.requests)]
    assert "0 notices waiting" in run("list", configuration)[1]
    assert [] == service.logged("notification_failed", error="T0PSECRET")


def test_a_test_message_is_sent_without_a_service(launch_service: LaunchService, webhook: WebhookReceiver) -> None:
    service = start(launch_service, webhook)
    service.stop()
    configuration = str(service.configuration)
    assert (0, "oncall: sent by webhook\n") == run("test", "oncall", "--config", configuration)
    assert ["test"] == [notice["kind"] for notice in json.loads(webhook.requests[-1][2])["notices"]]
    webhook.status = 403
    status, output = run("test", "--config", configuration)
    assert 1 == status
    assert "notification 'oncall': 127.0.0.1:" in output
    assert "answered with status 403: check the URL" in " ".join(output.split())
    status, output = run("test", "on-call", "--config", configuration)
    assert (1, True) == (status, "has no table [notifications.on-call] (there are: oncall)" in output)
