"""The repair of objects without rows: outputs of jobs never become received instances."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_adapter import Job, StorageContext
from dicom_adapter.api.declare import NoSettings
from dicom_adapter.config.results import ResultsConfig
from dicom_adapter.flow.results.collect import Collector
from dicom_adapter.ledger import balance, instance_rows
from dicom_adapter.operations.audit import PIECE_BYTES, Audit, AuditReport
from dicom_adapter.operations.object_copier import ObjectCopier
from dicom_adapter.operations.repair import Repair, RepairResult
from dicom_adapter.storage.files import FileStorage
from dicom_adapter.testing import Adapter
from support.results import CONFIGURATION, Site, encoded


@pytest.fixture
def site(make_adapter: Callable[[str], Adapter]) -> Site:
    return Site(make_adapter(CONFIGURATION))


def audit(site: Site) -> AuditReport:
    return Audit(site.adapter.resources, is_running=lambda: False, verify=True).run()


def repair(site: Site) -> list[RepairResult]:
    return list(Repair(site.adapter.resources).run(audit(site)))


def with_copied_header(site: Site) -> bytes:
    """Return an output as many pipelines write it: a changed copy of an input, with the header of its file."""
    with site.adapter.ledger.read() as transaction:
        key = instance_rows.find(transaction, [1])[0].instance.storage_key
    with site.adapter.storage.read(key) as file:
        data_set = dcmread(file)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = "2.25.771"
    data_set.SeriesInstanceUID = "2.25.77"
    assert "LUNG" == data_set.file_meta.ReceivingApplicationEntityTitle
    content = io.BytesIO()
    data_set.save_as(content)
    return content.getvalue()


def crash_after_storing(site: Site, job: Job, outputs: dict[str, bytes]) -> None:
    """Store the outputs of a job, as its step does before it enters their rows."""
    site.adapter.platform.end(job, outputs=outputs)
    submitter = site.adapter.host._submitters.in_use["platform"]
    Collector(site.adapter.resources, site.adapter.config.storage, ResultsConfig()).collect(submitter, job)


def received(site: Site) -> int:
    with site.adapter.ledger.read() as transaction:
        return len(instance_rows.newest(transaction, None))


@pytest.mark.parametrize("is_same", [True, False], ids=["same", "different"])
def test_an_output_never_becomes_a_received_instance(site: Site, is_same: bool) -> None:
    """Its header names the called AE title, because the pipeline has copied it from an input.

    The object is deleted if the outputs are collected again and are equal; otherwise it is kept and reported. Verified
    to fail when the repair does not look at the preamble.
    """
    job = site.start_job()
    output = with_copied_header(site)
    crash_after_storing(site, job, {"a.dcm": output})
    (result,) = repair(site)
    assert (False, True) == (result.repaired, "it is an output of a job" in result.text)
    assert 2 == received(site)

    site.end_job({"a.dcm": output if is_same else output[:-1] + b"x"}, job)
    assert 1 == len(site.delivered_to("pacs"))
    assert [is_same] == [result.repaired for result in repair(site)]
    assert (0 if is_same else 1) == audit(site).count
    assert 2 == received(site)


def test_an_output_is_delivered_as_the_pipeline_has_written_it(site: Site) -> None:
    """The mark is only in the storage. Verified to fail when VerifiedReader returns it."""
    job = site.start_job()
    output = with_copied_header(site)
    site.end_job({"a.dcm": output}, job)
    assert [output] == site.delivered_to("pacs") == site.delivered_to("archive")


def test_a_copy_of_the_storage_keeps_the_marks(make_adapter: Callable[[str], Adapter], tmp_path: Path) -> None:
    """A restored backup may lack rows, too. Verified to fail when the copier does not set `returns_mark`."""
    site = Site(make_adapter(CONFIGURATION + "keep-days = 2\n"))
    job = site.start_job()
    target = FileStorage(NoSettings(), StorageContext(path=tmp_path / "copy", durable=False))
    target.open()
    site.end_job({"a.dcm": with_copied_header(site)}, job)
    (row,) = site.results
    with site.adapter.ledger.read() as transaction:
        (described,) = balance.object_rows(transaction, [row.instance.instance_id])
    copier = ObjectCopier(site.adapter.storage, target)
    with site.adapter.storage.read(described.storage_key) as stored:
        content = stored.read()
    copier.copy(described)
    copier.sync()
    with target.read(copier.keys[row.instance.instance_id]) as copied:
        assert content == copied.read()


class Piecewise(io.BytesIO):
    """A file that refuses to return its whole content at once."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert 0 < size <= PIECE_BYTES, "the object was read at once"
        return super().read(size)


def test_an_object_is_read_in_pieces(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not depend on the size of an object. Verified to fail when `_read` calls `read` without a size."""
    job = site.start_job()
    large = dcmread(io.BytesIO(with_copied_header(site)))
    large.PixelData = bytes(3 * PIECE_BYTES)
    content = encoded(large)
    crash_after_storing(site, job, {"a.dcm": content, "b.json": b"x" * 3 * PIECE_BYTES})
    report = audit(site)
    storage = site.adapter.resources.storage
    read = storage.read
    monkeypatch.setattr(storage, "read", lambda key: Piecewise(read(key).read()))
    assert [False, False] == [result.repaired for result in Repair(site.adapter.resources).run(report)]
