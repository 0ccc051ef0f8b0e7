"""The instances of the upload benchmark: stored once by the adapter's code, then provided to each run.

A run gets a copy of the ledger and hard links to the files. All runs therefore read the same blocks, and the adapter
may reclaim submitted instances.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import update

from dicom_adapter.api.receiving import StoreOutcome, StoreRequest
from dicom_adapter.config import load
from dicom_adapter.dicom import synthetic
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import Ledger, schema
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources

AE_TITLE = "LUNG"
PIPELINE = "8abf244aff7647989d4f6b3987a85759"
EDGE = 512  # pixels of 16 bits, that is, 512 KiB in each instance
PIECE_BYTES = 1 << 20
# `timeout` of the group. Before the job is created, the service must have started and its memory must be measured.
QUIET_S = 20

# `{storage}`: `make` sets `durability` here. It is empty for the measured services, which run with the defaults.
CONFIGURATION = """\
[dicom]
port = 0
bind = "127.0.0.1"

[storage]
path = "data"
backend = "files"
watermark-percent = 100
reserve = 0
{storage}
{submitter}

[ae-titles.LUNG.settings]
group-by = "study"
timeout = {quiet}
interrupted = "submit"
pipeline-lung = "{pipeline}"
"""


@frozen(kw_only=True)
class Instances:
    """A data folder of the adapter with instances that are in no job yet."""

    folder: Path
    paths: tuple[Path, ...]  # of the Part 10 files
    size_bytes: int  # total size of all files

    def make_service_folder(self, folder: Path, submitter: str) -> Path:
        """Create the folder of a service with these instances. Returns the path of its configuration.

        `submitter`: the table [submitters.platform].
        """
        for path in self.paths:
            place = folder / path.relative_to(self.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)
        shutil.copy(self.folder / "data" / "ledger.sqlite", folder / "data")
        ledger = Ledger(f"sqlite:///{folder}/data/ledger.sqlite")
        with ledger.write() as transaction:  # the group becomes due QUIET_S after the start, not at once
            transaction.execute(update(schema.instances).values(received_at=SystemClock().now()))
        ledger.close()
        return configure(folder, submitter)


def clara_table(protocol: str, endpoint: str, parallel: int = 4) -> str:
    """Return the table [submitters.platform] for a Clara platform."""
    lines = (f"parallel = {parallel}", f'type = "clara-{protocol}"', f'endpoint = "{endpoint}"', "follow = false")
    return "\n".join(("[submitters.platform]", *lines))


def configure(folder: Path, submitter: str, storage: str = "") -> Path:
    """Write the configuration of a service."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.toml"
    text = CONFIGURATION.format(submitter=submitter, storage=storage, pipeline=PIPELINE, quiet=QUIET_S)
    path.write_text(text, encoding="utf-8")
    return path


def make(folder: Path, count: int) -> Instances:
    """Store one study of `count` CT images."""
    catalogue = discover().catalogue()
    configuration = configure(folder, clara_table("grpc", "127.0.0.1:1"), 'durability = "process"\n')
    config = load(configuration.read_bytes(), folder=folder, catalogue=catalogue).config
    assert config is not None, "the benchmark's own configuration is good"
    data_folder = DataFolder.of(config)
    data_folder.prepare(is_new=True)
    ledger, storage = data_folder.open_ledger(config.ledger_url), data_folder.open_storage(config.storage, catalogue)
    ledger.migrate()
    store = Store(config, Resources(ledger=ledger, storage=storage, clock=SystemClock()))
    for dataset in _study(count):
        answer = store.keep(_request(dataset), _encode(dataset))
        assert answer.outcome is StoreOutcome.STORED, answer.reason
    storage.close()
    ledger.close()
    paths = tuple(sorted((folder / "data" / "instances").glob("??/*.dcm")))
    return Instances(folder=folder, paths=paths, size_bytes=sum(path.stat().st_size for path in paths))


def _study(count: int) -> Iterator[Dataset]:
    study, series = synthetic.make_uid(), synthetic.make_uid()
    noise = random.Random(1).randbytes(EDGE * EDGE * 2 + count)  # noqa: S311 - pixels
    for number in range(count):
        yield synthetic.make_instance(
            study_uid=study,
            series_uid=series,
            instance_number=number + 1,
            rows=1,  # a synthetic image of full size takes long, and its pixels are replaced anyway
            columns=1,
            Rows=EDGE,
            Columns=EDGE,
            PixelData=noise[number : number + EDGE * EDGE * 2],
        )


def _encode(dataset: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    dataset["PixelData"].VR = "OW"
    write_dataset(file, dataset)
    return file.getvalue()


def _request(dataset: Dataset) -> StoreRequest:
    return StoreRequest(
        ae_title=AE_TITLE,
        calling_ae_title="BENCH",
        peer_address="127.0.0.1",
        association_id="bench",
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def read_all(instances: Instances, *, cached: bool) -> None:
    """Read every file in pieces. Without `cached`, the kernel is first advised to drop its cached pages."""
    piece = bytearray(PIECE_BYTES)
    for path in instances.paths:
        with path.open("rb", buffering=0) as file:
            if not cached:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.readinto(piece):
                pass


def write_all(instances: Instances, folder: Path, *, sync: bool) -> None:
    """Write new files with as many bytes as `instances`. With `sync`, each file is synced before it is closed."""
    folder.mkdir()
    data = instances.paths[0].read_bytes()
    for number in range(len(instances.paths)):
        with (folder / f"{number:06}.dcm").open("wb", buffering=0) as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())


def truncate_received(folder: Path) -> tuple[int, int]:
    """Truncate the received files, and return their number and total size.

    No file is deleted between runs: on ext4, creating files soon after deleting many is slow.
    """
    paths = list(folder.rglob("*.dcm"))
    size = sum(path.stat().st_size for path in paths)
    for path in paths:
        os.truncate(path, 0)
    return len(paths), size
