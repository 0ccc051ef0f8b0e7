"""Accept or reject presentation contexts (PS3.8 section 9.3.3.2): verification, and all storage SOP classes.

Every storage SOP class for instances of patients is accepted, also private and future classes, in every transfer syntax
whose data sets can be parsed while they arrive: nothing is decompressed or transcoded. Deflated data sets are not
accepted: one kilobyte may expand to a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice

from pydicom._uid_dict import UID_dictionary

from dicom_adapter.api.receiving import ContextRules
from dicom_adapter.config.transfer_syntaxes import UNSUPPORTED_TRANSFER_SYNTAXES
from dicom_adapter.dicom.identity import UID_GRAMMAR
from dicom_adapter.dicom.sop_classes import STORAGE_WITHOUT_PATIENT, is_storage
from dicom_adapter.net.associate import ContextResult, ProposedContext

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"

ACCEPTANCE, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4  # PS3.8 table 9-18

MAX_DESCRIBED = 12  # limit of the declined presentation contexts in a log line, and of the transfer syntaxes of each
ANY_CONTEXT = ContextRules()


def negotiate(contexts: Iterable[ProposedContext], rules: ContextRules = ANY_CONTEXT) -> list[ContextResult]:
    """Return the result of each context, in the order of the contexts.

    The first acceptable transfer syntax that the context proposes is accepted; known transfer syntaxes have precedence
    over unknown ones.
    """
    return [_result(context, rules) for context in contexts]


def _result(context: ProposedContext, rules: ContextRules) -> ContextResult:
    name = context.abstract_syntax
    if name == VERIFICATION:
        rules = ANY_CONTEXT  # a C-ECHO has no data set
    elif not is_storage(name) and not (name in STORAGE_WITHOUT_PATIENT and name in rules.ignored_sop_classes):
        return _declined(context, ABSTRACT_SYNTAX_NOT_SUPPORTED)
    acceptable = [syntax for syntax in context.transfer_syntaxes if _is_acceptable(syntax, rules)]
    if not acceptable:
        return _declined(context, TRANSFER_SYNTAXES_NOT_SUPPORTED)
    selected = next((syntax for syntax in acceptable if syntax in UID_dictionary), acceptable[0])
    return ContextResult(context.context_id, ACCEPTANCE, name, selected)


def _declined(context: ProposedContext, result: int) -> ContextResult:
    """Return the result of a declined context. Its transfer syntax is not significant."""
    return ContextResult(context.context_id, result, context.abstract_syntax, IMPLICIT_VR_LITTLE_ENDIAN)


def _is_acceptable(syntax: str, rules: ContextRules) -> bool:
    if not _is_transfer_syntax(syntax):
        return False
    is_known = syntax in UID_dictionary
    if rules.transfer_syntaxes is not None and syntax in rules.transfer_syntaxes:
        return True
    return rules.transfer_syntaxes is None if is_known else rules.accepts_unknown_transfer_syntaxes


@lru_cache(maxsize=1024)
def _is_transfer_syntax(uid: str) -> bool:
    """Return whether the UID may be that of a transfer syntax that the adapter supports."""
    if not UID_GRAMMAR.fullmatch(uid) or uid in UNSUPPORTED_TRANSFER_SYNTAXES:
        return False
    return uid not in UID_dictionary or UID_dictionary[uid][1] == "Transfer Syntax"


def describe_declined(
    contexts: Sequence[ProposedContext], results: Sequence[ContextResult], rules: ContextRules
) -> list[str]:
    """Return what was declined, for the log: abstract syntaxes, and transfer syntaxes that the rules exclude."""
    if rules.transfer_syntaxes is None and all(result.result == ACCEPTANCE for result in results):
        return []
    described = (_describe(*pair, rules) for pair in zip(contexts, results, strict=True))
    distinct = dict.fromkeys(filter(None, described))
    if len(distinct) <= MAX_DESCRIBED:
        return list(distinct)
    return [*islice(distinct, MAX_DESCRIBED), f"{len(distinct) - MAX_DESCRIBED} more"]


def _describe(context: ProposedContext, result: ContextResult, rules: ContextRules) -> str:
    name = _name(context.abstract_syntax)
    if result.result == ABSTRACT_SYNTAX_NOT_SUPPORTED:
        return f"{name}: abstract syntax"
    syntaxes: Iterable[str] = context.transfer_syntaxes
    if result.result == ACCEPTANCE:
        if rules.transfer_syntaxes is None or name == VERIFICATION:
            return ""
        syntaxes = (uid for uid in syntaxes if uid in UID_dictionary and not _is_acceptable(uid, rules))
    names = list(dict.fromkeys(map(_name, syntaxes)))
    if len(names) > MAX_DESCRIBED:
        names[MAX_DESCRIBED:] = ["…"]
    if not names:
        return "" if result.result == ACCEPTANCE else f"{name}: no transfer syntax"
    return f"{name}: transfer syntax {', '.join(names)}"


def _name(uid: str) -> str:
    return uid if UID_GRAMMAR.fullmatch(uid) else "not a UID"
