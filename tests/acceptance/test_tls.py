"""DICOM over TLS with the real service: client certificates bound to AE titles, renewal, errors."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.net import scu
from dicom_adapter.net.address import parse_address
from dicom_adapter.net.tls import client_context
from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, write_study
from support.certificates import Pki

SERVED = """
[ae-titles.LUNG]
allowed-callers = [{ ae-title = "CT1", certificate = "ct1.example" }]
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"
"""


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def configuration(pki: Pki) -> str:
    certificate, key = pki.adapter()
    tls = f'certificate = "{certificate}"\nkey = "{key}"\nclient-ca = "{pki.authority}"\n'
    return f"{STORAGE}\n[dicom.tls]\n{tls}{SERVED}"


def sent(service: LaunchedService, paths: list[Path], context: ssl.SSLContext, calling: str) -> tuple[int, str | None]:
    """Send files. Return the number of accepted files, and the reason why the others were not sent, or None."""
    address = parse_address(f"LUNG@127.0.0.1:{service.port()}")
    summary = scu.send(paths, address, calling_ae_title=calling, timeout=30, tls=context)
    return summary.sent, summary.gave_up


def test_a_calling_ae_title_is_accepted_only_with_its_certificate(
    launch_service: LaunchService, configuration: str, pki: Pki, tmp_path: Path
) -> None:
    """Another device with a valid certificate cannot use the AE title of the CT. The log names both certificates."""
    service = launch_service(configuration)
    study = write_study(tmp_path / "study", instances=3)
    ct1 = client_context(pki.authority, *pki.issue("ct1", "ct1.example"))
    pet = client_context(pki.authority, *pki.issue("pet", "pet.example"))
    assert (3, None) == sent(service, study, ct1, "CT1")
    count, why = sent(service, study, pet, "CT1")
    assert (0, True) == (count, "calling ae title not recognised" in str(why))
    assert "ct1.example" == service.wait_for("association_accepted")["certificate"]
    assert "pet.example" == service.wait_for("association_rejected")["certificate"]
    assert 0 == service.stop()


def test_an_open_association_survives_the_renewal_of_certificates(
    launch_service: LaunchService, configuration: str, pki: Pki, tmp_path: Path
) -> None:
    """New files are used without a restart. Invalid files are logged and have no other effect."""
    service = launch_service(configuration)
    service.port()
    certificate, _key = pki.adapter()
    assert str(certificate) == service.wait_for("certificates_renewed")["certificate"]
    certificate.write_text("broken", encoding="utf-8")
    assert str(certificate) in str(service.wait_for("certificate_renewal_failed")["reason"])
    ct1 = client_context(pki.authority, *pki.issue("ct1", "ct1.example"))
    assert (2, None) == sent(service, write_study(tmp_path / "study"), ct1, "CT1")
    assert 0 == service.stop()


def test_an_unreadable_certificate_is_reported_by_run_and_check(
    launch_service: LaunchService, configuration: str, pki: Pki
) -> None:
    """The message names the file. The service does not start."""
    certificate, _key = pki.adapter()
    certificate.unlink()
    service = launch_service(configuration)
    with pytest.raises(ServiceEnded, match="No such file"):
        service.port()
    assert 1 == service.wait()
    checked = CliRunner().invoke(app, ["check", str(service.configuration)])
    assert 1 == checked.exit_code
    assert f"the certificate {certificate} cannot be read" in checked.stderr


def test_echo_and_send_use_tls(launch_service: LaunchService, configuration: str, pki: Pki, tmp_path: Path) -> None:
    """Certificates are given as files. Without --tls the commands fail."""
    service = launch_service(configuration)
    certificate, key = pki.issue("ct1", "ct1.example")
    tls = ["--tls", "--tls-ca", pki.authority, "--tls-certificate", certificate, "--tls-key", key]
    peer = ["--to", f"LUNG@127.0.0.1:{service.port()}", "--from", "CT1"]
    run: Callable[..., int] = lambda *words: CliRunner().invoke(app, [str(word) for word in words]).exit_code  # noqa: E731
    study = write_study(tmp_path / "study")
    assert 0 == run("echo", *peer, *tls)
    assert 0 == run("send", study[0].parent, *peer, *tls)
    assert 1 == run("echo", *peer)
    assert 2 == run("echo", *peer, "--tls-ca", pki.authority)
    assert 2 == run("echo", *peer, "--tls", "--tls-ca", tmp_path / "nothing.pem")
    assert 0 == service.stop()
