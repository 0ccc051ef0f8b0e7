"""[dicom.tls], and callers that are identified by certificates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_adapter.config import Loaded
from dicom_adapter.config.listening import ClientCertificates, TlsConfig, TlsProfile

Read = Callable[[str], Loaded]
Problems = Callable[[str], dict[str, str]]


def test_a_certificate_is_sufficient(read: Read, minimal: str, tmp_path: Path) -> None:
    """Relative paths are relative to the configuration's folder.

    Without client-ca, no client certificate is requested.
    """
    config = read(minimal + '[dicom.tls]\ncertificate = "adapter.pem"\n').config
    assert config is not None
    assert TlsConfig(certificate=tmp_path / "adapter.pem") == config.dicom.tls


def test_all_tls_settings_are_read(read: Read, minimal: str, tmp_path: Path) -> None:
    """The settings are the files, the rule for client certificates, and the profile."""
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


def test_client_certificates_need_an_authority(problems: Problems) -> None:
    """Without an authority, client certificates would not be verified."""
    reported = problems('[dicom.tls]\ncertificate = "a.pem"\nclient-certificates = "required"\n')
    assert "client-certificates needs client-ca" in reported["dicom.tls"]


def test_a_caller_with_a_certificate_name_needs_client_certificates(problems: Problems) -> None:
    """The problem is reported with and without TLS."""
    callers = 'allowed-callers = ["CT1", {ae-title = "CT2", certificate = "ct2.example"}]\n'
    for tls in ("", '[dicom.tls]\ncertificate = "a.pem"\n'):
        reported = problems(f"[ae-titles.X]\n{callers}[ae-titles.X.settings]\npipeline-x = '1'\n{tls}")
        assert ["ae-titles.X.allowed-callers[1].certificate"] == list(reported)
        assert "needs a [dicom.tls] table with client-ca" in reported["ae-titles.X.allowed-callers[1].certificate"]
