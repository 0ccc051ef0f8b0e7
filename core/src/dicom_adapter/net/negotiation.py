"""Accept or reject presentation contexts (PS3.8 section 9.3.3.2): verification, and all storage SOP classes.

Every storage SOP class is accepted, also private and future ones, in every transfer syntax whose data sets can be
parsed while they arrive: nothing is decompressed or transcoded. Deflated data sets are not accepted: one kilobyte may
expand to a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary

from dicom_adapter.net.associate import ContextResult, ProposedContext

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"

ACCEPTANCE, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4  # PS3.8 table 9-18

UNSUPPORTED_TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.4.95": "JPIP Referenced Deflate",
    "1.2.840.10008.1.2.4.205": "JPIP HTJ2K Referenced Deflate",
    "1.2.840.10008.1.2.6.1": "RFC 2557 MIME encapsulation",
    "1.2.840.10008.1.2.6.2": "XML Encoding",
    "1.2.840.10008.1.20": "Papyrus 3 Implicit VR Little Endian",
}


def negotiate(contexts: Iterable[ProposedContext]) -> list[ContextResult]:
    """Return the result of each context, in their order, with the first supported transfer syntax that it proposes."""
    return [_result(context) for context in contexts]


def _result(context: ProposedContext) -> ContextResult:
    name, first = context.abstract_syntax, context.transfer_syntaxes[0]
    if name != VERIFICATION and not is_storage(name):
        return ContextResult(context.context_id, ABSTRACT_SYNTAX_NOT_SUPPORTED, name, first)
    supported = next(
        (syntax for syntax in context.transfer_syntaxes if syntax not in UNSUPPORTED_TRANSFER_SYNTAXES), None
    )
    if supported is None:
        return ContextResult(context.context_id, TRANSFER_SYNTAXES_NOT_SUPPORTED, name, first)
    return ContextResult(context.context_id, ACCEPTANCE, name, supported)


@lru_cache(maxsize=1024)
def is_storage(sop_class_uid: str) -> bool:
    """Return whether the class is a storage SOP class of PS3.6, or unknown to it."""
    name, kind, *_ = UID_dictionary.get(sop_class_uid, ("Storage", "SOP Class"))
    return "SOP Class" in kind and "Storage" in name and "Commitment" not in name and "Directory" not in name
