"""The senders of a real service: accepted, rejected, and one that does not use DICOM."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.LUNG.settings]
pipeline-a = "p1"
[ae-titles.HEAD]
allowed-callers = ["CT1"]
settings = { pipeline-a = "p1" }
"""
)


def listed(service: LaunchedService) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["senders", "--json", "--config", str(service.configuration)])
    assert 0 == result.exit_code, result.output
    return {sender["callingAeTitle"]: sender for sender in json.loads(result.output)}


def test_every_sender_is_counted(launch_service: LaunchService, tmp_path: Path) -> None:
    """The counts are complete at the latest when the receiver has ended."""
    paths = write_study(tmp_path / "study", instances=3)
    service = launch_service(CONFIGURATION)
    send(paths, service, "LUNG")
    for rejecting in ("LUNGG", "HEAD"):
        send(paths, service, rejecting)
    with socket.create_connection(("127.0.0.1", service.port()), 30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        service.wait_for("protocol_violated")
    service.stop()

    senders = listed(service)
    assert {"SENDER", ""} == senders.keys()
    sender = senders["SENDER"]
    assert (1, 3, 0, ["LUNG"]) == (
        sender["associations"],
        sender["instances"],
        sender["refused"],
        sender["aeTitles"],
    )
    causes = {(rejection["aeTitle"], rejection["cause"]) for rejection in sender["rejections"]}
    assert {("LUNGG", "called-ae-title"), ("HEAD", "calling-ae-title")} == causes
    assert ["not-dicom"] == [rejection["cause"] for rejection in senders[""]["rejections"]]
