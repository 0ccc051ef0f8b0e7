"""Which associations are accepted, and why others are rejected: a table of cases, without network or disk."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
from attrs import evolve

from dicom_adapter import Capacity
from dicom_adapter.api.receiving import AssociationDecision, AssociationRequest, Rejection
from dicom_adapter.config.listening import DicomConfig
from dicom_adapter.config.model import AeTitleConfig, CallerConfig, Config, StorageConfig, SubmitterConfig
from dicom_adapter.flow.association import SMALLEST_ASSOCIATION_BYTES, Load, judge
from dicom_adapter.flow.free_space import LEDGER_RESERVE_BYTES, storage_full
from dicom_adapter.net.codes import REJECT_REASON

GB = 10**9
ROOM = Capacity(total_bytes=100 * GB, free_bytes=50 * GB)

# Result, source and reason of A-ASSOCIATE-RJ, from PS3.8 table 9-21.
NOT_CALLED = (1, 1, 7)  # rejected-permanent, service-user, called AE title not recognized
NOT_CALLING = (1, 1, 3)  # rejected-permanent, service-user, calling AE title not recognized
CONGESTED = (2, 3, 1)  # rejected-transient, service-provider (presentation), temporary congestion
AT_ITS_LIMIT = (2, 3, 2)  # rejected-transient, service-provider (presentation), local limit exceeded


def configured(*callers: CallerConfig, storage: StorageConfig | None = None) -> Config:
    """LUNG takes `callers`, everybody when there are none; OPEN takes everybody."""
    return Config(
        dicom=DicomConfig(max_associations=2),
        storage=storage or StorageConfig(path=Path("data")),
        submitters={"platform": SubmitterConfig(type="memory")},
        ae_titles={"LUNG": AeTitleConfig(allowed_callers=callers or None), "OPEN": AeTitleConfig()},
    )


def asked(called: str = "LUNG", calling: str = "CT1", peer: str = "10.0.0.7", *names: str) -> AssociationRequest:
    """`names`: of the certificate that the caller showed."""
    return AssociationRequest(
        called_ae_title=called, calling_ae_title=calling, peer_address=peer, certificate_names=frozenset(names)
    )


def busy(associations: int = 0, capacity: Capacity | None = ROOM, stopped: Mapping[str, str] | None = None) -> Load:
    return Load(associations=associations, capacity=capacity, stopped=stopped or {}, full={})


def caller(ae_title: str | None = None, host: str | None = None, certificate: str | None = None) -> CallerConfig:
    return CallerConfig(ae_title=ae_title, host=None if host is None else ip_network(host), certificate=certificate)


def told(decision: AssociationDecision) -> tuple[int, int, int] | None:
    """What goes over the network; None: accepted."""
    return None if decision.rejection is None else REJECT_REASON[decision.rejection]


STOPPED = busy(stopped={"LUNG": "its processor failed"})
FULL = Capacity(total_bytes=100 * GB, free_bytes=1)


@pytest.mark.parametrize(
    ("request_", "load", "answer"),
    [
        (asked(), busy(), None),
        (asked(called="KIDNEY"), busy(), NOT_CALLED),
        (asked(called="lung"), busy(), NOT_CALLED),
        (asked(called=""), busy(), NOT_CALLED),
        (asked(called="OPEN", calling=""), busy(), None),
        (asked(calling="PET"), busy(), NOT_CALLING),
        (asked(), STOPPED, CONGESTED),
        (asked(called="OPEN"), STOPPED, None),
        (asked(), busy(associations=1), None),
        (asked(), busy(associations=2), AT_ITS_LIMIT),
        (asked(), busy(capacity=FULL), AT_ITS_LIMIT),
        (asked(), busy(capacity=None), None),
    ],
)
def test_each_rejection_has_the_result_source_and_reason_of_the_standard(
    request_: AssociationRequest, load: Load, answer: tuple[int, int, int] | None
) -> None:
    """PS3.8 table 9-21: permanent when the request is wrong, transient when the adapter has no capacity."""
    assert answer == told(judge(request_, configured(caller("CT1")), load))


def test_every_rejection_says_why() -> None:
    """The log and the operator get a sentence; an acceptance needs none."""
    config = configured(caller("CT1"))
    cases = [asked(called="KIDNEY"), asked(calling="PET"), asked()]
    assert all(judge(request, config, STOPPED).reason for request in cases)
    assert "its processor failed" == judge(asked(), config, STOPPED).reason
    assert "max-associations = 2 are open" == judge(asked(), config, busy(associations=2)).reason
    assert AssociationDecision() == judge(asked(), config, busy())


def test_permanent_reasons_come_before_transient_ones() -> None:
    """Everything is wrong; then one thing after another is fixed, and the next reason is returned.

    Tried: with any two of the checks swapped, this fails.
    """
    config = configured(caller("CT1"))
    everything = busy(associations=9, capacity=FULL, stopped={"LUNG": "its processor failed"})
    told_in_turn = [
        told(judge(asked(called="KIDNEY", calling="PET"), config, everything)),
        told(judge(asked(calling="PET"), config, everything)),
        told(judge(asked(), config, everything)),
    ]
    assert [NOT_CALLED, NOT_CALLING, CONGESTED] == told_in_turn

    many = judge(asked(), config, busy(associations=9, capacity=FULL))
    full = judge(asked(), config, busy(capacity=FULL))
    assert [AT_ITS_LIMIT, AT_ITS_LIMIT] == [told(many), told(full)]
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
        (BY_NETWORK, "ANYBODY", "::ffff:10.0.0.7", True),  # IPv4, as a socket for both shows it
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
    """One entry that fits is enough, and all that an entry says must fit; without entries everybody may send."""
    decision = judge(asked(calling=calling, peer=peer), configured(*callers), busy())

    assert (None if allowed else NOT_CALLING) == told(decision)


def test_callers_of_one_ae_title_say_nothing_of_another() -> None:
    """Each AE title has a list of its own."""
    config = configured(caller("CT1"))

    assert NOT_CALLING == told(judge(asked(calling="CT2"), config, busy()))
    assert None is told(judge(asked(called="OPEN", calling="CT2"), config, busy()))


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "watermark_percent", "reserve", "full"),
    [
        (50 * GB, 85, 5 * GB, False),
        (15 * GB + 1, 85, 5 * GB, False),
        (15 * GB, 85, 5 * GB, True),  # 85 % are used
        (5 * GB, 100, 5 * GB, False),
        (5 * GB - 1, 100, 5 * GB, True),
        (0, 100, 0, False),  # both limits are switched off
        (0, 99, 0, True),
    ],
)
def test_storage_is_full_at_the_watermark_and_below_the_reserve(
    free: int, watermark_percent: int, reserve: int, full: bool
) -> None:
    """Of 100 GB; watermark-percent = 100 and reserve = 0 are no limits."""
    storage = StorageConfig(path=Path("data"), watermark_percent=watermark_percent, reserve=reserve)
    capacity = Capacity(total_bytes=100 * GB, free_bytes=free)

    assert full == bool(storage_full(capacity, storage))
    decision = judge(asked(), configured(storage=storage), busy(capacity=capacity))
    assert (Rejection.LOCAL_LIMIT_EXCEEDED if full else None) == decision.rejection


def test_the_reason_names_the_setting_that_decides() -> None:
    """An operator sees which limit was reached, and how far."""
    by_share = StorageConfig(path=Path("data"), watermark_percent=85, reserve=0)
    by_room = StorageConfig(path=Path("data"), watermark_percent=100, reserve=5 * GB)
    capacity = Capacity(total_bytes=100 * GB, free_bytes=4 * GB)

    assert "storage is 96 % full, watermark-percent = 85" == storage_full(capacity, by_share)
    assert "storage has 4000000000 bytes left, reserve = 5000000000" == storage_full(capacity, by_room)


def test_a_storage_without_any_room_is_full_and_one_without_known_limit_is_not() -> None:
    """An empty file system is no division by zero; object stores know no limit."""
    storage = StorageConfig(path=Path("data"))

    assert "storage is 100 % full, watermark-percent = 85" == storage_full(
        Capacity(total_bytes=0, free_bytes=0), storage
    )
    assert "" == storage_full(None, storage)


ENOUGH = LEDGER_RESERVE_BYTES + SMALLEST_ASSOCIATION_BYTES


@pytest.mark.parametrize(("free", "full"), [(None, False), (ENOUGH, False), (ENOUGH - 1, True)])
def test_nothing_is_taken_without_room_for_the_rows_that_will_tell_of_it(free: int | None, full: bool) -> None:
    """Whatever the limits of the storage are; a ledger that lies elsewhere looks after itself."""
    decision = judge(asked(), configured(), evolve(busy(), ledger_free=free))
    assert (Rejection.LOCAL_LIMIT_EXCEEDED if full else None) == decision.rejection
    assert full == ("the ledger's disk" in decision.reason)


@pytest.mark.parametrize(("size", "full"), [(1 * GB, False), (1 * GB + 1, True)])
def test_what_arrives_counts_against_the_reserve(size: int, full: bool) -> None:
    """It must be free afterwards too."""
    storage = StorageConfig(path=Path("data"), watermark_percent=100, reserve=5 * GB)
    assert full == bool(storage_full(Capacity(total_bytes=100 * GB, free_bytes=6 * GB), storage, size))


BY_CERTIFICATE = (caller("CT1", certificate="ct1.example"), caller("CT2"), caller(certificate="gateway.example"))


@pytest.mark.parametrize(
    ("calling", "names", "allowed"),
    [
        ("CT1", ("ct1.example",), True),
        ("CT1", ("The CT", "CT1.Example"), True),  # names of hosts have no case
        ("CT1", (), False),
        ("CT1", ("ct2.example",), False),
        ("CT1", ("ct1.example.org",), False),
        ("CT2", (), True),
        ("CT2", ("whatever",), True),
        ("PET", ("gateway.example",), True),
        ("PET", ("ct1.example",), False),
    ],
)
def test_a_certificate_may_be_bound_to_the_calling_ae_title(
    calling: str, names: tuple[str, ...], allowed: bool
) -> None:
    """Who has not shown the certificate that an entry demands is not that caller.

    Tried: comparing with any part of a name, this fails.
    """
    decision = judge(asked("LUNG", calling, "10.0.0.7", *names), configured(*BY_CERTIFICATE), busy())
    assert (None if allowed else NOT_CALLING) == told(decision)


def test_a_peer_has_a_limit_of_its_own() -> None:
    """Rejected as transient, as soon as so many are open from its address."""
    config = configured()
    limited = evolve(config, dicom=evolve(config.dicom, max_associations=9, max_associations_per_peer=2))
    assert AssociationDecision() == judge(asked(), limited, evolve(busy(associations=5), associations_of_peer=1))
    decision = judge(asked(), limited, evolve(busy(associations=5), associations_of_peer=2))
    assert AT_ITS_LIMIT == told(decision)
    assert "max-associations-per-peer = 2 are open from this address" == decision.reason
