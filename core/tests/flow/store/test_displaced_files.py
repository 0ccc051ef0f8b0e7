"""Step 2 acknowledges no instance if storage or ledger were deleted, moved or replaced while they are open."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import StorageUnavailable
from dicom_adapter.api.errors import LedgerReplaced
from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger import Ledger
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter

CONFIGURATION = """
[storage]
backend = "{backend}"
path = "data"
watermark-percent = 100
reserve = 0
durability = "{durability}"

[ae-titles.KEEP]
processor = "by-study"
settings = {{ pipeline-x = "1" }}
"""


@pytest.fixture(params=["local", "files"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["fsync", "process"])
def adapter(request: pytest.FixtureRequest, make_adapter: Any, backend: str) -> Adapter:
    adapter: Adapter = make_adapter(CONFIGURATION.format(backend=backend, durability=request.param))
    assert [StoreOutcome.STORED] == receive(adapter)
    return adapter


def receive(adapter: Adapter) -> list[StoreOutcome]:
    return [result.outcome for result in adapter.receive(make_instance())]


@contextmanager
def moved(path: Path) -> Iterator[Path]:
    """Move a file or folder away until the block ends. Yield where it is."""
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    yield away
    if path.is_dir():
        shutil.rmtree(path)
    away.replace(path)


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Replace a file or folder by a copy until the block ends."""
    with moved(path) as away:
        copy: Callable[..., Any] = shutil.copytree if away.is_dir() else shutil.copy2
        copy(away, path)
        yield away


@contextmanager
def emptied(path: Path) -> Iterator[Path]:
    """Replace a folder by an empty folder, like a mount point whose disk is not mounted, until the block ends."""
    with moved(path) as away:
        path.mkdir()
        yield away


Displace = Callable[[Path], Any]


@pytest.mark.parametrize("displace", [moved, copied, emptied])
@pytest.mark.parametrize("name", ["data", "data/instances"])
def test_no_instance_is_acknowledged_while_a_folder_is_displaced(
    adapter: Adapter, tmp_path: Path, name: str, displace: Displace
) -> None:
    """It is refused with *out of resources*, so the sender sends it again. After that, everything is as before.

    Verified to fail when the marker is not checked, or the segment is not.
    """
    with displace(tmp_path / name):
        assert adapter.resources.problem()
        [refused] = store(adapter)
        assert StoreOutcome.OUT_OF_SPACE == refused.outcome
        assert str(tmp_path / "data") in refused.reason
    assert "" == adapter.resources.problem()
    assert [StoreOutcome.STORED] == receive(adapter)
    assert {"pending": 2} == adapter.states


@pytest.mark.parametrize("name", ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"])
@pytest.mark.parametrize("displace", [moved, copied])
def test_no_instance_is_acknowledged_while_a_file_of_the_ledger_is_displaced(
    adapter: Adapter, tmp_path: Path, name: str, displace: Displace
) -> None:
    """Its row would be committed to a file that is lost. Verified to fail when that file is not checked."""
    with displace(tmp_path / "data" / name):
        assert name in adapter.resources.problem()
        [refused] = store(adapter)
        assert StoreOutcome.OUT_OF_SPACE == refused.outcome
        assert name in refused.reason
        with pytest.raises(LedgerReplaced, match=name), adapter.ledger.write():
            pass
    assert [StoreOutcome.STORED] == receive(adapter)
    assert {"pending": 2} == adapter.states


def test_the_first_transaction_of_a_process_reports_a_displaced_ledger(adapter: Adapter, tmp_path: Path) -> None:
    """The process has not recorded the files of the ledger's log yet. Verified to fail when OSErrors are passed on."""
    ledger = Ledger(adapter.ledger.url)
    with ledger.read():
        pass  # opens a connection
    with moved(tmp_path / "data"), pytest.raises(LedgerReplaced, match=r"ledger\.sqlite-wal"), ledger.write():
        pass
    with ledger.write():
        pass
    ledger.close()


def test_a_deleted_ledger_is_not_created_again(adapter: Adapter, tmp_path: Path) -> None:
    """A new connection would begin an empty ledger. Verified to fail when connections are not checked."""
    (tmp_path / "data" / "ledger.sqlite").unlink()
    with adapter.ledger.read(), pytest.raises(LedgerReplaced), adapter.ledger.read():
        pass
    assert not (tmp_path / "data" / "ledger.sqlite").exists()


@pytest.mark.parametrize("backend", ["local"])
@pytest.mark.parametrize("displace", [moved, copied])
def test_a_displaced_segment_stops_all_storing_until_it_is_back(
    adapter: Adapter, tmp_path: Path, displace: Displace
) -> None:
    """Instances that were acknowledged are missing. So other segments are not used either: an operator must act.

    Verified to fail when a segment is checked only with its own records.
    """
    other = adapter.storage.writer()  # of another sender: it uses a segment of its own
    other.write(b"x" * 2**20)
    [path] = [path for path in segments(tmp_path) if path.stat().st_blocks]
    with displace(path):
        [refused] = store(adapter)
        assert StoreOutcome.OUT_OF_SPACE == refused.outcome
        assert path.name in refused.reason
        key = other.finish()
        with pytest.raises(StorageUnavailable, match=path.name):
            adapter.storage.sync([key])
    assert [StoreOutcome.STORED] == receive(adapter)
    assert {"pending": 2} == adapter.states


@pytest.mark.parametrize("backend", ["local"])
@pytest.mark.parametrize("displace", [moved, copied, emptied])
@pytest.mark.parametrize("name", ["data", "data/instances"])
def test_an_instance_that_was_refused_is_not_in_its_segment_when_that_is_back(
    adapter: Adapter, tmp_path: Path, name: str, displace: Displace
) -> None:
    """It was written before the refusal, so a start would enter its row.

    Verified to fail when the record is deleted by the path of the segment.
    """
    with displace(tmp_path / name):
        [refused] = store(adapter)
        assert StoreOutcome.OUT_OF_SPACE == refused.outcome
    assert 1 == len(list(adapter.storage.keys()))


@pytest.mark.parametrize("backend", ["files"])
def test_a_file_that_was_replaced_before_its_sync_is_not_stored(adapter: Adapter, tmp_path: Path) -> None:
    """Otherwise the other file would get its name. Verified to fail without the check."""
    writer = adapter.storage.writer()
    writer.write(b"content")
    key = writer.finish()
    [part] = (tmp_path / "data" / "instances" / "incoming").iterdir()
    part.rename(tmp_path / "content")
    part.write_bytes(b"another")
    with pytest.raises(StorageUnavailable, match="was replaced"):
        adapter.storage.sync([key])
    assert key not in list(adapter.storage.keys())


def segments(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "instances").glob("*.segment"))


def store(adapter: Adapter) -> list[StoreResult]:
    """Receive an instance with the store of `adapter`, without the steps of the host."""
    request = make_request(data_set := make_instance(), "KEEP", "SENDER", "association")
    return [adapter._store.keep(request, encode(data_set))]
