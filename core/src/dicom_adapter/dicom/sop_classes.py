"""Storage SOP classes (PS3.4 annex B), as PS3.6 lists them."""

from __future__ import annotations

from functools import lru_cache

from pydicom._uid_dict import UID_dictionary

from dicom_adapter.dicom.identity import UID_GRAMMAR

# Storage SOP classes whose instances belong to no patient and no study (PS3.4 table GG.3-1)
STORAGE_WITHOUT_PATIENT = {
    "1.2.840.10008.5.1.4.38.1": "Hanging Protocol Storage",
    "1.2.840.10008.5.1.4.39.1": "Color Palette Storage",
    "1.2.840.10008.5.1.4.43.1": "Generic Implant Template Storage",
    "1.2.840.10008.5.1.4.44.1": "Implant Assembly Template Storage",
    "1.2.840.10008.5.1.4.45.1": "Implant Template Group Storage",
    "1.2.840.10008.5.1.4.1.1.200.1": "CT Defined Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.200.3": "Protocol Approval Storage",
    "1.2.840.10008.5.1.4.1.1.200.7": "XA Defined Procedure Protocol Storage",
    "1.2.840.10008.5.1.4.1.1.201.1": "Inventory Storage",
}


@lru_cache(maxsize=1024)
def is_storage(sop_class_uid: str) -> bool:
    """Return whether the class is a storage SOP class of PS3.6 for instances of patients, or unknown to PS3.6."""
    if not UID_GRAMMAR.fullmatch(sop_class_uid) or sop_class_uid in STORAGE_WITHOUT_PATIENT:
        return False
    name, kind, *_ = UID_dictionary.get(sop_class_uid, ("Storage", "SOP Class"))
    return "SOP Class" in kind and "Storage" in name and "Commitment" not in name and "Directory" not in name
