"""[dicom.tls], and callers that are known by their certificates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_adapter.config import Loaded
from dicom_adapter.config.listening import ClientCertificates, TlsConfig, TlsProfile

Read = Callable[[str], Loaded]
Problems = Callable[[str], dict[str, str]]


def test_a_certificate_is_enough(read: Read, minimal: str, tmp_path: Path) -> None:
    """Relative paths start at the configuration's folder; without client-ca nobody is asked for a certificate."""
    config = read(minimal + '[dicom.tls]\ncertificate = "adapter.pem"\n').config
    assert config is not None
    assert TlsConfig(certificate=tmp_path / "adapter.pem") == config.dicom.tls


def test_everything_can_be_said(read: Read, minimal: str, tmp_path: Path) -> None:
    """Files, whether callers need a certificate, the profile."""
    lines = """
[dicom.tls]
certificate = "adapter.pem"
key = "/etc/adapter.key"
client-ca = "ca.pem"
client-certificates = "optional"
profile = "bcp195-non-downgrading"
"""
    config = read(minimal + lines).config
    assert config is not None
    assert (
        TlsConfig(
            certificate=tmp_path / "adapter.pem",
            key=Path("/etc/adapter.key"),
            client_ca=tmp_path / "ca.pem",
            client_certificates=ClientCertificates.OPTIONAL,
            profile=TlsProfile.NON_DOWNGRADING,
        )
        == config.dicom.tls
    )


def test_certificates_of_callers_need_an_authority(problems: Problems) -> None:
    """Else somebody would believe that they are looked at."""
    found = problems('[dicom.tls]\ncertificate = "a.pem"\nclient-certificates = "required"\n')
    assert "client-certificates needs client-ca" in found["dicom.tls"]


def test_a_caller_known_by_a_certificate_needs_one_to_be_asked_for(problems: Problems) -> None:
    """With TLS and without it."""
    callers = 'allowed-callers = ["CT1", {ae-title = "CT2", certificate = "ct2.example"}]\n'
    for tls in ("", '[dicom.tls]\ncertificate = "a.pem"\n'):
        found = problems(f"[ae-titles.X]\n{callers}[ae-titles.X.settings]\npipeline-x = '1'\n{tls}")
        assert ["ae-titles.X.allowed-callers[1].certificate"] == list(found)
        assert "needs a [dicom.tls] table with client-ca" in found["ae-titles.X.allowed-callers[1].certificate"]
    assert "ae-title, host or certificate must be given" in str(problems("[ae-titles.X]\nallowed-callers = [{}]\n"))
