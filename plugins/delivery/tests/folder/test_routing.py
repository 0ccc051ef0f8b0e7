"""The whole adapter with `folder` as its submitter: instances in, folders out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_adapter.testing import Adapter, make_study


@pytest.fixture
def adapter_configuration(tmp_path: Path) -> str:
    (tmp_path / "drop").mkdir()
    return """
        [submitters.drop]
        type = "folder"
        path = "drop"

        [ae-titles.ROUTER.settings]
        group-by = "study"
        timeout = 5
        pipeline-drop = "drop"
    """


def test_each_study_becomes_a_folder(adapter: Adapter, tmp_path: Path) -> None:
    """An AE title with a folder as its submitter is a router to a folder."""
    studies = [make_study(instances=3), make_study(instances=2)]
    for study in studies:
        adapter.receive(*study)
    adapter.advance(30)
    folders = sorted((tmp_path / "drop").glob("ROUTER-*"))
    delivered = {
        tuple(sorted(dcmread(path).SOPInstanceUID for path in folder.glob("*.dcm"))): json.loads(
            (folder / "manifest.json").read_text()
        )
        for folder in folders
    }
    assert {tuple(sorted(instance.SOPInstanceUID for instance in study)) for study in studies} == set(delivered)
    for uids, manifest in delivered.items():
        assert uids == tuple(sorted(entry["sopInstanceUid"] for entry in manifest["files"]))
    assert ["submitted", "submitted"] == [job.state.value for job in adapter.jobs]
