"""Every peer that is rejected is reported to the storage SCP: by its AE titles, or by its address."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, RejectedPeer, Rejection, RejectionCause
from dicom_adapter.config.listening import TlsConfig
from support.certificates import Pki
from support.conversation import associate
from support.listening import SECONDS, Listen, Listening, wait_until

NO_DICOM = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def rejected_after(listening: Listening, sent: bytes) -> RejectedPeer:
    """Connect, send bytes, and return the first rejection that the server records."""
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as connection:
        connection.sendall(sent)
        wait_until(lambda: bool(listening.decisions.rejected))
    [rejected] = listening.decisions.rejected
    assert "127.0.0.1" == rejected.peer_address
    assert rejected.reason
    return rejected


def test_a_rejected_association_is_reported_with_its_ae_titles(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = listen()

    def reject(_id: str, _request: AssociationRequest, *_counts: int) -> AssociationDecision:
        limit = RejectionCause.LIMIT
        return AssociationDecision(rejection=Rejection.LOCAL_LIMIT_EXCEEDED, cause=limit, reason="too many")

    monkeypatch.setattr(listening.decisions, "decide", reject)
    rejected = rejected_after(listening, associate())
    assert RejectionCause.LIMIT is rejected.cause
    assert rejected.calling_ae_title
    assert rejected.called_ae_title


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (associate(version=2), "version 1 of the upper layer protocol is not requested"),
        (associate(application="1.2.3"), "the application context is not that of DICOM, 1.2.840.10008.3.1.1.1"),
    ],
)
def test_an_association_that_the_service_provider_rejects_is_reported_and_logged(
    listen: Listen, sent: bytes, reason: str
) -> None:
    """PS3.8 table 9-21: there is no decision about these requests.

    Verified to fail when the upper layer does not report them.
    """
    listening = listen()
    rejected = rejected_after(listening, sent)
    assert ("CT1", "LUNG", RejectionCause.PROTOCOL, reason) == (
        rejected.calling_ae_title,
        rejected.called_ae_title,
        rejected.cause,
        rejected.reason,
    )
    assert reason == listening.wait_for("association_rejected")["reason"]


def test_an_association_without_a_decision_is_reported(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example, the ledger is locked."""
    listening = listen()

    def fail(*_request: Any) -> AssociationDecision:
        raise OSError

    monkeypatch.setattr(listening.decisions, "decide", fail)
    rejected = rejected_after(listening, associate())
    assert (RejectionCause.UNDECIDED, "no decision was possible") == (rejected.cause, rejected.reason)


def test_a_peer_that_does_not_send_dicom_is_reported_by_its_address(listen: Listen) -> None:
    rejected = rejected_after(listen(), NO_DICOM)
    assert (RejectionCause.NOT_DICOM, "", "") == (rejected.cause, rejected.calling_ae_title, rejected.called_ae_title)


def test_a_peer_without_tls_is_reported_by_its_address(listen: Listen, tmp_path: Path) -> None:
    """A peer that only connects and disconnects, such as the health check of a load balancer, is not reported."""
    certificate, key = Pki(tmp_path).adapter()
    listening = listen(tls=TlsConfig(certificate=certificate, key=key))
    socket.create_connection(("127.0.0.1", listening.port), SECONDS).close()
    listening.wait_for("tls_handshake_failed")
    assert RejectionCause.TLS is rejected_after(listening, associate()).cause


def test_a_connection_above_the_limit_is_reported_by_its_address(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening = listen()
    monkeypatch.setattr(listening.server.admission, "open_connection", lambda *_peer, **_kind: "1 connection is open")
    assert RejectionCause.LIMIT is rejected_after(listening, b"").cause
