"""The story of one study, SOP instance or job: its events from association to reclaim, in sentences for operators.

`make_story` reads the ledger and returns a section for each AE title. `arriving`, `jobs` and `waiting` create the
entries about arrivals, jobs and current states. Their functions are pure: only `making` reads the ledger.
"""

from dicom_adapter.operations.story.making import Unknown, make_story
from dicom_adapter.operations.story.values import Entry, Section, Story
from dicom_adapter.operations.story.words import times_in

__all__ = ["Entry", "Section", "Story", "Unknown", "make_story", "times_in"]
