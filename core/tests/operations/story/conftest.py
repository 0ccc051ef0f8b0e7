"""Associations as the receiver has them, and the stories that follow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from attrs import define, field
from pydicom.dataset import Dataset

from dicom_adapter.api.receiving import AssociationRequest, StoreRequest, StoreResult
from dicom_adapter.net.codes import C_STORE_STATUS
from dicom_adapter.net.connection import ClosedAssociation
from dicom_adapter.operations.story import Story, make_story
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter

Associate = Callable[..., str]
TellStory = Callable[..., Story]


@define
class Heard:
    """Stands where the adapter's own store is, and lets the receiver keep what comes."""

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
        answer = self.receiver.complete_store(incoming, committed)
        if answer is None:
            answer = self._loop.run_until_complete(asyncio.wait_for(committed, 30))
        assert isinstance(answer, StoreResult)
        self.received.append(request)
        self.statuses[C_STORE_STATUS[answer.outcome].name] += 1
        return answer

    def close(self) -> None:
        self.receiver.close()
        self._loop.close()


@pytest.fixture
def associate(monkeypatch: pytest.MonkeyPatch) -> Associate:
    """Send data sets in one association, through the receiver, which writes down how it ended; returns its id."""

    def send(
        adapter: Adapter,
        data_sets: Sequence[Dataset],
        ae_title: str = "LUNG",
        caller: str = "CT1",
        how: str = "released",
    ) -> str:
        heard = Heard(Receiver(adapter.config, adapter.resources, None))
        with monkeypatch.context() as patch:
            patch.setattr(adapter, "_store", heard)
            adapter.receive(*data_sets, ae_title=ae_title, calling_ae_title=caller)
        request = AssociationRequest(called_ae_title=ae_title, calling_ae_title=caller, peer_address="127.0.0.1")
        association_id = heard.received[0].association_id
        closed = ClosedAssociation(association_id=association_id, request=request, how=how, statuses=heard.statuses)
        heard.receiver.association_closed(closed)
        heard.close()
        return association_id[:8]

    return send


@pytest.fixture
def story_of() -> TellStory:
    """Tell the story as it stands at the adapter's time."""

    def told(adapter: Adapter, name: str) -> Story:
        with adapter.ledger.read() as transaction:
            return make_story(transaction, name, adapter.clock.now())

    return told
