"""Secrets are read from files and environment variables, and are never shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from attrs import frozen

from dicom_adapter import Secret, between, setting

Structure = Callable[[type, str], tuple[Any, dict[str, str]]]


@frozen(kw_only=True)
class Login:
    password: Secret = setting(help="")


@frozen(kw_only=True)
class Guarded:
    token: Secret | None = setting(default=None, help="")
    tokens: tuple[Secret, ...] = setting(default=(), help="")
    keys: Mapping[str, Secret] = setting(prefix="key-", factory=dict, help="")
    login: Login | None = setting(default=None, help="")
    strict: Secret | None = setting(default=None, validator=attrs.validators.optional(between("a", "b")), help="")  # type: ignore[type-var] # texts have an order, too

    def __attrs_post_init__(self) -> None:
        if self.tokens:
            raise ValueError(f"no token like {self.tokens[0]!s}")


def test_secrets_come_from_the_environment_or_a_file(
    settings: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line end at the end of a file is not part of the secret.

    A relative path is relative to the configuration's folder.
    """
    monkeypatch.setenv("A_TOKEN", "hunter2")
    (tmp_path / "key").write_text(" päss \n", encoding="utf-8")
    structured, problems = settings(Guarded, "token = {env = 'A_TOKEN'}\nkey-a = {file = 'key'}")
    assert {} == problems
    assert ("hunter2", {"a": " päss "}) == (structured.token, structured.keys)
    assert isinstance(structured.token, Secret)
    assert "hunter2" not in repr(structured)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'hunter2'", "must not be in this file"),
        ("5", "must be {env"),
        ("{}", "must be {env"),
        ("{env = 'A', file = 'b'}", "must be {env"),
        ("{envv = 'hunter2'}", "must be {env"),
        ("{env = 5}", "must be a table whose env is a text"),
        ("{env = 'NOT_SET_ANYWHERE'}", "the environment variable 'NOT_SET_ANYWHERE', which is not set"),
        ("{env = 'EMPTY'}", "must not be empty; env 'EMPTY' is empty"),
        ("{file = 'missing'}", "missing': No such file or directory"),
        ("{file = 'binary'}", "which is not UTF-8 text"),
    ],
)
def test_secrets_that_cannot_be_read_are_problems(
    settings: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, expected: str
) -> None:
    """The message has the reason and never the secret."""
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    _, problems = settings(Guarded, f"token = {written}")
    assert expected in problems["token"]
    assert "hunter2" not in str(problems)
    assert "= " not in problems["token"].partition("must")[0]  # the value is not shown


@pytest.mark.parametrize(
    "written",
    [
        "tokens = ['hunter2']",
        "tokens = 'hunter2'",
        "key-a = 'hunter2'",
        "login = 'hunter2'",
        "login = ['hunter2']",
        "login = {password = 'hunter2'}",
        "login = {pasword = 'hunter2'}",
        "tokn = 'hunter2'",
        "strict = {env = 'A_TOKEN'}",
        "tokens = [{env = 'A_TOKEN'}]",
    ],
)
def test_secrets_are_never_shown(settings: Structure, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    """No message shows a secret that is misplaced, has a misspelt key, or is refused by a validator or constructor."""
    monkeypatch.setenv("A_TOKEN", "hunter2")
    structured, problems = settings(Guarded, written)
    assert structured is None
    assert problems
    assert "hunter2" not in str(problems)
