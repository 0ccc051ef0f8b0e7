"""The state table of an acceptor (PS3.8 table 9-10) as text, parsed when the module is imported."""

from __future__ import annotations

from dicom_adapter.net.indications import AssociationState

# The columns of PS3.8 table 9-10 for the states in `AssociationState`. A row named after a PDU, such as A-ABORT, is the
# arrival of this PDU. "-": the event is impossible in the state.
STATE_TABLE = """
    event                       Sta2    Sta3    Sta6    Sta8    Sta13
    A-ASSOCIATE-AC              AA-1    AA-8    AA-8    AA-8    AA-6
    A-ASSOCIATE-RJ              AA-1    AA-8    AA-8    AA-8    AA-6
    A-ASSOCIATE-RQ              AE-6    AA-8    AA-8    AA-8    AA-7
    accept                      -       AE-7    -       -       -
    reject                      -       AE-8    -       -       -
    P-DATA-TF                   AA-1    AA-8    DT-2    AA-8    AA-6
    data                        -       -       DT-1    AR-7    -
    A-RELEASE-RQ                AA-1    AA-8    AR-2    AA-8    AA-6
    A-RELEASE-RP                AA-1    AA-8    AA-8    AA-8    AA-6
    release                     -       -       -       AR-4    -
    abort                       AA-1    AA-1    AA-1    AA-1    -
    A-ABORT                     AA-2    AA-3    AA-3    AA-3    AA-2
    closed                      AA-5    AA-4    AA-4    AA-4    AR-5
    ARTIM expired               AA-2    -       -       -       AA-2
    invalid PDU                 AA-1    AA-8    AA-8    AA-8    AA-7
"""


def _read_table(text: str) -> dict[tuple[str, AssociationState], str | None]:
    """Return the action of each event in each state, such as AA-8; None if the event is impossible in the state."""
    lines = [line.rsplit(maxsplit=5) for line in text.strip().splitlines()]
    states = [AssociationState(name) for name in lines[0][1:]]
    return {
        (event.strip(), state): cell if cell != "-" else None
        for event, *cells in lines[1:]
        for state, cell in zip(states, cells, strict=True)
    }


ACTIONS = _read_table(STATE_TABLE)
