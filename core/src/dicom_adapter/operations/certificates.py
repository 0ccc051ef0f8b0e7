"""Certificates that expire: the certificates of the configuration, and the problems that follow from their dates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve

from dicom_adapter.api.certificates import Certificate, certificates_in_file
from dicom_adapter.api.counts import counted
from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.submitter import Submitter
from dicom_adapter.config.model import Config
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.watch import PartFinding

WARN_BEFORE = timedelta(days=30)
CALL_SECONDS = 10.0  # time limit for a call of a submitter, which may connect to its platform


def certificates_of_listener(config: Config) -> list[Certificate]:
    """Return the certificates of the table [dicom.tls]."""
    tls = config.dicom.tls
    if tls is None:
        return []
    return [
        *certificates_in_file(tls.certificate, "dicom.tls: certificate"),
        *certificates_in_file(tls.client_ca, "dicom.tls: authority in", is_authority=True),
    ]


def certificates_of_submitters(
    submitters: Mapping[str, Submitter[Any]], on_failure: Callable[[str, str], None]
) -> list[Certificate]:
    """Return the certificates that the submitters report.

    `on_failure` is called with the name of a submitter that fails, and the error; its certificates are unknown.
    """
    certificates: list[Certificate] = []
    for name, submitter in submitters.items():
        try:
            reported = list(call_within(CALL_SECONDS, submitter.certificates))
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit
            on_failure(name, str(failure) if isinstance(failure, TookTooLong) else describe_failure(failure))
        else:
            certificates += [
                evolve(certificate, subject=f"submitter {name}: {certificate.subject}") for certificate in reported
            ]
    return certificates


def owner_of(certificate: Certificate) -> str:
    """Return the owner of a certificate as the metrics name it: "listener", or for example "submitter platform".

    Paths and addresses in the subject are left out.
    """
    owner = certificate.subject.partition(": ")[0]
    return owner if owner.startswith("submitter ") else "listener"


def describe(certificate: Certificate, now: datetime) -> str:
    """Return for example `client certificate /etc/adapter.pem: 12 days left (until 2026-12-12)`."""
    day = f"{certificate.expires_at:%Y-%m-%d}"
    if certificate.expires_at <= now:
        return f"{certificate.subject}: expired on {day}"
    days = (certificate.expires_at - now).days
    return f"{certificate.subject}: {counted(days, 'day')} left (until {day})"


def assess_certificates(certificates: Iterable[Certificate], now: datetime) -> PartFinding:
    """Return the finding: degraded 30 days before a certificate expires, failing when it has expired.

    An expired authority is never failing: connections to peers with certificates of other authorities work.
    """
    due = sorted(
        (certificate for certificate in certificates if certificate.expires_at - now < WARN_BEFORE),
        key=lambda certificate: certificate.expires_at,
    )
    if not due:
        return PartFinding()
    has_expired = any(certificate.expires_at <= now and not certificate.is_authority for certificate in due)
    reason = "; ".join(describe(certificate, now) for certificate in due)
    return PartFinding(state=PartState.FAILING if has_expired else PartState.DEGRADED, reason=reason)
