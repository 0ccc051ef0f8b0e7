"""The Error Comment (0000,0902) of a response, as error messages and logs may show it.

A node may write anything into its comment: the name of the patient in any form, an ID, a birth date. The submitter does
not have these values, so it cannot search for them. It shows only words of a fixed list; "…" stands for all others.
"""

from __future__ import annotations

LONGEST_COMMENT = 64  # characters of VR LO
OMITTED = "…"
# Usual words of error comments. The list has no words that are also names, such as an, do, in, may, no, so and will.
_WORDS = """
abort aborted accept accepted access allowed already archive association attribute attributes authorized available
busy cancelled cannot capacity class closed closing coerced command conflict connection context corrupt could
damaged database dataset decode decoder denied device different directory disabled discarded disk duplicate element
elements empty encoding error exceeded exception exists expected expired failed failure file filesystem folder for
found from full has have identifier incomplete inconsistent index instance instances insufficient internal invalid
is length license limit locked mandatory maximum media memory mismatch missing modality network not object offline
online operation out overflow owner parse parsing patient permission permitted pixel possible processing protocol
quarantined queue quota reason refused rejected required resource resources response retry sequence series server
service size sop space status storage stored study supported syntax system temporarily temporary the timeout
transaction transfer uid unable unavailable unexpected unknown unsupported update used user value values
verification volume was with without written wrong
"""
KNOWN_WORDS = frozenset(_WORDS.split())


def shown_comment(comment: str) -> str:
    """Return a comment with only the words of KNOWN_WORDS; "" if it has none of them."""
    shown: list[str] = []
    for token in comment[:LONGEST_COMMENT].replace("\0", " ").split():
        word = token.strip(".,:;!?()[]'\"")
        if word.isascii() and word.lower() in KNOWN_WORDS:
            shown.append(word.lower())
        elif word and shown[-1:] != [OMITTED]:
            shown.append(OMITTED)
    return " ".join(shown) if shown and shown != [OMITTED] else ""
