"""Fixtures for stories: associations that a receiver records, and the stories of an adapter."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from attrs import define, field
from pydicom.dataset import Dataset

from dicom_adapter.api.receiving import AssociationRequest, StoreRequest, StoreResult
from dicom_adapter.net.codes import C_STORE_STATUS
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.operations.story import Story, make_story
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter

Associate = Callable[..., str]
MakeStory = Callable[..., Story]


@define
class ReceiverStore:
    """Replacement of the adapter's store that passes instances through a receiver and counts the statuses."""

    receiver: Receiver
    received: list[StoreRequest] = field(factory=list)
    statuses: Counter[str] = field(factory=Counter)
    _loop: asyncio.AbstractEventLoop = field(factory=asyncio.new_event_loop)

    def __attrs_post_init__(self) -> None:
        self.receiver.start(self._loop, lambda answers: answers[0][0].set_result(answers[0][1]), lambda: False)

    def keep(self, request: StoreRequest, data_set: bytes) -> StoreResult:
        incoming = self.receiver.begin_store(request)
        incoming.write([data_set])
        committed = self._loop.create_future()
        result = self.receiver.complete_store(incoming, committed)
        if result is None:
            result = self._loop.run_until_complete(asyncio.wait_for(committed, 30))
        assert isinstance(result, StoreResult)
        self.received.append(request)
        self.statuses[C_STORE_STATUS[result.outcome].name] += 1
        return result

    def forget_association(self, association_id: str) -> None:
        """Do nothing: the end of the association is recorded later."""

    def close(self) -> None:
        self.receiver.close()
        self._loop.close()


@pytest.fixture
def associate(monkeypatch: pytest.MonkeyPatch) -> Associate:
    """Return a function that sends data sets to a receiver in one association, and returns its short id."""

    def send(
        adapter: Adapter,
        data_sets: Sequence[Dataset],
        ae_title: str = "LUNG",
        caller: str = "CT1",
        how: str = "released",
    ) -> str:
        store = ReceiverStore(Receiver(adapter.config, adapter.resources, None))
        with monkeypatch.context() as patch:
            patch.setattr(adapter, "_store", store)
            adapter.receive(*data_sets, ae_title=ae_title, calling_ae_title=caller)
        request = AssociationRequest(called_ae_title=ae_title, calling_ae_title=caller, peer_address="127.0.0.1")
        association_id = store.received[0].association_id
        closed = ClosedAssociation(association_id=association_id, request=request, how=how, statuses=store.statuses)
        store.receiver.association_closed(closed)
        store.close()
        return association_id[:8]

    return send


@pytest.fixture
def story_of() -> MakeStory:
    """Return a function that returns a story at the current time of the adapter."""

    def make(adapter: Adapter, name: str) -> Story:
        with adapter.ledger.read() as transaction:
            return make_story(transaction, name, adapter.clock.now())

    return make
