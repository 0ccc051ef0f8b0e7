"""An association of a connection, from its request to its end."""

from __future__ import annotations

from attrs import define, field

from dicom_adapter.api.receiving import AssociationRequest, StoreResult
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.net.storage_scp import ClosedAssociation


@define
class RequestedAssociation:
    """An association that was requested. It counts its C-STOREs."""

    association_id: str
    request: AssociationRequest
    began_at: float  # time of the event loop
    is_accepted: bool = False
    how: str = "lost"  # how it ends: "released", "aborted" or "lost"
    _statuses: dict[str, int] = field(factory=dict, init=False)  # number of C-STORE responses by name of the status
    _instances: int = field(default=0, init=False)  # number of instances that were stored
    _stored_bytes: int = field(default=0, init=False)  # size of their files

    def count(self, status: CStoreStatus, result: StoreResult) -> None:
        """Count the response to a C-STORE."""
        self._statuses[status.name] = self._statuses.get(status.name, 0) + 1
        if result.instance is not None:
            self._instances += 1
            self._stored_bytes += result.instance.size_bytes

    def closed(self, now: float) -> ClosedAssociation:
        """Return the association as it ends at `now`, a time of the event loop."""
        return ClosedAssociation(
            association_id=self.association_id,
            request=self.request,
            how=self.how,
            statuses=self._statuses,
            instances=self._instances,
            stored_bytes=self._stored_bytes,
            seconds=now - self.began_at,
        )
