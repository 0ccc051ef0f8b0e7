"""The configured tokens, each with the principal that it belongs to."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from dicom_adapter.config.listening import HttpConfig
from dicom_adapter.web.access.principal import Principal, Role

WITHOUT_NAME = "token"  # name of the principal of the key `token` of the table [http]


class Tokens:
    """The tokens of the table [http]. Immutable: a reload creates other tokens."""

    def __init__(self, config: HttpConfig) -> None:
        # Digests have equal lengths, so that the time of a comparison does not depend on the length of a token.
        self._principals = [(_digest(secret.encode()), principal) for secret, principal in _configured(config)]

    def __bool__(self) -> bool:
        return bool(self._principals)

    def find(self, token: bytes) -> Principal | None:
        """Return the principal of a token, or None. The time of the call does not depend on the tokens."""
        digest, found = _digest(token), None
        for known, principal in self._principals:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def _configured(config: HttpConfig) -> Iterator[tuple[str, Principal]]:
    if config.token is not None:
        yield config.token, Principal(name=WITHOUT_NAME, role=Role.OPERATOR)
    for name, token in config.tokens.items():
        yield token.secret, Principal(name=name, role=Role(token.role.value))


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
