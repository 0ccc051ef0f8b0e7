"""Settings of a plugin: a frozen attrs class whose fields are declared with `setting`.

    @frozen(kw_only=True)
    class Settings:
        wait_for: int = setting(default=2, validator=at_least(1), help="Series to wait for.")
        pipelines: Mapping[str, str] = setting(prefix="pipeline-", help="A pipeline's identifier.")

In TOML the field `wait_for` is written `wait-for`. A field with a `prefix` is a mapping of all keys with that prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from attrs import NOTHING, Attribute, field, frozen

PREFIX = "dicom_adapter.prefix"  # metadata key of an attrs field: its `prefix`
HELP = "dicom_adapter.help"  # metadata key of an attrs field: its `help`

Number = TypeVar("Number", int, float)
Validator = Callable[[Any, "Attribute[Any]", Any], None]


def setting(
    *,
    default: Any = NOTHING,
    factory: Callable[[], Any] | None = None,
    validator: Validator | list[Validator] | None = None,
    prefix: str | None = None,
    help: str,  # noqa: A002 - the name that command-line libraries use
) -> Any:
    """Declare one setting.

    A setting with a `default` or `factory` is optional. `validator` has the signature of attrs, `validator(instance,
    attribute, value)`. `instance` is None, because settings are validated one by one so that all errors are reported
    together. A validator raises ValueError with a message that continues after the value, such as "must be at least 5
    seconds". The reference documentation shows `help` as the description of the setting, and the first line of the
    validator's docstring, such as "at least 5 seconds", as its rule.
    """
    metadata = {HELP: help, PREFIX: prefix}
    if factory is not None:
        return field(factory=factory, validator=validator, metadata=metadata, kw_only=True)
    return field(default=default, validator=validator, metadata=metadata, kw_only=True)


def at_least(minimum: Number, unit: str = "") -> Validator:
    """Return a validator that accepts None and numbers of at least `minimum`."""

    def check(_instance: Any, _attribute: Attribute[Any], value: Number | None) -> None:
        if value is not None and value < minimum:
            raise ValueError(f"must be {check.__doc__}")

    check.__doc__ = f"at least {minimum}{unit and ' ' + unit}"
    return check


def between(low: Number, high: Number, unit: str = "") -> Validator:
    """Return a validator that accepts None and numbers from `low` to `high`, both included."""

    def check(_instance: Any, _attribute: Attribute[Any], value: Number | None) -> None:
        if value is not None and not low <= value <= high:
            raise ValueError(f"must be from {check.__doc__}")

    check.__doc__ = f"{low} to {high}{unit and ' ' + unit}"
    return check


def not_empty(_instance: Any, _attribute: Attribute[Any], value: Any) -> None:
    """not empty

    Validate that a text, list or table is not empty.
    """
    if not value:
        raise ValueError("must not be empty")


class ByteSize(int):
    """Number of bytes; in TOML an integer, or a text with a unit such as "5 GB" (10⁹) or "5 GiB" (2³⁰)."""


class SubmitterReference(str):
    """Name of a [submitters.<name>] table. The configuration is refused if it has no such table."""

    __slots__ = ()


class Secret(str):
    """Text that is hidden in logs and `repr`; in TOML a table with its source: {env = "…"} or {file = "…"}."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(…)"


@frozen(kw_only=True)
class PipelineReference:
    """A pipeline to submit jobs to; in TOML its id as text, or a table such as {id = "…", submitter = "gpu"}."""

    id: str = setting(help="The pipeline's id.")
    submitter: SubmitterReference | None = setting(
        default=None, help="Name of a `[submitters.<name>]` table; if omitted, the submitter of the AE title."
    )
