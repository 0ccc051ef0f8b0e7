"""Create a schedule from the arrivals in a ledger, with neutral names instead of patient data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from attrs import define, field, frozen

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.dicom.synthetic import MODALITIES
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.simulation.schedule import ScheduledArrival

BATCH = 1000  # number of rows that are read together
LONGEST_GAP_S = 1.0  # longest pause between two instances of one line; a longer pause starts a new line
BY_SOP_CLASS = {str(kind.sop_class): modality for modality, kind in MODALITIES.items()}
OTHER = "OT"  # modality for SOP classes without synthetic instances


@frozen(kw_only=True)
class Recording:
    """The schedule of the arrivals in a ledger."""

    arrivals: list[ScheduledArrival]  # the first is at 0 s
    has_other_sop_classes: bool  # arrivals of SOP classes without synthetic instances have the modality OTHER


@define
class _Names:
    """Neutral names for values, numbered in the order of their first use."""

    kind: str
    known: dict[object, str] = field(factory=dict)

    def __call__(self, value: object) -> str:
        return self.known.setdefault(value, f"{self.kind}-{len(self.known) + 1}")


def record(ledger: Ledger) -> Recording:
    """Return the arrivals in the ledger, including reclaimed instances."""
    patients, studies, series, associations = map(_Names, ("patient", "study", "series", "association"))
    began: datetime | None = None
    has_other_sop_classes = False
    arrivals = []
    for burst in _bursts(_all(ledger)):
        first, last = burst[0], burst[-1]
        began = began or first.received_at
        has_other_sop_classes |= first.sop_class_uid not in BY_SOP_CLASS
        arrivals.append(
            ScheduledArrival(
                time=(first.received_at - began).total_seconds(),
                ae_title=first.ae_title,
                patient=patients((first.patient_id.strip(), first.issuer_of_patient_id.strip())),
                study=studies(first.study_instance_uid),
                series=series(first.series_instance_uid),
                count=len(burst),
                over=(last.received_at - first.received_at).total_seconds(),
                modality=BY_SOP_CLASS.get(first.sop_class_uid, OTHER),
                association=associations(first.association_id),
                calling_ae_title=first.calling_ae_title,
            )
        )
    return Recording(arrivals=arrivals, has_other_sop_classes=has_other_sop_classes)


def _all(ledger: Ledger) -> Iterator[InstanceStorageInfo]:
    last = 0
    while True:
        with ledger.read() as transaction:
            batch = instances.arrived_after(transaction, last, BATCH)
        if not batch:
            return
        yield from batch
        last = batch[-1].instance_id


def _bursts(arrived: Iterable[InstanceStorageInfo]) -> Iterator[list[InstanceStorageInfo]]:
    """Yield consecutive instances of one series in one association, without a long pause, as one list."""
    burst: list[InstanceStorageInfo] = []
    for instance in arrived:
        if burst and not _continues(burst[-1], instance):
            yield burst
            burst = []
        burst.append(instance)
    if burst:
        yield burst


def _continues(last: InstanceStorageInfo, instance: InstanceStorageInfo) -> bool:
    alike = ("association_id", "ae_title", "series_instance_uid", "sop_class_uid")
    gap = (instance.received_at - last.received_at).total_seconds()
    return 0 <= gap <= LONGEST_GAP_S and all(getattr(last, name) == getattr(instance, name) for name in alike)
