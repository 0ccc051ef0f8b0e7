"""The model of a disk: the content after a power loss."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from power_loss.disk import (
    Disk,
    Fate,
    Punch,
    Tree,
    Truncate,
    Write,
    content,
    every_other_one,
    everything,
    first_ones,
    last_one_torn,
    only_last_one,
    only_synced,
)

FOLDER, FILE = PurePosixPath("folder"), PurePosixPath("folder/file")
ROOT = PurePosixPath()


@pytest.fixture
def disk() -> Disk:
    """Return a disk with `folder` and an empty file in it, both not synced."""
    disk = Disk()
    disk.make_folder(FOLDER)
    disk.make_file(FILE)
    return disk


def sync(disk: Disk, *paths: PurePosixPath) -> None:
    """Sync each path from beginning to end."""
    for path in paths:
        disk.sync(path).finish()


def after_power_loss(disk: Disk, *, names: Fate = only_synced, data: Fate = only_synced) -> Tree:
    """Return the content after a power loss. By default, unsynced changes are lost."""
    return disk.after_power_loss(names=names, data=data)


def test_a_synced_file_survives_only_under_synced_names(disk: Disk) -> None:
    """The content of the file, its name in the folder and the name of the folder are synced separately."""
    disk.write(FILE, b"data")
    sync(disk, FILE)
    assert {} == after_power_loss(disk)
    sync(disk, FOLDER)
    assert {} == after_power_loss(disk)
    sync(disk, ROOT)
    assert {"folder": None, "folder/file": b"data"} == after_power_loss(disk)


def test_a_synced_name_does_not_include_the_data(disk: Disk) -> None:
    """A file of which only the name was synced is empty."""
    disk.write(FILE, b"data")
    sync(disk, ROOT, FOLDER)
    assert {"folder": None, "folder/file": b""} == after_power_loss(disk)


def test_a_sync_covers_the_changes_that_were_complete_when_it_began(disk: Disk) -> None:
    """Writes of another thread during the sync may be lost. Until the sync returns, nothing is guaranteed."""
    sync(disk, ROOT, FOLDER)
    disk.write(FILE, b"early ")
    running = disk.sync(FILE)
    disk.write(FILE, b"late")
    assert {"folder": None, "folder/file": b""} == after_power_loss(disk)
    running.finish()
    assert {"folder": None, "folder/file": b"early "} == after_power_loss(disk)


def test_an_earlier_sync_that_returns_later_undoes_nothing(disk: Disk) -> None:
    """The earlier sync covers fewer changes than the sync that returned before."""
    sync(disk, ROOT, FOLDER)
    slow = disk.sync(FILE)
    disk.write(FILE, b"data")
    sync(disk, FILE)
    slow.finish()
    assert {"folder": None, "folder/file": b"data"} == after_power_loss(disk)


def test_a_rename_is_durable_when_both_folders_are_synced(disk: Disk) -> None:
    """Until both folders are synced, the file may have both names, or neither."""
    other = PurePosixPath("other")
    disk.make_folder(other)
    sync(disk, ROOT, FOLDER)
    disk.rename(FILE, other / "moved")
    assert {"folder", "folder/file", "other"} == after_power_loss(disk).keys()
    sync(disk, other)
    assert {"folder", "folder/file", "other", "other/moved"} == after_power_loss(disk).keys()
    sync(disk, FOLDER)
    assert {"folder", "other", "other/moved"} == after_power_loss(disk).keys()


def test_syncing_only_the_old_folder_loses_a_renamed_file(disk: Disk) -> None:
    """The order in which folders are synced matters."""
    other = PurePosixPath("other")
    disk.make_folder(other)
    sync(disk, ROOT, FOLDER)
    disk.rename(FILE, other / "moved")
    sync(disk, FOLDER)
    assert {"folder", "other"} == after_power_loss(disk).keys()


def test_a_removed_file_may_return_until_its_folder_is_synced(disk: Disk) -> None:
    """The removal of a name is a change of the folder."""
    disk.write(FILE, b"data")
    sync(disk, ROOT, FOLDER, FILE)
    disk.remove(FILE)
    assert {"folder": None, "folder/file": b"data"} == after_power_loss(disk)
    sync(disk, FOLDER)
    assert {"folder": None} == after_power_loss(disk)


def test_syncs_of_a_replaced_file_do_not_apply_to_the_new_file(disk: Disk) -> None:
    """The synced content of the new file is independent of the old file."""
    disk.write(FILE, b"old")
    sync(disk, ROOT, FOLDER, FILE)
    new = FOLDER / "new"
    disk.make_file(new)
    disk.write(new, b"new")
    disk.rename(new, FILE)
    sync(disk, FOLDER)
    assert {"folder": None, "folder/file": b""} == after_power_loss(disk)


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        (only_synced, b"...."),
        (everything, b"AABB"),
        (last_one_torn, b"AAB."),
        (only_last_one, b"..BB"),
        (every_other_one, b"..BB"),
        (first_ones, b"AA.."),
    ],
)
def test_each_fate_selects_unsynced_writes(disk: Disk, fate: Fate, expected: bytes) -> None:
    """Synced changes survive, and those of the two later writes that the fate selects."""
    disk.write(FILE, b"....")
    sync(disk, FILE)
    disk.write(FILE, b"AA", 0)
    disk.write(FILE, b"BB", 2)
    assert expected == after_power_loss(disk, names=everything, data=fate)["folder/file"]


@pytest.mark.parametrize("fate", [only_synced, everything, last_one_torn, only_last_one, every_other_one, first_ones])
def test_no_fate_changes_synced_content(disk: Disk, fate: Fate) -> None:
    """All changes are synced, so that a fate has nothing to select."""
    disk.write(FILE, b"data")
    sync(disk, ROOT, FOLDER, FILE)
    assert {"folder": None, "folder/file": b"data"} == after_power_loss(disk, names=fate, data=fate)


def test_truncated_content_is_replaced_by_zeros() -> None:
    """Holes are zero. A file that was truncated and grows again has zeros, not its previous bytes."""
    assert b"\0\0ab" == content([Write(2, b"ab")])
    assert b"aXc" == content([Write(0, b"abc"), Write(1, b"X")])
    assert b"a\0\0" == content([Write(0, b"abc"), Truncate(1), Truncate(3)])


def test_a_hole_is_zero_and_keeps_the_size() -> None:
    """The hole is in the middle, at the end, or after the end."""
    whole = Write(0, b"abcd")
    assert b"a\0\0d" == content([whole, Punch(1, 2)])
    assert b"ab\0\0" == content([whole, Punch(2, 9)])
    assert b"abcd" == content([whole, Punch(9, 2)])
    assert b"aXXd" == content([whole, Punch(0, 4), Write(0, b"a"), Write(3, b"d"), Write(1, b"XX")])


def test_a_path_exists_as_soon_as_it_has_a_name(disk: Disk) -> None:
    """Programs see a name whether it is synced or not."""
    assert disk.exists(FILE)
    disk.remove(FILE)
    assert not disk.exists(FILE)
