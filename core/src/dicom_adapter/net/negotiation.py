"""Which presentation contexts are accepted (PS3.8 section 9.3.3.2): verification, and storage of whatever there is.

Every storage SOP class is taken, private and future ones too, in every transfer syntax whose data sets can be read as
they come: nothing is decoded or transcoded. Deflated data sets cannot: a kilobyte of them may become a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary

from dicom_adapter.net.associate import ContextResult, ProposedContext

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"

ACCEPTANCE, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4  # PS3.8 table 9-18

NOT_TAKEN = {
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.4.95": "JPIP Referenced Deflate",
    "1.2.840.10008.1.2.4.205": "JPIP HTJ2K Referenced Deflate",
    "1.2.840.10008.1.2.6.1": "RFC 2557 MIME encapsulation",
    "1.2.840.10008.1.2.6.2": "XML Encoding",
    "1.2.840.10008.1.20": "Papyrus 3 Implicit VR Little Endian",
}


def negotiate(contexts: Iterable[ProposedContext]) -> list[ContextResult]:
    """An answer to each, in their order. Of the transfer syntaxes the first that is taken: the requestor's choice."""
    return [_answer(context) for context in contexts]


def _answer(context: ProposedContext) -> ContextResult:
    name, first = context.abstract_syntax, context.transfer_syntaxes[0]
    if name != VERIFICATION and not is_stored(name):
        return ContextResult(context.context_id, ABSTRACT_SYNTAX_NOT_SUPPORTED, name, first)
    taken = next((syntax for syntax in context.transfer_syntaxes if syntax not in NOT_TAKEN), None)
    if taken is None:
        return ContextResult(context.context_id, TRANSFER_SYNTAXES_NOT_SUPPORTED, name, first)
    return ContextResult(context.context_id, ACCEPTANCE, name, taken)


@lru_cache(maxsize=1024)
def is_stored(sop_class_uid: str) -> bool:
    """Whether instances of this class are kept: those that PS3.6 calls storage, and those that it does not know."""
    name, kind, *_ = UID_dictionary.get(sop_class_uid, ("Storage", "SOP Class"))
    return "SOP Class" in kind and "Storage" in name and "Commitment" not in name and "Directory" not in name
