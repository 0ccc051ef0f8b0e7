"""Instances that are stored, not yet entered in the ledger: the admin API shows them, as commands do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dicom_adapter.flow.enter.journal import FOLDER
from support.follow import CONFIGURATION, Sender


def test_a_study_without_rows_is_found_counted_and_explained(make_api: Callable[..., Any]) -> None:
    """Only operators see the patient. Verified to fail when the API reads the ledger only."""
    api = make_api(CONFIGURATION)
    sender = Sender(api.adapter, api.adapter.config.storage.path / FOLDER)
    received = sender.arrive("1.2.1", patient="PAT-9")
    study = received.study_instance_uid
    assert 404 == api.viewer.get(f"/api/stories/{study}").status_code
    sender.store.commit([received])
    assert 1 == api.viewer.get("/api/status").json()["notEntered"]["instances"]
    for client, patient in ((api.operator, ["PAT-9"]), (api.viewer, None)):
        story = client.get(f"/api/stories/{study}").json()
        assert ["not_entered"] == [entry["kind"] for section in story["sections"] for entry in section["entries"]]
        [found] = client.post("/api/studies/search", json={"sopInstanceUid": "1.2.1"}).json()["items"]
        assert (study, 1) == (found["studyInstanceUid"], found["instances"])
        assert [patient] * 2 == [(one["patient"] or {}).get("patientId") for one in (story, found)]
