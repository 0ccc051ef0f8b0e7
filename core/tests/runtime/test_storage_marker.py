"""The marker of a storage: it distinguishes a new folder from a disk that is not mounted."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from dicom_adapter.api.errors import StorageUnavailable
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.storage_marker import StorageMarker, read_marker


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def prepared(path: Path) -> StorageMarker:
    return DataFolder(path).prepare()


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A folder with a file, so that it cannot be an empty mount point."""
    (tmp_path / "adapter.toml").touch()
    return tmp_path


def test_a_folder_that_does_not_exist_is_new(parent: Path) -> None:
    marker = prepared(parent / "data")
    assert str(UUID(marker.identity)) == marker.identity
    assert ["storage-id"] == files_below(parent / "data" / "instances")
    assert marker.identity + "\n" == (parent / "data" / "instances" / "storage-id").read_text()


def test_the_identity_of_a_storage_never_changes(parent: Path) -> None:
    first = prepared(parent / "data")
    assert first == prepared(parent / "data") == DataFolder(parent / "data").prepare(is_new=True)
    assert first == read_marker(parent / "data")


def test_an_empty_folder_may_be_a_mount_point_without_its_disk(parent: Path) -> None:
    """The start is refused, and nothing is created. Verified to fail when an empty folder is accepted."""
    (parent / "data").mkdir()
    with pytest.raises(StorageUnavailable, match=r"data has no storage .* run --new`"):
        prepared(parent / "data")
    assert [] == files_below(parent / "data")
    DataFolder(parent / "data").prepare(is_new=True)
    assert prepared(parent / "data")


def test_a_file_on_the_mount_point_does_not_make_it_a_storage(parent: Path) -> None:
    """Administrators often put a file on the mount point, as a note that the disk is not mounted."""
    (parent / "data").mkdir()
    (parent / "data" / "NOT-MOUNTED").touch()
    with pytest.raises(StorageUnavailable):
        prepared(parent / "data")


def test_the_data_folder_may_be_below_the_mount_point(parent: Path) -> None:
    """Its parent is empty then. Verified to fail when only the data folder itself is examined."""
    (parent / "disk").mkdir()
    with pytest.raises(StorageUnavailable, match="disk has no storage"):
        prepared(parent / "disk" / "adapter" / "data")
    assert [] == files_below(parent / "disk")


def test_a_new_disk_that_is_mounted_is_new(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is certainly there. An ext4 file system has a folder lost+found."""
    (parent / "data" / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == parent / "data")
    assert prepared(parent / "data")


def test_the_instances_may_be_the_mount_point(parent: Path) -> None:
    """Their disk is not mounted. The ledger is elsewhere."""
    (parent / "data" / "instances").mkdir(parents=True)
    with pytest.raises(StorageUnavailable):
        prepared(parent / "data")


@pytest.mark.parametrize("empty_folders", [[], ["data"], ["data/instances"]])
def test_a_ledger_elsewhere_shows_that_the_storage_is_missing(parent: Path, empty_folders: list[str]) -> None:
    (parent / "ledger.sqlite").write_text("rows")
    for name in empty_folders:
        (parent / name).mkdir(parents=True)
    folder = DataFolder(parent / "data", ledger=parent / "ledger.sqlite")
    with pytest.raises(StorageUnavailable, match=r"its ledger .*ledger.sqlite exists"):
        folder.prepare()
    assert folder.prepare(is_new=True)


def test_a_ledger_beside_an_empty_folder_of_instances_needs_confirmation(parent: Path) -> None:
    """The folder of the instances alone may be the mount point.

    Verified to fail when a ledger in the data folder counts as use by an earlier version.
    """
    (parent / "data" / "instances").mkdir(parents=True)
    (parent / "data" / "ledger.sqlite").touch()
    with pytest.raises(StorageUnavailable):
        prepared(parent / "data")


@pytest.mark.parametrize("used", ["instances/0123.segment", "instances/00/0123.dcm"])
def test_a_folder_of_an_earlier_version_gets_a_marker(parent: Path, used: str) -> None:
    (parent / "data" / used).parent.mkdir(parents=True)
    (parent / "data" / used).touch()
    assert prepared(parent / "data")


def test_a_marker_that_a_crash_left_empty_is_completed(parent: Path) -> None:
    (parent / "data" / "instances").mkdir(parents=True)
    (parent / "data" / "instances" / "storage-id").touch()
    assert read_marker(parent / "data") is None
    assert prepared(parent / "data") == read_marker(parent / "data")


def test_a_storage_that_is_gone_or_replaced_is_noticed(parent: Path) -> None:
    """A copy has the same identity, but is another file. Moved back, the storage is the opened one again."""
    marker = prepared(parent / "data")
    assert "" == marker.problem()
    (parent / "data").rename(parent / "moved")
    assert "storage-id is missing" in marker.problem()
    (parent / "data" / "instances").mkdir(parents=True)
    copy = parent / "data" / "instances" / "storage-id"
    copy.write_text(marker.identity + "\n")
    assert "storage-id was replaced" in marker.problem()
    copy.unlink()
    (parent / "data" / "instances").rmdir()
    (parent / "data").rmdir()
    (parent / "moved").rename(parent / "data")
    assert "" == marker.problem()


def test_a_check_of_a_missing_storage_creates_nothing(parent: Path) -> None:
    folder = DataFolder(parent / "data")
    with pytest.raises(StorageUnavailable, match="has no storage"):
        folder.require_marker()
    assert ["adapter.toml"] == files_below(parent)
