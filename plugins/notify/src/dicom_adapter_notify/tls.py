"""TLS of clients."""

from __future__ import annotations

import ssl
from pathlib import Path

from dicom_adapter import Retriable


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies servers: with the authorities of the system, or only those in `ca_file`.

    Raises Retriable if the file cannot be used: it may be replaced at this moment.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as failure:
        reason = failure.strerror or type(failure).__name__
        raise Retriable(f"ca-file {ca_file} cannot be used: {reason}; it must contain certificates in PEM") from None
