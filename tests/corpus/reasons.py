"""The reasons why the adapter answers a case in another way than other receivers, by a pattern of the case's name."""

from __future__ import annotations

DATA_SETS, ASSOCIATIONS = "data sets", "associations"  # the kinds of cases

ENCODING = "no platform could read it (`wrong-encoding` may quarantine it instead)"
IDENTITY = "the identity cannot be read with certainty, and a guess might mix up two patients"
UIDS = "grouping needs the UIDs of study, series and instance (PS3.5 section 9)"
REQUEST = "the data set contradicts the request (PS3.4 section B.2.3)"
UNCHANGED = "the identity is certain; the other elements are stored unchanged and not interpreted"
NO_DATA_SET = "there is no identity in it"
NO_MEANING_LOST = "no meaning is lost: accepted, with one line in the log"
UNEXPECTED = "PS3.8 section 9.2: an unexpected or invalid PDU ends the association"
EXACT = "called AE titles are compared exactly; an unknown one is rejected at once"
VERSION = "PS3.8 section 9.3.2: bit 0 of the protocol version is set"
APPLICATION = "PS3.8 annex A has one application context"
NO_PATIENT = "these instances carry no patient, so no processor could group them"
ONLY_STORAGE = "the adapter provides storage and verification only"
PRIVATE_CLASS = "an abstract syntax that PS3.6 does not list may be a private storage class"
KNOWN_SYNTAX = "known transfer syntaxes are preferred; others are accepted only if the AE title allows them"
DEFLATED = "data sets are stored while they arrive, and the identity of a deflated one cannot be read from them"
TWO_NAMES = "the abstract syntax is ambiguous; the other contexts are not affected"

REASONS: dict[str, list[tuple[str, str]]] = {
    DATA_SETS: [
        (r"instead of (im|ex|big|JPEG)|native pixels|^encapsulated pixels, |a whole file", ENCODING),
        (r"two patient ids|too long|too short|truncated patient|without its end|lower case", IDENTITY),
        (r"another SOP", REQUEST),
        (r"UID", UIDS),
        (r"no data set|instead of a data set|only the first group", NO_DATA_SET),
        (r"", UNCHANGED),
    ],
    ASSOCIATIONS: [
        (r"protocol version", VERSION),
        (r"called AE title (in|of|that)", EXACT),
        (r"(another|empty|no) application context", APPLICATION),
        (r"hanging|palettes", NO_PATIENT),
        (r"query|procedure step", ONLY_STORAGE),
        (r"unknown abstract", PRIVATE_CLASS),
        (r"abstract syntax twice", TWO_NAMES),
        (r"deflated", DEFLATED),
        (r"transfer syntax with|no transfer syntax|empty transfer syntax|100 transfer", NO_MEANING_LOST),
        (r"transfer syntax", KNOWN_SYNTAX),
        (
            r"two requests|before the association|PDU|HTTP|TLS|10 bytes|^an item that is too long|no presentation",
            UNEXPECTED,
        ),
        (r"", NO_MEANING_LOST),
    ],
}
