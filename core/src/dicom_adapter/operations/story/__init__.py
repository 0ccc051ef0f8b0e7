"""The story of a study, series, SOP instance or job: its events from association to reclaim, in sentences.

`make_story` reads the ledger and returns a section for each AE title. The modules `arriving`, `jobs`, `results` and
`waiting` create the entries. Their functions are pure: only `making` reads the ledger.
"""

from dicom_adapter.operations.story.making import Unknown, make_story
from dicom_adapter.operations.story.values import Entry, Section, Story
from dicom_adapter.operations.story.words import full_times, times_in

__all__ = ["Entry", "Section", "Story", "Unknown", "full_times", "make_story", "times_in"]
