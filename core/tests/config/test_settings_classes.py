"""Matching the keys of a table with the fields, validators and rules of a plugin's settings class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from attrs import frozen

from dicom_adapter import NoSettings, at_least, not_empty, setting

Structure = Callable[[type, str], tuple[Any, dict[str, str]]]


def test_a_misspelt_setting_is_reported_with_the_nearest_key(settings: Structure) -> None:
    """Underscores are not silently accepted as hyphens."""

    @frozen(kw_only=True)
    class Waits:
        max_wait: int = setting(default=1, help="")

    _, problems = settings(Waits, "max_wait = 1\nmaxwiat = 2\nzzz = 3")
    assert "max_wait is not a known key; did you mean 'max-wait'? (known: max-wait)" in problems["max_wait"]
    assert "did you mean 'max-wait'?" in problems["maxwiat"]
    assert "zzz is not a known key (known: max-wait)" in problems["zzz"]


def test_a_class_without_settings_accepts_no_key(settings: Structure) -> None:
    """The message lists no known key."""
    assert "a is not a known key (known: none)" in settings(NoSettings, "a = 1")[1]["a"]
    assert NoSettings() == settings(NoSettings, "")[0]


@frozen(kw_only=True)
class Prefixed:
    pipelines: Mapping[str, int] = setting(prefix="pipeline-", help="Pipelines.")
    pipeline_limit: int = setting(default=9, help="")


def test_a_prefix_collects_its_keys(settings: Structure) -> None:
    """A key that has a field is not collected."""
    assert (Prefixed(pipelines={"a": 1, "b-c": 2}, pipeline_limit=3), {}) == settings(
        Prefixed, "pipeline-a = 1\npipeline-b-c = 2\npipeline-limit = 3"
    )


def test_mistakes_among_collected_keys_have_the_paths_of_the_keys(settings: Structure) -> None:
    """The path is that of the key in the file."""
    _, problems = settings(Prefixed, "pipeline-a = 'x'\npipeline-b = true\npipeline- = 1\npipelines = 1")
    assert {"pipeline-a", "pipeline-b", "pipeline-", "pipelines"} == problems.keys()
    assert "(known: pipeline-<name>, pipeline-limit)" in problems["pipeline-"]


def test_a_required_prefix_needs_a_key(settings: Structure) -> None:
    """Without a default, at least one key is required. With a default, a validator may still require one."""
    assert "pipeline-<name> must be given at least once (Pipelines)" in settings(Prefixed, "")[1]["pipeline-<name>"]

    @frozen(kw_only=True)
    class Validated:
        pipelines: Mapping[str, str] = setting(prefix="p-", factory=dict, validator=not_empty, help="")

    assert "p-<name> must not be empty" in settings(Validated, "")[1]["p-<name>"]


def test_the_validators_of_attrs_are_supported(settings: Structure) -> None:
    """The problem has only the message of the validator's error, not the other arguments of the error."""

    @frozen(kw_only=True)
    class Validated:
        colour: str = setting(default="red", validator=attrs.validators.in_(["red", "blue"]), help="")
        both: int = setting(default=3, validator=[at_least(1), attrs.validators.lt(10)], help="")
        kind: Any = setting(default=1, validator=attrs.validators.instance_of(int), help="")
        own: int = attrs.field(default=1)

        @own.validator
        def _check(self, _attribute: Any, value: int) -> None:
            if value > self.both:
                raise ValueError("own must not be above both")

    _, problems = settings(Validated, "colour = 'green'\nboth = 10\nkind = 'x'\nown = 5")
    assert {"colour", "both", "kind"} == problems.keys()
    assert "= 'green', 'colour' must be in ['red', 'blue'] (got 'green')" in problems["colour"]
    assert "'both' must be < 10: 10" in problems["both"]
    assert "NOTHING" not in str(problems)
    _, problems = settings(Validated, "own = 5")
    assert ["AE title 'X': settings is not valid: own must not be above both"] == list(problems.values())


def test_a_rule_across_settings_is_reported_at_the_table(settings: Structure) -> None:
    """The rule is checked only if each setting is valid."""

    @frozen(kw_only=True)
    class Range:
        low: int = setting(default=0, help="")
        high: int = setting(default=1, help="")

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low must not be above high")

    assert (Range(low=1, high=2), {}) == settings(Range, "low = 1\nhigh = 2")
    assert ["ae-titles.X.settings"] == list(settings(Range, "low = 3")[1])
    assert "settings is not valid: low must not be above high" in settings(Range, "low = 3")[1]["ae-titles.X.settings"]


@pytest.mark.parametrize("failing", ["validator", "construction", "type"])
def test_a_settings_class_with_a_bug_is_a_problem_not_a_crash(settings: Structure, failing: str) -> None:
    """Any exception of a settings class is one problem. The other problems are reported, too."""

    def wrong(*_: Any) -> None:
        raise ZeroDivisionError("oh")

    @frozen(kw_only=True)
    class Buggy:
        a: int = setting(default=1, validator=wrong if failing == "validator" else None, help="")
        b: complex = setting(default=1j, help="")

        def __attrs_post_init__(self) -> None:
            if failing == "construction":
                wrong()

    structured, problems = settings(Buggy, "b = 1" if failing == "type" else "a = 1")
    assert structured is None
    assert 1 == len(problems)
    assert "complex" in str(problems) if failing == "type" else "ZeroDivisionError: oh" in str(problems)
