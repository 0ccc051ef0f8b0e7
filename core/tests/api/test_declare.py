"""Declaration of a plugin's settings class."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pytest
from attrs import frozen

from dicom_adapter import JobProcessorBase, NoSettings, StorageBackend, Submitter

T = TypeVar("T")


@frozen
class Mine:
    pass


@frozen
class Other:
    pass


BASES: list[Any] = [JobProcessorBase, Submitter, StorageBackend]


@pytest.mark.parametrize("base", BASES)
def test_the_type_argument_of_the_base_is_the_settings_class(base: Any) -> None:
    """Processors, submitters and storage backends declare their settings class in this way."""

    class Declared(base[Mine]): ...

    assert Mine is Declared.settings_type


@pytest.mark.parametrize("base", BASES)
def test_without_an_argument_there_are_no_settings(base: Any) -> None:
    """Any key in the plugin's table is then an error."""

    class Declared(base): ...

    assert NoSettings is Declared.settings_type


def test_a_subclass_inherits_the_settings_class() -> None:
    """The settings class may come from the second base; the subclass may declare another settings class."""

    class First(JobProcessorBase[Mine]): ...

    class Mixin: ...

    class Second(Mixin, First): ...

    class Third(Second, JobProcessorBase[Other]): ...  # type: ignore[misc] # the declaration is what is under test

    assert (Mine, Mine, Other) == (First.settings_type, Second.settings_type, Third.settings_type)


def test_an_intermediate_base_may_have_a_type_variable() -> None:
    """The registered class must bind the type variable."""

    class Middle(JobProcessorBase[T]): ...

    class Declared(Middle[Mine], JobProcessorBase[Mine]): ...

    assert Mine is Declared.settings_type


def test_other_generic_bases_are_ignored() -> None:
    """A plugin class may be generic for other reasons."""

    class Box(Generic[T]): ...

    class Declared(Box[int], JobProcessorBase[Mine]): ...

    assert Mine is Declared.settings_type


@pytest.mark.parametrize("argument", [int, dict, "Settings"])
def test_a_settings_class_must_be_an_attrs_class(argument: Any) -> None:
    """Another class is refused at import; the error names the plugin's class and the reason."""
    with pytest.raises(TypeError, match=r"Declared: the settings class .* must be an attrs class"):

        class Declared(JobProcessorBase[argument]): ...


def test_an_intermediate_class_passes_the_settings_class_on() -> None:
    """The intermediate class may have further type variables.

    Verified to fail when only the last base is read, which gives NoSettings.
    """
    S = TypeVar("S")

    class Middle(JobProcessorBase[T]): ...

    class Lower(Middle[S], Generic[T, S]): ...

    class Direct(Middle[Mine]): ...

    class Deep(Lower[int, Other]): ...

    class Heir(Deep): ...

    assert (Mine, Other, Other) == (Direct.settings_type, Deep.settings_type, Heir.settings_type)
    assert NoSettings is Middle.settings_type
