"""Names from the network never become names of files or folders, and never refer to files elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import config

from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.testing import Adapter, Plugin
from support import grouping

CONFIGURATION = """
[storage]
path = "data"
reserve = 0
durability = "process"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
"""
SIGN, NUMBER = "evil", "2718281828"  # each generated name contains one of them
# Patterns of names; {} becomes SIGN
KINDS = ("../../../{}", "/{}", "../{}/..", "1/../{}", "~{}", "a\0{}", "C:\\{}", "$({})", "{}" * 80, "\x1b[2J{}")
text = st.one_of(
    st.sampled_from(KINDS), st.text(st.characters(codec="latin-1"), max_size=80).map(lambda text: text + "{}")
)
names = text.map(lambda text: text.replace("{}", SIGN))
uid_values = st.one_of(names, st.from_regex(r"[0-9./]{0,70}", fullmatch=True).map(lambda text: text + NUMBER))
# A backslash separates values: an attribute in the data set may have several, a UID in the C-STORE request only one.
uids = uid_values.map(lambda text: text.replace("\\", "/"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nested folder: the test also searches its parents for created paths."""
    folder = tmp_path_factory.mktemp("hostile") / "2" / "1" / "0"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Iterator[Adapter]:
    adapter = Adapter(folder, CONFIGURATION, [Plugin(grouping)])
    yield adapter
    adapter.close()


@settings(max_examples=settings.default.max_examples // 4, deadline=None)
@given(calling=names, sop_uid=uids, study_uid=uid_values, patient_id=names)
@example(calling="../../evil", sop_uid=f"1.2.{NUMBER}", study_uid=f"1.3.{NUMBER}", patient_id="../../../evil")
def test_no_name_from_the_network_becomes_a_path(
    adapter: Adapter, folder: Path, calling: str, sop_uid: str, study_uid: str, patient_id: str
) -> None:
    """An instance is refused, or stored and submitted under names that the adapter chooses.

    Verified to fail when the calling AE title is used as the name of a folder.
    """
    with config.disable_value_validation():
        data_set = make_instance(sop_uid=sop_uid, study_uid=study_uid, patient_id=patient_id)
        [answer] = adapter.receive(data_set, ae_title="LUNG", calling_ae_title=calling)
    assert answer.outcome in (StoreOutcome.STORED, StoreOutcome.DOES_NOT_MATCH, StoreOutcome.CANNOT_UNDERSTAND)
    if answer.outcome is StoreOutcome.STORED:
        adapter.advance(6)
    assert {"reclaimed"} >= adapter.states.keys()
    created = {path for path in folder.parents[2].rglob("*") if path not in folder.parents}
    assert [] == [path for path in created if SIGN in str(path) or NUMBER in str(path)]
    assert {folder, folder / "data"} == {path for path in created if path.parent in folder_and_its_parents(folder)}


def folder_and_its_parents(folder: Path) -> tuple[Path, ...]:
    return (folder, *folder.parents)
