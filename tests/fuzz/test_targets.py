"""The targets of the fuzzer take what they begin with, and whatever hypothesis makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_adapter.net.acceptor import Acceptor
from fuzz.targets import TARGETS

SEEDS = [(name, seed) for name, target in TARGETS.items() for seed in target.seeds]


@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)), max_size=4)
)
@settings(max_examples=200, deadline=None)
def test_changed_seeds_raise_nothing(begin: tuple[str, bytes], changes: list[tuple[int, bytes]]) -> None:
    name, seed = begin
    changed = bytearray(seed)
    for place, values in changes:
        start = place % len(seed)
        changed[start : start + len(values)] = values
    TARGETS[name].run(bytes(changed))


def test_a_data_set_that_never_ends_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an acceptor would leave it that forgets to tell of the end of a connection."""
    monkeypatch.setattr(Acceptor, "closed", lambda _self: [])
    cut = TARGETS["acceptor"].seeds[0][:-40]
    with pytest.raises(AssertionError, match="neither ends nor breaks"):
        for length in range(len(cut)):
            TARGETS["acceptor"].run(cut[:length])
