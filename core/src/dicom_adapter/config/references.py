"""References of settings to submitters: their conversion, and the submitters to which settings of plugins refer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from cattrs import Converter

from dicom_adapter.api.settings import PipelineReference, SubmitterReference
from dicom_adapter.config import scalars
from dicom_adapter.config.suggest import listed, suggestion
from dicom_adapter.config.tables import structure_class


def check_references(converter: Converter, document: Mapping[str, Any]) -> None:
    """Make the converter refuse references to submitters that the document does not have."""
    submitters = document.get("submitters")
    if isinstance(submitters, dict) and submitters:  # otherwise another problem is reported
        converter.register_structure_hook(SubmitterReference, partial(_submitter_reference, submitters))


def unknown_submitter(name: str, submitters: Mapping[str, Any]) -> str:
    """Return the message for a name without a table; it continues a sentence that begins with the name."""
    return f"must name a [submitters.<name>] table{suggestion(name, submitters)} (there are: {listed(submitters)})"


def _submitter_reference(submitters: Mapping[str, Any], value: Any, _: type) -> SubmitterReference:
    name = scalars.text(value)
    if name not in submitters:
        raise ValueError(unknown_submitter(name, submitters))
    return SubmitterReference(name)


def pipeline_reference(converter: Converter, value: Any, cls: type) -> PipelineReference:
    """Convert the id of a pipeline, or a table with its id and its submitter."""
    if isinstance(value, str):
        return PipelineReference(id=value)
    if not isinstance(value, dict):
        raise TypeError('must be the id of a pipeline in quotes, or a table such as {id = "…", submitter = "…"}')
    found: PipelineReference = structure_class(converter, value, cls)
    return found


def referenced_submitters(settings: Any) -> Iterator[str]:
    """Yield the submitters to which the settings of a plugin refer; a name may occur several times."""
    return (str(part) for part in _parts(settings) if isinstance(part, SubmitterReference))


def referenced_pipelines(settings: Any) -> Iterator[PipelineReference]:
    """Yield the pipelines to which the settings of a plugin refer."""
    return (part for part in _parts(settings) if isinstance(part, PipelineReference))


def _parts(settings: Any) -> Iterator[Any]:
    """Yield the settings and everything that they contain."""
    yield settings
    if attrs.has(type(settings)):
        for field in attrs.fields(type(settings)):
            yield from _parts(getattr(settings, field.name, None))
    elif isinstance(settings, (Mapping, Sequence, set, frozenset)) and not isinstance(settings, (str, bytes)):
        for part in settings.values() if isinstance(settings, Mapping) else settings:
            yield from _parts(part)
