"""Presentation contexts: which abstract and transfer syntaxes are accepted, and how declined ones are logged."""

from __future__ import annotations

import socket
from itertools import permutations

import pytest

from dicom_adapter.api.receiving import AssociationDecision, ContextRules
from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.net.associate import ProposedContext
from dicom_adapter.net.negotiation import describe_declined, negotiate
from support.conversation import CT, EXPLICIT, IMPLICIT, VERIFICATION, associate, context, pdus
from support.listening import SECONDS, Listen

BIG_ENDIAN, JPEG_LOSSY, JPEG_LOSSLESS = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
PRIVATE, FUTURE = "1.2.840.113619.5.2", "1.2.840.10008.1.2.4.999"
NO_SYNTAXES = ("", "abc", "1.2.840.10008.1.2\x01", "1." * 40, CT, VERIFICATION, "1.2.840.10008.15.0.3.1")
HANGING_PROTOCOL = "1.2.840.10008.5.1.4.38.1"
ACCEPTED, NO_ABSTRACT, NO_TRANSFER = 0, 3, 4  # PS3.8 table 9-18
UNKNOWN_ALLOWED = ContextRules(accepts_unknown_transfer_syntaxes=True)


def result(*syntaxes: str, abstract: str = CT, rules: ContextRules | None = None) -> tuple[int, str]:
    """Return result and transfer syntax for one context.

    The transfer syntax of a context that is not accepted has no meaning.
    """
    [negotiated] = negotiate([ProposedContext(1, abstract, syntaxes)], rules or ContextRules())
    return negotiated.result, negotiated.transfer_syntax if negotiated.result == ACCEPTED else ""


# --- transfer syntaxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntaxes", list(permutations([EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG_LOSSLESS], 3)))
def test_the_requestor_selects_among_known_transfer_syntaxes(syntaxes: tuple[str, ...]) -> None:
    assert (ACCEPTED, syntaxes[0]) == result(*syntaxes)


@pytest.mark.parametrize("unknown", [PRIVATE, FUTURE, *NO_SYNTAXES, *UNSUPPORTED_TRANSFER_SYNTAXES])
@pytest.mark.parametrize("rules", [ContextRules(), UNKNOWN_ALLOWED], ids=["default", "unknown allowed"])
def test_a_known_transfer_syntax_precedes_unknown_ones(unknown: str, rules: ContextRules) -> None:
    """Every other acceptor accepts the known transfer syntax, so the requestor expects it.

    Verified to fail when the first proposed transfer syntax is accepted.
    """
    assert (ACCEPTED, IMPLICIT) == result(unknown, IMPLICIT, EXPLICIT, rules=rules)


@pytest.mark.parametrize("unknown", [PRIVATE, FUTURE])
def test_an_unknown_transfer_syntax_is_accepted_only_if_it_is_allowed(unknown: str) -> None:
    assert (NO_TRANSFER, "") == result(unknown)
    assert (ACCEPTED, unknown) == result(unknown, rules=UNKNOWN_ALLOWED)
    assert (ACCEPTED, unknown) == result(unknown, rules=ContextRules(transfer_syntaxes=frozenset({unknown})))
    both = ContextRules(transfer_syntaxes=frozenset({unknown, EXPLICIT}))
    assert (ACCEPTED, EXPLICIT) == result(unknown, IMPLICIT, EXPLICIT, rules=both)


@pytest.mark.parametrize("name", NO_SYNTAXES)
def test_a_name_that_is_no_transfer_syntax_is_never_accepted(name: str) -> None:
    """The name is text that is not a UID, or a UID with another meaning."""
    assert (NO_TRANSFER, "") == result(name, rules=UNKNOWN_ALLOWED)


@pytest.mark.parametrize("unsupported", UNSUPPORTED_TRANSFER_SYNTAXES)
def test_an_unsupported_transfer_syntax_is_never_accepted(unsupported: str) -> None:
    assert (NO_TRANSFER, "") == result(unsupported)
    listed = ContextRules(transfer_syntaxes=frozenset({unsupported}), accepts_unknown_transfer_syntaxes=True)
    assert (NO_TRANSFER, "") == result(unsupported, rules=listed)


def test_only_the_listed_transfer_syntaxes_are_accepted() -> None:
    """The order is still that of the requestor."""
    rules = ContextRules(transfer_syntaxes=frozenset({IMPLICIT, EXPLICIT, JPEG_LOSSLESS}))
    assert (ACCEPTED, EXPLICIT) == result(JPEG_LOSSY, EXPLICIT, IMPLICIT, rules=rules)
    assert (ACCEPTED, JPEG_LOSSLESS) == result(JPEG_LOSSLESS, EXPLICIT, rules=rules)
    assert (NO_TRANSFER, "") == result(JPEG_LOSSY, rules=rules)
    assert (NO_TRANSFER, "") == result(rules=rules)


def test_verification_does_not_depend_on_the_list() -> None:
    """A C-ECHO has no data set."""
    rules = ContextRules(transfer_syntaxes=frozenset({JPEG_LOSSLESS}))
    assert (ACCEPTED, IMPLICIT) == result(IMPLICIT, abstract=VERIFICATION, rules=rules)


# --- abstract syntaxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "abstract",
    ["", " ", "CT", "1.2.840.10008.5.1.4.1.1.2\x01", "1." * 40, EXPLICIT, "1.2.840.10008.3.1.1.1"],
)
def test_an_abstract_syntax_that_is_no_sop_class_is_not_storage(abstract: str) -> None:
    assert (NO_ABSTRACT, "") == result(IMPLICIT, abstract=abstract)


@pytest.mark.parametrize(
    "abstract",
    [
        HANGING_PROTOCOL,
        "1.2.840.10008.5.1.4.39.1",  # Color Palette
        "1.2.840.10008.5.1.4.43.1",  # Generic Implant Template
        "1.2.840.10008.5.1.4.44.1",  # Implant Assembly Template
        "1.2.840.10008.5.1.4.45.1",  # Implant Template Group
        "1.2.840.10008.5.1.4.1.1.200.1",  # CT Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.200.3",  # Protocol Approval
        "1.2.840.10008.5.1.4.1.1.200.7",  # XA Defined Procedure Protocol
        "1.2.840.10008.5.1.4.1.1.201.1",  # Inventory
    ],
)
def test_storage_classes_without_a_patient_are_not_accepted(abstract: str) -> None:
    """All instances of these classes would be refused. If the class is ignored, they are acknowledged and not kept."""
    assert (NO_ABSTRACT, "") == result(IMPLICIT, abstract=abstract)
    assert (ACCEPTED, IMPLICIT) == result(
        IMPLICIT, abstract=abstract, rules=ContextRules(ignored_sop_classes=frozenset({abstract}))
    )


@pytest.mark.parametrize("abstract", ["1.2.840.10008.5.1.4.1.1.200.2", "1.2.840.10008.5.1.4.1.1.200.8"])
def test_performed_procedure_protocols_have_a_patient(abstract: str) -> None:
    assert (ACCEPTED, IMPLICIT) == result(IMPLICIT, abstract=abstract)


# --- log --------------------------------------------------------------------------------------------------------------


def declined(*contexts: tuple[str, tuple[str, ...]], rules: ContextRules | None = None) -> list[str]:
    proposed = [ProposedContext(2 * number + 1, *proposal) for number, proposal in enumerate(contexts)]
    return describe_declined(proposed, negotiate(proposed, rules or ContextRules()), rules or ContextRules())


def test_declined_syntaxes_are_described() -> None:
    rules = ContextRules(transfer_syntaxes=frozenset({IMPLICIT}))
    descriptions = declined(
        (CT, (JPEG_LOSSY, IMPLICIT)),
        (CT, (JPEG_LOSSLESS, PRIVATE)),
        (HANGING_PROTOCOL, (IMPLICIT,)),
        (VERIFICATION, (IMPLICIT,)),
        rules=rules,
    )
    assert [
        f"{CT}: transfer syntax {JPEG_LOSSY}",
        f"{CT}: transfer syntax {JPEG_LOSSLESS}, {PRIVATE}",
        f"{HANGING_PROTOCOL}: abstract syntax",
    ] == descriptions


def test_transfer_syntaxes_that_the_requestor_may_omit_are_not_described() -> None:
    assert [] == declined((CT, (PRIVATE, IMPLICIT)), (CT, (EXPLICIT, IMPLICIT)), (VERIFICATION, (EXPLICIT,)))


def test_the_description_is_short_and_has_uids_only() -> None:
    """A peer can propose any amount of any text."""
    many = [(f"1.2.840.10008.5.1.4.31.{number}", (IMPLICIT,)) for number in range(100)]
    descriptions = declined(("Patient^Name", ("x" * 60_000,)), (CT, ("y" * 60_000,) * 100), *many)
    assert sum(map(len, descriptions)) < 2000
    assert "not a UID: abstract syntax" == descriptions[0]
    assert f"{CT}: transfer syntax not a UID" == descriptions[1]
    many = [("1.2.840.10008.5.1.4.31", (IMPLICIT,)), *((f"1.2.840.10008.3.1.2.{n}", (IMPLICIT,)) for n in range(100))]
    assert sum(map(len, declined(*many))) < 2000


def test_an_association_with_declined_contexts_is_logged(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules come from the decision on the association.

    Verified to fail when the rules of the decision are not applied.
    """
    listening = listen()
    rules = ContextRules(transfer_syntaxes=frozenset({IMPLICIT}))
    monkeypatch.setattr(listening.decisions, "decide", lambda *_request: AssociationDecision(contexts=rules))
    with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as connection:
        connection.sendall(associate(context(1, CT, (JPEG_LOSSY,)), context(3, CT, (JPEG_LOSSY, IMPLICIT))))
        header = connection.recv(6, socket.MSG_WAITALL)
        body = connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
        assert [0x02] == [kind for kind, _body in pdus(header + body)]
    logged = listening.wait_for("presentation_contexts_declined")
    assert [f"{CT}: transfer syntax {JPEG_LOSSY}"] == logged["declined"]
    assert ("LUNG", "CT1", "127.0.0.1") == (logged["ae_title"], logged["calling_ae_title"], logged["peer"])
