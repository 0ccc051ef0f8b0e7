"""Rules for names and addresses in the configuration.

Each function returns the normalized value, or raises an error whose message continues a sentence that begins with the
value: `'x' must be …`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, TypeAlias

from attrs import frozen

from dicom_adapter.config.suggest import suggestion

LONGEST_AE_TITLE = 16  # PS3.5 section 6.2, value representation AE
UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 section 9, but more tolerant: some devices violate the rules for components
# A submitter's name is used as folder name, metric label and value in the ledger.
SUBMITTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VRS_WITHOUT_TEXT = {"SQ", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW"}
SQLITE = "sqlite:///"


@frozen
class Refined:
    """Annotation of a text, `Annotated[str, Refined(rule)]`: the converter applies `rule` to the text."""

    rule: Callable[[str], str]


@frozen
class Undisclosed:
    """Annotation of a type, `Annotated[…, Undisclosed()]`: messages omit the value, which may contain a secret."""


def ae_title(text: str) -> str:
    """Return an application entity title without padding (PS3.5 section 6.2)."""
    title = text.strip(" ")
    if not title:
        raise ValueError("must not be empty; an AE title has 1 to 16 characters")
    if len(title) > LONGEST_AE_TITLE:
        raise ValueError(f"must have at most 16 characters as an AE title; it has {len(title)}")
    wrong = sorted({c for c in title if not " " <= c <= "~" or c == "\\"})
    if wrong:
        raise ValueError(f"must not contain {', '.join(map(ascii, wrong))}; an AE title is printable ASCII without \\")
    return title


def uid(text: str) -> str:
    """Accept a DICOM unique identifier (PS3.5 section 9)."""
    if not UID.fullmatch(text):
        raise ValueError("must be a UID: 1 to 64 digits and dots, such as 1.2.840.10008.5.1.4.1.1.7")
    return text


def submitter_name(text: str) -> str:
    """Accept the <name> of a [submitters.<name>] table."""
    if not SUBMITTER_NAME.fullmatch(text):
        raise ValueError(
            "must be a name of 1 to 64 letters, digits, '.', '_' and '-' that begins with a letter or digit"
        )
    return text


def token_name(text: str) -> str:
    """Accept the <name> of a [http.tokens.<name>] table."""
    return submitter_name(text)


def keyword(text: str) -> str:
    """Accept the keyword (PS3.6) of a data element whose value can be sent as text."""
    from pydicom.datadict import dictionary_VR, keyword_dict

    if not text or text not in keyword_dict:
        raise ValueError(f"must be a DICOM keyword, such as StudyDate{suggestion(text, filter(None, keyword_dict))}")
    representation = dictionary_VR(keyword_dict[text])
    if representation in VRS_WITHOUT_TEXT:
        raise ValueError(f"must be the keyword of a text, number or date; {text} has VR {representation}")
    return text


def address(text: str) -> str:
    """Accept an IP address to listen on."""
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address, such as 0.0.0.0 (every interface) or 127.0.0.1") from None
    return text


def network(text: object) -> Network:
    """Return an IP address or a network in CIDR notation as a network."""
    if not isinstance(text, str):
        raise TypeError('must be an IP address or a network, such as "10.0.0.7" or "10.0.0.0/24"')
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise ValueError('must be an IP address or a network, such as "10.0.0.7" or "10.0.0.0/24"') from None
    # ip_network drops the host bits. A single address is a network without host bits.
    if ip_address(text.partition("/")[0]) != found.network_address:
        raise ValueError(f"must have no host bits set; the network is {found}")
    return found


def ledger_url(folder: Path, text: str) -> str:
    """Return the ledger's SQLAlchemy URL. A relative SQLite file is relative to `folder`, not the working directory."""
    scheme = text.partition(":")[0].partition("+")[0]
    if scheme in {"postgresql", "postgres"}:
        raise ValueError("must begin with sqlite:///; PostgreSQL is not supported by this version")
    file = text.removeprefix(SQLITE)
    if file == text or not file:
        raise ValueError("must be sqlite:///<file>; omit it to use ledger.sqlite in the storage folder")
    if file.startswith((":memory:", "file:")) or "?" in file:
        raise ValueError("must name a plain file, because several processes open it")
    return f"{SQLITE}{folder / file}"


AeTitle: TypeAlias = Annotated[str, Refined(ae_title)]
Uid: TypeAlias = Annotated[str, Refined(uid)]
Keyword: TypeAlias = Annotated[str, Refined(keyword)]
SubmitterName: TypeAlias = Annotated[str, Refined(submitter_name)]
TokenName: TypeAlias = Annotated[str, Refined(token_name)]
Address: TypeAlias = Annotated[str, Refined(address)]
LedgerUrl: TypeAlias = Annotated[str, Undisclosed()]  # a URL may contain a password
Network: TypeAlias = IPv4Network | IPv6Network
