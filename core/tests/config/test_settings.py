"""Settings classes for plugin authors: a type accepts only values of that type; each problem has a path."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Optional

import attrs
import cattrs
import pytest
from attrs import frozen
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dicom_adapter import ByteSize, JobPriority, at_least, between, setting
from dicom_adapter.config import convert
from dicom_adapter.config.problems import flatten

Structure = Callable[[type, str], tuple[Any, dict[str, str]]]


class Level(Enum):
    LOW = 1
    HIGH = 2


@frozen(kw_only=True)
class Server:
    host: str = setting(help="Name of the host.")
    port: int = setting(default=80, validator=between(1, 65535), help="Its port.")


@frozen(kw_only=True)
class Everything:
    flag: bool = setting(default=False, help="")
    count: int = setting(default=1, validator=at_least(1), help="")
    ratio: float = setting(default=0.5, help="")
    title: str = setting(default="t", help="")
    priority: JobPriority = setting(default=JobPriority.NORMAL, help="")
    level: Level = setting(default=Level.LOW, help="")
    mode: Literal["fast", "slow"] = setting(default="fast", help="")
    size: ByteSize = setting(default=ByteSize(0), help="")
    folder: Path | None = setting(default=None, help="")
    maybe: Optional[int] = setting(default=None, help="")  # noqa: UP045 - both spellings are supported
    either: int | str = setting(default=0, help="")
    numbers: Sequence[int] = setting(default=(), help="")
    names: list[str] = setting(factory=list, help="")
    pair: tuple[int, str] = setting(default=(0, ""), help="")
    labels: frozenset[str] = setting(default=frozenset(), help="")
    table: Mapping[str, int] = setting(factory=dict, help="")
    servers: tuple[Server, ...] = setting(default=(), help="")
    when: datetime.time | None = setting(default=None, help="")
    day: datetime.date | None = setting(default=None, help="")
    anything: Any = setting(default=None, help="")


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("flag", "true", True),
        ("count", "7", 7),
        ("ratio", "2", 2.0),
        ("ratio", "2.5", 2.5),
        ("title", "'x'", "x"),
        ("priority", "'higher'", JobPriority.HIGHER),
        ("level", "2", Level.HIGH),
        ("mode", "'slow'", "slow"),
        ("size", "17", 17),
        ("size", "'5 GB'", 5 * 10**9),
        ("size", "'512 MiB'", 512 * 2**20),
        ("size", "'1.5k'", 1500),
        ("folder", "'/x'", Path("/x")),
        ("maybe", "3", 3),
        ("either", "3", 3),
        ("either", "'3'", "3"),
        ("numbers", "[1, 2]", (1, 2)),
        ("names", "['a']", ["a"]),
        ("pair", "[1, 'a']", (1, "a")),
        ("labels", "['a', 'a']", frozenset("a")),
        ("table", "{a = 1}", {"a": 1}),
        ("servers", "[{host = 'a'}]", (Server(host="a"),)),
        ("when", "07:30:00", datetime.time(7, 30)),
        ("day", "2024-02-29", datetime.date(2024, 2, 29)),
        ("anything", "[1, 'a']", [1, "a"]),
    ],
)
def test_valid_values_are_accepted(settings: Structure, field: str, written: str, expected: Any) -> None:
    """The value has exactly the declared type."""
    structured, problems = settings(Everything, f"{field} = {written}")
    assert {} == problems
    assert expected == getattr(structured, field)
    assert type(expected) is type(getattr(structured, field)) or field == "size"  # a ByteSize equals an int


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("flag", "'false'", "= 'false', must be true or false"),
        ("flag", "0", "= 0, must be true or false"),
        ("count", "true", "= true, must be a whole number"),
        ("count", "'x'", "= 'x', must be a whole number"),
        ("count", "1.0", "= 1.0, must be a whole number"),
        ("count", "9223372036854775808", "at most 64 bits"),
        ("count", "0x" + "f" * 5000, "= a very large number, must be a whole number of at most 64 bits"),
        ("ratio", "true", "must be a number"),
        ("ratio", "'1'", "must be a number"),
        ("ratio", "nan", "must be a finite number"),
        ("ratio", "-inf", "must be a finite number"),
        ("ratio", "1e999", "must be a finite number"),
        ("ratio", "0x" + "f" * 5000, "at most 64 bits"),
        ("title", "1", "= 1, must be a text in quotes"),
        ("title", "{a = 1}", "title must be a text in quotes"),
        (
            "priority",
            "'hihger'",
            "must be one of lower, normal, higher, immediate; did you mean 'higher'? (the default is normal)",
        ),
        ("priority", "1", "must be one of lower, normal"),
        ("priority", "[]", "must be one of lower, normal"),
        ("level", "true", "must be one of 1, 2"),
        ("mode", "'fats'", "must be one of fast, slow; did you mean 'fast'?"),
        ("size", "'5 XB'", "must be a size"),
        ("size", "'-5 GB'", "must be a size"),
        ("size", "'99999999999 PB'", "at most 64 bits"),
        ("size", "1.5", "must be a number of bytes or a text"),
        ("size", "true", "must be a number of bytes or a text"),
        ("folder", "''", "must be a path"),
        ("folder", r'"a\u0000"', "must be a path"),
        ("folder", "'~nobody-of-this-name/x'", "must not begin with '~' for a user without a home folder"),
        ("maybe", "'x'", "must be a whole number"),
        ("either", "true", "must be a whole number, without quotes, or must be a text in quotes"),
        ("numbers", "'12'", "must be a list"),
        ("pair", "[1]", "must have 2 elements"),
        ("table", "[]", "must be a table"),
        ("when", "'07:30'", "must be a TOML time"),
        ("day", "2024-02-29T00:00:00", "must be a TOML date"),
        ("count", "0\ntitle = '" + "x" * 300 + "'", "= 0, must be at least 1"),  # the long `title` is valid
    ],
)
def test_invalid_values_are_refused(settings: Structure, field: str, written: str, expected: str) -> None:
    """No value is converted. The message has the value and the rule."""
    structured, problems = settings(Everything, f"{field} = {written}")
    assert structured is None
    assert expected in problems.get(field, "")
    assert 1 == len(problems)


def test_long_values_are_truncated(settings: Structure) -> None:
    """Sixty characters are enough to find the value in the file."""
    _, problems = settings(Everything, f"count = '{'x' * 300}'")
    assert "= '" + "x" * 58 + "…, must be" in problems["count"]


def test_every_invalid_element_is_reported(settings: Structure) -> None:
    """Lists and tables report all of their problems, with index or key."""
    _, problems = settings(
        Everything,
        """
        numbers = [1, 'a', 3, true]
        table = {a = 'x', b = 1, "c d" = 2.0}
        servers = [{host = 'a'}, {port = 0, hots = 'b'}, 5]
        """,
    )
    assert {
        "numbers[1]",
        "numbers[3]",
        "table.a",
        'table."c d"',
        "servers[1].port",
        "servers[1].hots",
        "servers[1].host",
        "servers[2]",
    } == problems.keys()
    assert "servers[1].host is missing (Name of the host)" in problems["servers[1].host"]


def test_the_converter_raises_errors_of_cattrs(tmp_path: Path) -> None:
    """The errors are cattrs' exception groups, so that cattrs' tools can read them."""
    converter = convert.make_converter(tmp_path, {})
    with pytest.raises(cattrs.ClassValidationError) as caught:
        converter.structure({"host": 1, "port": 0}, Server)
    assert 2 == len(cattrs.transform_error(caught.value))
    assert [("host",), ("port",)] == [error.where for error in flatten(caught.value)]


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [field.name for field in attrs.fields(Everything)] + ["unknown"]


@given(st.dictionaries(st.sampled_from(KEYS), TOML_VALUES))
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_table_gives_settings_or_errors(table: dict[str, Any]) -> None:
    """Only cattrs' exception groups are raised, and each error has a path in the table."""
    converter = convert.make_converter(Path("/"), {})
    try:
        assert isinstance(converter.structure(table, Everything), Everything)
    except cattrs.BaseValidationError as group:
        errors = list(flatten(group))
        assert errors
        assert all(fault.where[0] in table for fault in errors)
        assert all(str(fault.problem(table)) for fault in errors)
