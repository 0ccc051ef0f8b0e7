"""Create a schedule from the arrivals in a ledger, with neutral names instead of patient data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from attrs import define, field

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.dicom.synthetic import MODALITIES
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.simulation.schedule import ScheduledArrival

BATCH = 1000  # number of rows that are read together
LONGEST_GAP_S = 1.0  # longest pause between two instances of one line; a longer pause starts a new line
BY_SOP_CLASS = {str(kind.sop_class): modality for modality, kind in MODALITIES.items()}
OTHER = "OT"  # modality for SOP classes without synthetic instances


@define
class _Names:
    """Neutral names for values, numbered in the order of their first use."""

    kind: str
    known: dict[object, str] = field(factory=dict)

    def __call__(self, found: object) -> str:
        return self.known.setdefault(found, f"{self.kind}-{len(self.known) + 1}")


def record(ledger: Ledger) -> list[ScheduledArrival]:
    """Return the arrivals in the ledger, including reclaimed instances; the first is at 0 s."""
    patients, studies, series, associations = map(_Names, ("patient", "study", "series", "association"))
    began: datetime | None = None
    found = []
    for run in _runs(_all(ledger)):
        first, last = run[0], run[-1]
        began = began or first.received_at
        found.append(
            ScheduledArrival(
                time=(first.received_at - began).total_seconds(),
                ae_title=first.ae_title,
                patient=patients((first.patient_id.strip(), first.issuer_of_patient_id.strip())),
                study=studies(first.study_instance_uid),
                series=series(first.series_instance_uid),
                count=len(run),
                over=(last.received_at - first.received_at).total_seconds(),
                modality=BY_SOP_CLASS.get(first.sop_class_uid, OTHER),
                association=associations(first.association_id),
                calling_ae_title=first.calling_ae_title,
            )
        )
    return found


def _all(ledger: Ledger) -> Iterator[InstanceStorageInfo]:
    last = 0
    while True:
        with ledger.read() as transaction:
            batch = instances.arrived_after(transaction, last, BATCH)
        if not batch:
            return
        yield from batch
        last = batch[-1].instance_id


def _runs(arrived: Iterable[InstanceStorageInfo]) -> Iterator[list[InstanceStorageInfo]]:
    """Yield consecutive instances of one series in one association, without a long pause, as one list."""
    run: list[InstanceStorageInfo] = []
    for instance in arrived:
        if run and not _continues(run[-1], instance):
            yield run
            run = []
        run.append(instance)
    if run:
        yield run


def _continues(last: InstanceStorageInfo, instance: InstanceStorageInfo) -> bool:
    alike = ("association_id", "ae_title", "series_instance_uid", "sop_class_uid")
    gap = (instance.received_at - last.received_at).total_seconds()
    return 0 <= gap <= LONGEST_GAP_S and all(getattr(last, name) == getattr(instance, name) for name in alike)
