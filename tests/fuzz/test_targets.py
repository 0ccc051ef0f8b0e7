"""The targets of the fuzzer raise no exception for seeds with and without changes."""

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


def test_an_unfinished_data_set_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """An acceptor that does not report the end of a connection keeps an unfinished data set."""
    monkeypatch.setattr(Acceptor, "closed", lambda _self: [])
    cut = TARGETS["acceptor"].seeds[0][:-40]
    with pytest.raises(AssertionError, match="a data set without an end"):
        for length in range(len(cut)):
            TARGETS["acceptor"].run(cut[:length])
