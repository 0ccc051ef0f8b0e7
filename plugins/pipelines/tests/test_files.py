"""Files of job folders: they are complete or absent, and can always be deleted; logs have a bounded size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dicom_adapter_pipelines.bounded_log import BoundedLog, LogReader
from dicom_adapter_pipelines.durable_files import new_file, remove_tree, write_file
from dicom_adapter_pipelines.outputs import OutputRefused, list_outputs, measure


def test_file_is_replaced_only_by_a_complete_file(tmp_path: Path) -> None:
    """After an error, the earlier file remains, and no temporary file."""
    write_file(tmp_path / "x", b"before")
    with pytest.raises(OSError, match="disk"), new_file(tmp_path / "x") as file:
        file.write(b"half")
        raise OSError("disk")
    assert ["x"] == [path.name for path in tmp_path.iterdir()]
    assert b"before" == (tmp_path / "x").read_bytes()


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder with 2,000 folders in each other: deeper than Python's stack and longer than a path can be."""
    before = Path.cwd()
    (tmp_path / "deep").mkdir()
    os.chdir(tmp_path / "deep")
    try:
        for _ in range(2000):
            Path("d").mkdir()
            os.chdir("d")
    finally:
        os.chdir(before)
    return tmp_path / "deep"


def test_deep_folders_are_refused_as_output_and_deleted(deep: Path) -> None:
    """Neither exhausts the stack or the file descriptors."""
    for action in (list_outputs, measure):
        with pytest.raises(OutputRefused, match="too many nested folders"):
            action(deep)
    remove_tree(deep)
    assert not deep.exists()


def test_folders_without_permissions_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "b").chmod(0)
    remove_tree(tmp_path / "a")
    assert [] == [path.name for path in tmp_path.iterdir()]


def test_link_instead_of_a_folder_is_deleted_without_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    remove_tree(tmp_path / "link")
    remove_tree(tmp_path / "link")
    assert ["target"] == [path.name for path in tmp_path.iterdir()]
    assert (tmp_path / "target" / "file").exists()


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_log_keeps_head_and_tail(tmp_path: Path, size: int) -> None:
    """The sizes of the writes do not matter. The log is the same before and after it is closed."""
    log = BoundedLog(tmp_path / "log", 400)
    text = b"".join(b"%04d " % number for number in range(1000))
    for start in range(0, len(text), size):
        log.write(text[start : start + size])
    while_writing = LogReader.open(tmp_path / "log")
    log.close()
    kept = (tmp_path / "log").read_bytes()
    assert while_writing is not None
    assert while_writing.read() == kept
    head, note, tail = kept.partition(b"\n[dicom-adapter] ")
    omitted, _, tail = tail.partition(b" bytes omitted\n")
    assert text[:200] == head
    assert note
    assert text.endswith(tail)
    assert 100 <= len(tail) <= 200
    assert len(text) == len(head) + int(omitted) + len(tail)
    assert len(text) == log.received


def test_short_log_is_complete(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", 400)
    log.write(b"x" * 399)
    log.close()
    assert b"x" * 399 == (tmp_path / "log").read_bytes()
