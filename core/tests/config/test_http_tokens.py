"""The tokens of [http]: names, roles and secrets."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_adapter import Secret
from dicom_adapter.config.listening import HttpConfig, TokenConfig, TokenRole

SECRET = "0123456789abcdef"
ANNA = TokenConfig(role=TokenRole.OPERATOR, secret=Secret(SECRET))


def config(**values: Any) -> HttpConfig:
    return HttpConfig(**values)


def test_a_token_with_a_name_allows_other_addresses_than_loopback() -> None:
    assert config(bind="0.0.0.0", tokens={"anna": ANNA}).has_token
    with pytest.raises(ValueError, match="a token is required"):
        config(bind="0.0.0.0")


def test_two_tokens_must_not_have_the_same_secret() -> None:
    """Otherwise the name in an event would be ambiguous. The message does not contain the secret."""
    with pytest.raises(ValueError, match=r"tokens\.anna must not have the same secret as token") as caught:
        config(token=Secret(SECRET), tokens={"anna": ANNA})
    with pytest.raises(ValueError, match=r"tokens\.bert must not have the same secret as tokens\.anna"):
        config(tokens={"anna": ANNA, "bert": ANNA})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["token", "local"])
def test_names_with_a_meaning_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"tokens.{name} must have another name"):
        config(tokens={name: ANNA})


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        TokenConfig(role=TokenRole.VIEWER, secret=Secret("short"))
