"""The studies that arrive in open associations, so that the log has a line for each study instead of each instance."""

from __future__ import annotations

from attrs import define, field

MAX_ASSOCIATIONS = 4096  # above it, the oldest association is forgotten: then its studies are logged again
MAX_STUDIES = 1024  # number of studies of an association; above it, they are forgotten


@define
class ArrivingStudies:
    """The studies of each association that stores instances. Thread-safe: a race only repeats a line."""

    _studies: dict[str, set[str]] = field(factory=dict, init=False)  # by association id

    def is_new(self, association_id: str, study: str) -> bool:
        """Return whether this is the first instance of the study in the association."""
        studies = self._studies.get(association_id)
        if studies is None:
            if len(self._studies) >= MAX_ASSOCIATIONS:
                self._studies.pop(next(iter(tuple(self._studies))), None)
            self._studies[association_id] = {study}
            return True
        if study in studies:
            return False
        if len(studies) >= MAX_STUDIES:
            studies.clear()
        studies.add(study)
        return True

    def end(self, association_id: str) -> None:
        """Forget an association that has ended."""
        self._studies.pop(association_id, None)
