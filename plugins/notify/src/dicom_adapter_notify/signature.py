"""Signatures of webhooks, as the Standard Webhooks specification (https://www.standardwebhooks.com) defines them.

The signature covers the id, the time and the body of a request. A receiver computes it again with the shared secret,
compares both, and refuses old times. So a request cannot be forged, changed, or sent again much later.
"""

from __future__ import annotations

import base64
import binascii
import hmac

PREFIX = "whsec_"  # a secret with this prefix is the key in Base64; any other secret is the key itself


def key_of(secret: str) -> bytes:
    """Return the key in a secret. Raises ValueError if the text after the prefix is not Base64."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be Base64 after {PREFIX}") from None


def headers(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a signed request. `timestamp`: seconds since 1970-01-01 UTC."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
