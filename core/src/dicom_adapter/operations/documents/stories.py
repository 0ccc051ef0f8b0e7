"""Stories as JSON values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from attrs import asdict

from dicom_adapter.operations.documents.moments import iso
from dicom_adapter.operations.story import Story


def story_as_json(story: Story) -> dict[str, Any]:
    """Return a story as JSON values."""
    sections = [
        {"aeTitle": section.ae_title, "entries": [_plain(asdict(entry)) for entry in section.entries]}
        for section in story.sections
    ]
    return {
        "kind": story.kind,
        "name": story.name,
        "title": story.title,
        "createdAt": _plain(story.created_at),
        "sections": sections,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
