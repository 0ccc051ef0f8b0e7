"""A recovered instance gets one row, however often its recovery record is offered."""

from __future__ import annotations

from typing import Any

from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import instances
from dicom_adapter.ledger.health import RECEIVER
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter

CONFIGURATION = """
[storage]
backend = "local"
path = "data"
[submitters.platform]
type = "memory"
[ae-titles.A.settings]
timeout = 1000
pipeline-one = "p1"
"""


def received(store: Store, seed: str) -> ReceivedInstance:
    data_set = make_instance(rows=2, columns=2, seed=seed)
    incoming = store.begin(make_request(data_set, "A", "CT1", "0" * 32))
    incoming.write([encode(data_set)])
    instance = incoming.end()
    assert isinstance(instance, ReceivedInstance)
    instance.is_recovered = True
    return instance


def all_ids(adapter: Adapter) -> list[int]:
    with adapter.ledger.read() as transaction:
        return [row.instance_id for row in instances.pending_after(transaction, 0, 100, "A")]


def test_a_recovered_instance_is_entered_once(make_adapter: Any) -> None:
    """Also if it was released meanwhile, and if a later instance of its receiver run is offered with it.

    Verified to fail when the high-water mark is not read in the transaction of the rows.
    """
    adapter = make_adapter(CONFIGURATION)
    store = Store(adapter.config, adapter.resources)
    first, second = received(store, "1"), received(store, "2")
    entry = RowEntry(adapter.config, adapter.resources, RECEIVER)
    [result] = entry.enter([first], synced=True)
    assert result is not None and result.instance is not None
    with adapter.ledger.write() as transaction:
        instances.release(transaction, [result.instance.instance_id], adapter.clock.now())

    [again, later] = entry.enter([first, second], synced=True)
    assert again is None
    assert later is not None and later.instance is not None
    assert [later.instance.instance_id] == all_ids(adapter)
