"""The studies of the senders: synthetic instances, and the associations that deliver them."""

from __future__ import annotations

import zlib
from enum import Enum
from pathlib import Path
from random import Random

from attrs import field, frozen
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_adapter.dicom.synthetic import MODALITIES, make_instance, make_uid, write
from faults.adapter import AE_TITLES, CACHE, COMMANDS
from faults.records import data_set_bytes, data_set_digest

PATIENTS = 40  # a small number, so that several studies have the same patient
MAX_INSTANCES = 10  # of a study
ROWS = (8, 8, 8, 16, 16, 32, 64, 160)  # 8 rows fit into one PDU, 160 need several
TRANSFER_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)  # the adapter accepts no deflated data sets
NAMELESS = 0.06  # share of studies without a Patient ID: an AE title that groups by patient quarantines them
LATE, DUPLICATES, CHANGED = 0.3, 0.3, 0.2  # shares of studies in two parts, sent twice, sent with other bytes
LATER_SECONDS = (0.5, 12.0)  # the adapter waits for 5 seconds or more: some are in time, some are late


class End(str, Enum):
    """How an association ends."""

    RELEASE = "release"
    ABORT = "abort"  # A-ABORT after some of the instances
    BREAK = "break"  # the connection is reset after some of the sender's bytes
    LOSE_ANSWER = "lose answer"  # the connection is reset after some of the adapter's bytes


ENDS = {End.RELEASE: 70, End.ABORT: 10, End.BREAK: 12, End.LOSE_ANSWER: 8}  # per cent


@frozen(kw_only=True)
class Instance:
    """One Part 10 file to send."""

    path: Path
    sop_class: UID
    study_instance_uid: str
    sop_instance_uid: str
    transfer_syntax: UID
    digest: str
    checksum: int  # CRC-32 of the data set
    size_bytes: int


@frozen(kw_only=True)
class Delivery:
    """The instances of one association."""

    ae_title: str
    instances: tuple[Instance, ...] = field(repr=False)
    end: End = End.RELEASE
    ends_at: float = 1.0  # the share of instances or bytes after which the association ends


@frozen(kw_only=True)
class _Study:
    """The common attributes of a study's instances."""

    folder: Path
    seed: str
    ae_title: str
    modality: str
    patient: str
    rows: int
    transfer_syntax: UID

    def instance(self, number: int, version: int = 1) -> Instance:
        """Write one instance. Another version has the same SOP Instance UID and another data set."""
        data_set = make_instance(
            modality=self.modality,
            patient_id=self.patient,
            study_uid=make_uid(self.seed, "study"),
            series_uid=make_uid(self.seed, f"series/{number % 2}"),
            sop_uid=make_uid(self.seed, f"instance/{number}"),
            instance_number=number,
            rows=self.rows,
            columns=self.rows,
            transfer_syntax=self.transfer_syntax,
            accession_number=f"V{version}",
        )
        path = self.folder / f"{number}-{version}.dcm"
        write(data_set, path)
        return Instance(
            path=path,
            sop_class=data_set.SOPClassUID,
            study_instance_uid=data_set.StudyInstanceUID,
            sop_instance_uid=data_set.SOPInstanceUID,
            transfer_syntax=self.transfer_syntax,
            digest=data_set_digest(path),
            checksum=zlib.crc32(data_set_bytes(path)),
            size_bytes=path.stat().st_size,
        )


def deliveries(folder: Path, seed: str) -> list[tuple[float, Delivery]]:
    """Write the study of this seed to `folder`. Returns its deliveries, each with the seconds after which it is due."""
    random = Random(seed)
    study = _Study(
        folder=folder,
        seed=seed,
        ae_title=random.choice([*AE_TITLES, CACHE, COMMANDS]),  # more often these, whose studies cause further steps
        modality=random.choice(list(MODALITIES)),
        patient="" if random.random() < NAMELESS else f"SYN-{random.randrange(PATIENTS):04}",
        rows=random.choice(ROWS),
        transfer_syntax=random.choice(TRANSFER_SYNTAXES),
    )
    instances = [study.instance(number) for number in range(1, random.randint(1, MAX_INSTANCES) + 1)]
    late = random.randrange(len(instances)) if random.random() < LATE else 0
    parts = [instances[late:], instances[:late]]
    if random.random() < DUPLICATES:
        parts.append(_some(random, instances))
    if random.random() < CHANGED:
        parts.append([study.instance(number, version=2) for number in range(1, random.randint(1, len(instances)) + 1)])
    return [
        (random.uniform(*LATER_SECONDS) if number else 0.0, _delivery(random, study.ae_title, part))
        for number, part in enumerate(parts)
        if part
    ]


def _some(random: Random, instances: list[Instance]) -> list[Instance]:
    return random.sample(instances, random.randint(1, len(instances)))


def _delivery(random: Random, ae_title: str, instances: list[Instance]) -> Delivery:
    [end] = random.choices(list(ENDS), list(ENDS.values()))
    return Delivery(ae_title=ae_title, instances=tuple(instances), end=end, ends_at=random.random())
