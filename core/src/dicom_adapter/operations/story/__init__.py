"""The story of one study, SOP instance or job, from association to reclaim, in sentences for whoever runs a PACS.

`tell` finds what the ledger has on it and makes a section of each AE title that it came to. `arriving`, `jobs` and
`waiting` make the entries: what came from whom, what became jobs, and how things stand now. All but `tell` is pure.
"""

from dicom_adapter.operations.story.tell import Unknown, tell
from dicom_adapter.operations.story.values import Entry, Section, Story

__all__ = ["Entry", "Section", "Story", "Unknown", "tell"]
