"""Decisions on associations: a table of accepted and rejected requests, without network or disk."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
from attrs import evolve

from dicom_adapter import Capacity
from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, ContextRules, Rejection
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.config.model import AeTitleConfig, CallerConfig, Config, StorageConfig, SubmitterConfig
from dicom_adapter.flow.acceptance import SMALLEST_ASSOCIATION_BYTES, Space
from dicom_adapter.flow.association import Load, judge
from dicom_adapter.flow.free_space import LEDGER_RESERVE_BYTES, storage_full
from dicom_adapter.net.codes import REJECT_REASON

GB = 10**9
HALF_FREE = Capacity(total_bytes=100 * GB, free_bytes=50 * GB)

# Result, source and reason of A-ASSOCIATE-RJ, from PS3.8 table 9-21.
NOT_CALLED = (1, 1, 7)  # rejected-permanent, service-user, called AE title not recognized
NOT_CALLING = (1, 1, 3)  # rejected-permanent, service-user, calling AE title not recognized
CONGESTED = (2, 3, 1)  # rejected-transient, service-provider (presentation), temporary congestion
AT_ITS_LIMIT = (2, 3, 2)  # rejected-transient, service-provider (presentation), local limit exceeded


def configured(*callers: CallerConfig, storage: StorageConfig | None = None) -> Config:
    """Return a configuration: LUNG accepts `callers`, or all callers if none are given. OPEN accepts all callers."""
    return Config(
        dicom=DicomConfig(max_associations=2),
        storage=storage or StorageConfig(path=Path("data")),
        submitters={"platform": SubmitterConfig(type="memory")},
        ae_titles={"LUNG": AeTitleConfig(allowed_callers=callers or None), "OPEN": AeTitleConfig()},
    )


def make_request(called: str = "LUNG", calling: str = "CT1", peer: str = "10.0.0.7", *names: str) -> AssociationRequest:
    """Return an association request. `names` are those of the caller's certificate."""
    return AssociationRequest(
        called_ae_title=called, calling_ae_title=calling, peer_address=peer, certificate_names=frozenset(names)
    )


def make_load(
    associations: int = 0, capacity: Capacity | None = HALF_FREE, stopped: Mapping[str, str] | None = None
) -> Load:
    return Load(associations=associations, space=Space(capacity=capacity), stopped=stopped or {}, full={})


def caller(ae_title: str | None = None, host: str | None = None, certificate: str | None = None) -> CallerConfig:
    return CallerConfig(ae_title=ae_title, host=None if host is None else ip_network(host), certificate=certificate)


def rejection_of(decision: AssociationDecision) -> tuple[int, int, int] | None:
    """Return result, source and reason of the rejection, or None if the association is accepted."""
    return None if decision.rejection is None else REJECT_REASON[decision.rejection]


STOPPED = make_load(stopped={"LUNG": "its processor failed"})
FULL = Capacity(total_bytes=100 * GB, free_bytes=1)


@pytest.mark.parametrize(
    ("request_", "load", "answer"),
    [
        (make_request(), make_load(), None),
        (make_request(called="KIDNEY"), make_load(), NOT_CALLED),
        (make_request(called="lung"), make_load(), NOT_CALLED),
        (make_request(called=""), make_load(), NOT_CALLED),
        (make_request(called="OPEN", calling=""), make_load(), None),
        (make_request(calling="PET"), make_load(), NOT_CALLING),
        (make_request(), STOPPED, CONGESTED),
        (make_request(called="OPEN"), STOPPED, None),
        (make_request(), make_load(associations=1), None),
        (make_request(), make_load(associations=2), AT_ITS_LIMIT),
        (make_request(), make_load(capacity=FULL), AT_ITS_LIMIT),
        (make_request(), make_load(capacity=None), None),
    ],
)
def test_each_rejection_has_the_result_source_and_reason_of_the_standard(
    request_: AssociationRequest, load: Load, answer: tuple[int, int, int] | None
) -> None:
    """PS3.8 table 9-21: permanent when the request is wrong, transient when the adapter has no capacity."""
    assert answer == rejection_of(judge(request_, configured(caller("CT1")), load))


def test_every_rejection_has_a_reason_for_operators() -> None:
    """An acceptance has no reason."""
    config = configured(caller("CT1"))
    cases = [make_request(called="KIDNEY"), make_request(calling="PET"), make_request()]
    assert all(judge(request, config, STOPPED).reason for request in cases)
    assert "its processor failed" == judge(make_request(), config, STOPPED).reason
    assert "max-associations = 2 are open" == judge(make_request(), config, make_load(associations=2)).reason
    assert AssociationDecision() == judge(make_request(), config, make_load())


def test_permanent_reasons_come_before_transient_ones() -> None:
    """All checks fail at first. Each time the cause of a reason is corrected, the next reason is returned.

    Verified to fail when two of the checks are swapped (any pair).
    """
    config = configured(caller("CT1"))
    everything = make_load(associations=9, capacity=FULL, stopped={"LUNG": "its processor failed"})
    rejections = [
        rejection_of(judge(make_request(called="KIDNEY", calling="PET"), config, everything)),
        rejection_of(judge(make_request(calling="PET"), config, everything)),
        rejection_of(judge(make_request(), config, everything)),
    ]
    assert [NOT_CALLED, NOT_CALLING, CONGESTED] == rejections

    many = judge(make_request(), config, make_load(associations=9, capacity=FULL))
    full = judge(make_request(), config, make_load(capacity=FULL))
    assert [AT_ITS_LIMIT, AT_ITS_LIMIT] == [rejection_of(many), rejection_of(full)]
    assert many.reason.startswith("max-associations")
    assert full.reason.startswith("storage")


# --- allowed-callers --------------------------------------------------------------------------------------------------

BY_NAME = (caller("CT1"), caller("CT2"))
BY_NETWORK = (caller(host="10.0.0.0/24"), caller(host="2001:db8::/32"))
BY_BOTH = (caller("PACS", "10.0.0.0/24"),)


@pytest.mark.parametrize(
    ("callers", "calling", "peer", "allowed"),
    [
        ((), "ANYBODY", "203.0.113.9", True),
        (BY_NAME, "CT1", "203.0.113.9", True),
        (BY_NAME, "CT2", "2001:db8::1", True),
        (BY_NAME, "CT3", "10.0.0.7", False),
        (BY_NAME, "ct1", "10.0.0.7", False),
        (BY_NAME, "CT1 ", "10.0.0.7", False),
        (BY_NETWORK, "ANYBODY", "10.0.0.255", True),
        (BY_NETWORK, "ANYBODY", "10.0.1.0", False),
        (BY_NETWORK, "ANYBODY", "2001:db8:ffff::1", True),
        (BY_NETWORK, "ANYBODY", "2001:db9::1", False),
        (BY_NETWORK, "ANYBODY", "::ffff:10.0.0.7", True),  # an IPv4 address as a dual-stack socket returns it
        (BY_NETWORK, "ANYBODY", "::ffff:10.0.1.7", False),
        (BY_BOTH, "PACS", "10.0.0.7", True),
        (BY_BOTH, "PACS", "10.0.1.7", False),
        (BY_BOTH, "CT1", "10.0.0.7", False),
        ((*BY_NAME, *BY_BOTH), "CT1", "10.0.1.7", True),
        ((*BY_NAME, *BY_BOTH), "PACS", "10.0.1.7", False),
    ],
)
def test_a_caller_is_allowed_by_ae_title_by_network_or_by_both(
    callers: tuple[CallerConfig, ...], calling: str, peer: str, allowed: bool
) -> None:
    """One matching entry is enough. All keys of an entry must match. Without entries, all callers are allowed."""
    decision = judge(make_request(calling=calling, peer=peer), configured(*callers), make_load())

    assert (None if allowed else NOT_CALLING) == rejection_of(decision)


def test_each_ae_title_has_its_own_callers() -> None:
    config = configured(caller("CT1"))

    assert NOT_CALLING == rejection_of(judge(make_request(calling="CT2"), config, make_load()))
    assert None is rejection_of(judge(make_request(called="OPEN", calling="CT2"), config, make_load()))


# --- free space -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "watermark_percent", "reserve", "full"),
    [
        (50 * GB, 85, 5 * GB, False),
        (15 * GB + 1, 85, 5 * GB, False),
        (15 * GB, 85, 5 * GB, True),  # 85 % are used
        (5 * GB, 100, 5 * GB, False),
        (5 * GB - 1, 100, 5 * GB, True),
        (0, 100, 0, False),  # both limits are off
        (0, 99, 0, True),
    ],
)
def test_storage_is_full_at_the_watermark_and_below_the_reserve(
    free: int, watermark_percent: int, reserve: int, full: bool
) -> None:
    """The capacity is 100 GB. watermark-percent = 100 and reserve = 0 turn the limits off."""
    storage = StorageConfig(path=Path("data"), watermark_percent=watermark_percent, reserve=reserve)
    capacity = Capacity(total_bytes=100 * GB, free_bytes=free)

    assert full == bool(storage_full(capacity, storage))
    decision = judge(make_request(), configured(storage=storage), make_load(capacity=capacity))
    assert (Rejection.LOCAL_LIMIT_EXCEEDED if full else None) == decision.rejection


def test_the_reason_names_the_setting_that_decides() -> None:
    """The reason has the limit and the current value."""
    by_share = StorageConfig(path=Path("data"), watermark_percent=85, reserve=0)
    by_reserve = StorageConfig(path=Path("data"), watermark_percent=100, reserve=5 * GB)
    capacity = Capacity(total_bytes=100 * GB, free_bytes=4 * GB)

    assert "storage is 96 % full, watermark-percent = 85" == storage_full(capacity, by_share)
    assert "storage has 4000000000 bytes left, reserve = 5000000000" == storage_full(capacity, by_reserve)


def test_storage_of_size_zero_is_full_and_storage_of_unknown_size_is_not() -> None:
    """A size of zero causes no division by zero. Object stores have no known size."""
    storage = StorageConfig(path=Path("data"))

    assert "storage is 100 % full, watermark-percent = 85" == storage_full(
        Capacity(total_bytes=0, free_bytes=0), storage
    )
    assert "" == storage_full(None, storage)


ENOUGH = LEDGER_RESERVE_BYTES + SMALLEST_ASSOCIATION_BYTES


@pytest.mark.parametrize(("free", "full"), [(None, False), (ENOUGH, False), (ENOUGH - 1, True)])
def test_associations_are_rejected_without_free_space_for_the_ledger(free: int | None, full: bool) -> None:
    """The limits of the storage do not matter. None: the free space is unknown, as for a ledger on another machine."""
    decision = judge(make_request(), configured(), evolve(make_load(), space=Space(ledger_free=free)))
    assert (Rejection.LOCAL_LIMIT_EXCEEDED if full else None) == decision.rejection
    assert full == ("the ledger's disk" in decision.reason)


@pytest.mark.parametrize(("size", "full"), [(1 * GB, False), (1 * GB + 1, True)])
def test_the_size_of_the_arriving_instance_counts_against_the_reserve(size: int, full: bool) -> None:
    """The reserve must be free after the instance is stored."""
    storage = StorageConfig(path=Path("data"), watermark_percent=100, reserve=5 * GB)
    assert full == bool(storage_full(Capacity(total_bytes=100 * GB, free_bytes=6 * GB), storage, size))


BY_CERTIFICATE = (caller("CT1", certificate="ct1.example"), caller("CT2"), caller(certificate="gateway.example"))


@pytest.mark.parametrize(
    ("calling", "names", "allowed"),
    [
        ("CT1", ("ct1.example",), True),
        ("CT1", ("The CT", "CT1.Example"), True),  # host names are case-insensitive
        ("CT1", (), False),
        ("CT1", ("ct2.example",), False),
        ("CT1", ("ct1.example.org",), False),
        ("CT2", (), True),
        ("CT2", ("whatever",), True),
        ("PET", ("gateway.example",), True),
        ("PET", ("ct1.example",), False),
    ],
)
def test_a_calling_ae_title_can_require_a_certificate(calling: str, names: tuple[str, ...], allowed: bool) -> None:
    """A caller without the certificate of the entry does not match it.

    Verified to fail when parts of a name are compared.
    """
    decision = judge(make_request("LUNG", calling, "10.0.0.7", *names), configured(*BY_CERTIFICATE), make_load())
    assert (None if allowed else NOT_CALLING) == rejection_of(decision)


def test_the_number_of_associations_from_one_address_is_limited() -> None:
    """Further associations are rejected as transient."""
    config = configured()
    limited = evolve(config, dicom=evolve(config.dicom, max_associations=9, max_associations_per_peer=2))
    assert AssociationDecision() == judge(
        make_request(), limited, evolve(make_load(associations=5), associations_of_peer=1)
    )
    decision = judge(make_request(), limited, evolve(make_load(associations=5), associations_of_peer=2))
    assert AT_ITS_LIMIT == rejection_of(decision)
    assert "max-associations-per-peer = 2 are open from this address" == decision.reason


def test_an_accepted_association_has_the_rules_of_its_ae_title() -> None:
    """The rules determine the accepted presentation contexts."""
    config = configured()
    assert ContextRules() == judge(make_request(), config, make_load()).contexts
    lossless = AeTitleConfig(
        transfer_syntaxes=("1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"),
        unknown_transfer_syntaxes=True,
        ignored_sop_classes=("1.2.840.10008.5.1.4.38.1",),
    )
    config = evolve(config, ae_titles={**config.ae_titles, "LUNG": lossless})
    assert (
        ContextRules(
            transfer_syntaxes=frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"}),
            accepts_unknown_transfer_syntaxes=True,
            ignored_sop_classes=frozenset({"1.2.840.10008.5.1.4.38.1"}),
        )
        == judge(make_request(), config, make_load()).contexts
    )
