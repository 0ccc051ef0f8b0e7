"""Settings: accepted values, refused values, and error messages."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from dicom_adapter import JobPriority, PipelineReference
from dicom_adapter_aetitle.settings import AeTitleSettings

PIPELINES = {"lung": PipelineReference(id="p1")}


def problem(field: str, value: Any) -> str:
    """Return the message of the validator of `field` for `value`, called as the core calls it; "" if valid."""
    attribute = getattr(attrs.fields(AeTitleSettings), field)
    if field == "pipelines":
        value = {name: PipelineReference(id=pipeline_id) for name, pipeline_id in value.items()}
    try:
        attribute.validator(None, attribute, value)
    except ValueError as error:
        return str(error)
    return ""


def test_only_a_pipeline_is_required() -> None:
    """All other settings have documented defaults: normal priority, 5 s, by study, no `max-wait`."""
    settings = AeTitleSettings(pipelines=PIPELINES)

    assert (
        settings.priority,
        settings.quiet_seconds,
        settings.effective_group_by,
        settings.max_wait,
    ) == (JobPriority.NORMAL, 5.0, "study", None)


@pytest.mark.parametrize(
    ("timeout", "group_by", "expected"),
    [
        (None, None, "study"),
        (5.0, None, "patient"),
        (5.0, "study", "study"),
        (None, "patient", "patient"),
        (None, "series", "series"),
        (None, "(0008,0050)", "AccessionNumber"),
        (None, "00080050", "AccessionNumber"),
        (None, "0020000d", "StudyInstanceUID"),
        (None, "(6000,0010)", "OverlayRows"),
    ],
)
def test_the_default_grouping_depends_on_the_timeout(
    timeout: float | None, group_by: str | None, expected: str
) -> None:
    """Grouping is by patient with a timeout, otherwise by study. A setting takes precedence; tags become keywords."""
    assert expected == AeTitleSettings(pipelines=PIPELINES, timeout=timeout, group_by=group_by).effective_group_by


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("timeout", 4.9, "must be at least 5 seconds"),
        ("timeout", float("nan"), "must be at most 31536000 seconds (a year)"),
        ("timeout", float("inf"), "must be at most 31536000 seconds (a year)"),
        ("max_wait", 0.0, "must be more than 0 seconds"),
        ("max_wait", float("nan"), "must be more than 0 seconds"),
        ("max_wait", float("inf"), "must be at most 31536000 seconds (a year)"),
        ("pipelines", {}, 'must be given at least once, such as pipeline-lung = "<the pipeline\'s id>"'),
        ("pipelines", {"": "p1"}, "must have a name: pipeline-<name>"),
        ("pipelines", {"lung": " "}, "must have an id: pipeline-lung is empty"),
        (
            "pipelines",
            {"": "p1", "a": "", "b": "p2", "c": ""},
            "must have a name: pipeline-<name>; must have an id: pipeline-a is empty; "
            "must have an id: pipeline-c is empty",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: Any, expected: str) -> None:
    """Each message completes a sentence that starts with the value, and names the broken rule."""
    assert expected == problem(field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("timeout", None), ("timeout", 5.0), ("max_wait", None), ("max_wait", 0.5), ("group_by", None)],
)
def test_a_missing_value_or_a_value_at_the_bound_is_accepted(field: str, value: float | None) -> None:
    """Bounds are inclusive; None means that the setting is omitted."""
    assert "" == problem(field, value)


@pytest.mark.parametrize(
    ("group_by", "nearest"),
    [
        ("accessionnumber", "AccessionNumber"),
        ("AcessionNumber", "AccessionNumber"),
        ("Study", "study"),
        ("patients", "patient"),
        ("studies", "study"),
    ],
)
def test_an_unknown_grouping_names_the_allowed_values_and_the_nearest(group_by: str, nearest: str) -> None:
    """The message suggests the nearest name."""
    assert (
        'must be "study", "patient", "series", a DICOM keyword such as "AccessionNumber" '
        f'or a tag such as "(0008,0050)"; did you mean "{nearest}"?'
    ) == problem("group_by", group_by)


@pytest.mark.parametrize("group_by", ["", "§§", "0008,0050", "(0008,0050"])
def test_an_unknown_grouping_unlike_any_name_names_only_the_allowed_values(group_by: str) -> None:
    """A name is suggested only if it is similar."""
    assert problem("group_by", group_by).endswith('or a tag such as "(0008,0050)"')


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [
        ("ReferencedStudySequence", "must be an attribute with a plain value; ReferencedStudySequence has VR SQ"),
        ("EncapsulatedDocument", "must be an attribute with a plain value; EncapsulatedDocument has VR OB"),
        ("(0028,1201)", "must be an attribute with a plain value; RedPaletteColorLookupTableData has VR OW"),
        (
            "PixelData",
            "must be an attribute of the data set that comes before its pixel data; PixelData is not",
        ),
        (
            "TransferSyntaxUID",
            "must be an attribute of the data set that comes before its pixel data; TransferSyntaxUID is not",
        ),
        ("(0009,1001)", "must be an attribute of the DICOM data dictionary; private attributes cannot group"),
    ],
)
def test_an_attribute_that_cannot_group_is_refused(group_by: str, expected: str) -> None:
    """Sequences, bulk data, attributes outside of the header, and private attributes are refused at the start."""
    assert expected == problem("group_by", group_by)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"timeout": 60.0, "max_wait": 59.0}, "max-wait = 59 must not be below timeout (60 seconds)"),
        ({"max_wait": 4.5}, "max-wait = 4.5 must not be below timeout (5 seconds when left out)"),
    ],
)
def test_max_wait_below_the_timeout_is_refused(settings: dict[str, float], expected: str) -> None:
    """Otherwise a group would never wait for the whole timeout."""
    with pytest.raises(ValueError, match="max-wait") as refused:
        AeTitleSettings(pipelines=PIPELINES, **settings)
    assert expected == str(refused.value)


def test_max_wait_may_equal_the_timeout() -> None:
    """In this case, no later instance extends the wait."""
    assert 60.0 == AeTitleSettings(pipelines=PIPELINES, timeout=60.0, max_wait=60.0).max_wait
