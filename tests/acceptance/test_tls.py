"""DICOM over TLS with the real service: mutual authentication, certificates bound to AE titles, renewal, errors."""

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
    """How many of them were taken, and why the rest was not tried."""
    address = parse_address(f"LUNG@127.0.0.1:{service.port()}")
    summary = scu.send(paths, address, calling_ae_title=calling, timeout=30, tls=context)
    return summary.sent, summary.gave_up


def test_a_calling_ae_title_belongs_to_who_has_its_certificate(
    launch_service: LaunchService, configuration: str, pki: Pki, tmp_path: Path
) -> None:
    """The CT sends; another device with a good certificate cannot take its AE title; the log names certificates."""
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
    """New files are taken without a restart; broken ones are told, and change nothing."""
    service = launch_service(configuration)
    service.port()
    certificate, _key = pki.adapter()
    assert str(certificate) == service.wait_for("certificates_renewed")["certificate"]
    certificate.write_text("broken", encoding="utf-8")
    assert str(certificate) in str(service.wait_for("certificate_renewal_failed")["reason"])
    ct1 = client_context(pki.authority, *pki.issue("ct1", "ct1.example"))
    assert (2, None) == sent(service, write_study(tmp_path / "study"), ct1, "CT1")
    assert 0 == service.stop()


def test_a_certificate_that_cannot_be_used_is_told_at_the_start_and_by_check(
    launch_service: LaunchService, configuration: str, pki: Pki
) -> None:
    """With the name of the file; nothing listens without it."""
    certificate, _key = pki.adapter()
    certificate.unlink()
    service = launch_service(configuration)
    with pytest.raises(ServiceEnded, match="No such file"):
        service.port()
    assert 1 == service.wait()
    told = CliRunner().invoke(app, ["check", str(service.configuration)])
    assert 1 == told.exit_code
    assert f"the certificate {certificate} cannot be read" in told.stderr


def test_echo_and_send_speak_tls(launch_service: LaunchService, configuration: str, pki: Pki, tmp_path: Path) -> None:
    """With the authority and the certificate as files; without --tls there is no answer."""
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
