"""Transfer syntaxes in the configuration, and the transfer syntaxes that the adapter does not support."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from dicom_adapter.config.names import Refined, uid

# Their data sets are deflated, or are not encoded as in a Part 10 file.
UNSUPPORTED_TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.4.95": "JPIP Referenced Deflate",
    "1.2.840.10008.1.2.4.205": "JPIP HTJ2K Referenced Deflate",
    "1.2.840.10008.1.2.6.1": "RFC 2557 MIME encapsulation",
    "1.2.840.10008.1.2.6.2": "XML Encoding",
    "1.2.840.10008.1.2.7.1": "SMPTE ST 2110-20 Uncompressed Progressive Active Video",
    "1.2.840.10008.1.2.7.2": "SMPTE ST 2110-20 Uncompressed Interlaced Active Video",
    "1.2.840.10008.1.2.7.3": "SMPTE ST 2110-30 PCM Digital Audio",
    "1.2.840.10008.1.20": "Papyrus 3 Implicit VR Little Endian",
}


def transfer_syntax(text: str) -> str:
    """Accept the UID of a transfer syntax that the adapter supports, or a UID that DICOM does not define."""
    from pydicom._uid_dict import UID_dictionary

    uid(text)
    name, kind, *_ = UID_dictionary.get(text, ("", "Transfer Syntax"))
    if kind != "Transfer Syntax":
        raise ValueError(f"must be the UID of a transfer syntax; it is that of {name}")
    if text in UNSUPPORTED_TRANSFER_SYNTAXES:
        raise ValueError(f"must be a transfer syntax that the adapter supports; {name} is not one of them")
    return text


TransferSyntax: TypeAlias = Annotated[str, Refined(transfer_syntax)]
