"""Sizes of held instances for readers that ask often, as pages do."""

from __future__ import annotations

import pytest

from dicom_adapter.ledger import Ledger, held
from dicom_adapter.ledger.held import HeldBytes, HeldSizes


@pytest.mark.parametrize(("took", "calls"), [(0.005, [1, 2, 3, 4]), (0.5, [1, 1, 2, 2])])
def test_a_slow_result_is_used_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, took: float, calls: list[int]
) -> None:
    """A result that took half a second is used for 50 s, a quick one is not.

    Verified to fail when all results are kept, and when none is.
    """
    now, count = [0.0], [0]

    def query(*_arguments: object) -> HeldBytes:
        now[0] += took
        count[0] += 1
        return HeldBytes(quarantined=count[0], in_jobs=0)

    monkeypatch.setattr(held, "count_held_bytes", query)
    monkeypatch.setattr(held.time, "monotonic", lambda: now[0])
    sizes = HeldSizes()
    found = []
    with ledger.read() as transaction:
        for _reading in range(4):
            found.append(sizes.count(transaction, "LUNG").quarantined)
            now[0] += 25.01
    assert calls == found
