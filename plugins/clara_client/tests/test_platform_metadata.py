"""A job's metadata within the platform's limits, and its missing entries."""

from __future__ import annotations

from datetime import datetime, timezone
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import Job, JobPriority, Permanent
from dicom_adapter_clara_client.emulator.rules import with_metadata
from dicom_adapter_clara_client.platform_metadata import (
    IDEMPOTENCY_KEY,
    REQUEST_BYTES,
    cut,
    fitting_metadata,
    in_requests,
    is_of_job,
    metadata_of_creation,
    missing_metadata,
)
from dicom_adapter_clara_client.wire.codes import ClaraCode

# Few different characters, so that keys collide; long texts, so that they are truncated; multi-byte characters.
TEXTS = st.text("aAäÄ-2ß€\ud800😀", max_size=4) | st.text("aAé", min_size=100, max_size=300)


def a_job(**metadata: str) -> Job:
    now = datetime(2024, 5, 1, tzinfo=timezone.utc)
    return Job(
        job_id=32 * "1",
        name="LUNG",
        ae_title="LUNG",
        pipeline_id=32 * "a",
        priority=JobPriority.NORMAL,
        submitter="clara",
        instance_count=1,
        metadata=metadata,
        created_at=now,
        changed_at=now,
    )


def test_short_metadata_is_not_changed() -> None:
    """Metadata within the limits is sent unchanged."""
    assert {"Source": "LUNG", "00100010": "Müller^Änne"} == fitting_metadata(
        {"Source": "LUNG", "00100010": "Müller^Änne"}
    )


def test_values_are_truncated_by_bytes_between_characters() -> None:
    """The limit is 256 bytes of UTF-8, not 256 characters; no character is split."""
    assert {"key": 85 * "€"} == fitting_metadata({"key": 100 * "€"})


def test_truncated_keys_are_unique() -> None:
    """Two long keys with the same beginning both keep their values."""
    expected = {128 * "k": "1", 126 * "k" + "-2": "2"}
    assert expected == fitting_metadata({129 * "k" + "a": "1", 129 * "k" + "b": "2"})


def test_keys_that_differ_only_in_case_get_different_names() -> None:
    """The platform compares keys without case and would refuse both."""
    assert {"Age": "1", "age-2": "2"} == fitting_metadata({"age": "2", "Age": "1"})


def test_surrogates_are_replaced() -> None:
    """UTF-8 cannot encode surrogates, so the whole request would fail."""
    assert {"key": "a?b"} == fitting_metadata({"key": "a\ud800b"})


@given(st.dictionaries(TEXTS, TEXTS), st.randoms(use_true_random=False))
def test_any_metadata_of_a_processor_is_accepted_by_the_platform(metadata: dict[str, str], random: Random) -> None:
    """No entry is refused or lost. The result does not depend on the order of the keys."""
    fitting = fitting_metadata(metadata)
    assert len(metadata) == len(with_metadata({}, fitting.items(), ClaraCode.JOB_METADATA_REFUSED))
    shuffled = random.sample(sorted(metadata.items()), len(metadata))
    assert fitting == fitting_metadata(dict(shuffled))


def test_too_much_metadata_is_a_permanent_error() -> None:
    """The platform accepts 4 MB for a job; a retry could not succeed."""
    with pytest.raises(Permanent, match=r"has 4\d{6} bytes, must be at most 3999000: list fewer DICOM attributes"):
        fitting_metadata({f"{number:0128}": 256 * "v" for number in range(11_000)})


def test_a_job_is_created_with_its_source_and_the_idempotency_key() -> None:
    """All other metadata is added later."""
    job = a_job(Source="LUNG (AE Title Job Processor)", Instances="2")
    expected = {"Source": "LUNG (AE Title Job Processor)", IDEMPOTENCY_KEY: 32 * "1"}
    assert expected == metadata_of_creation(job)


@pytest.mark.parametrize("key", [IDEMPOTENCY_KEY, IDEMPOTENCY_KEY.upper()])
def test_a_processor_cannot_pretend_to_be_another_job(key: str) -> None:
    """A processor's value for the idempotency key is dropped, whatever the case of the key."""
    job = a_job(**{key: 32 * "2"})
    assert {IDEMPOTENCY_KEY: 32 * "1"} == metadata_of_creation(job)
    assert {} == fitting_metadata(job.metadata)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({IDEMPOTENCY_KEY: 32 * "1"}, True),
        ({"Source": "LUNG", IDEMPOTENCY_KEY.title(): 32 * "1"}, True),
        ({IDEMPOTENCY_KEY: 32 * "2"}, False),
        ({"Source": 32 * "1"}, False),
        ({}, False),
    ],
)
def test_a_job_is_identified_by_the_idempotency_key(metadata: dict[str, str], expected: bool) -> None:
    """The platform may change the case of keys, but not the values."""
    assert expected is is_of_job(metadata, a_job())


def test_only_missing_entries_are_sent() -> None:
    """Keys are compared without case, as on the platform."""
    assert {"c": "3"} == missing_metadata({"a": "1", "B": "2", "c": "3"}, {"A": "other", "b": "2"})


def test_small_metadata_is_one_request() -> None:
    """Without metadata there is no request."""
    assert [{"a": "1", "b": "2"}] == list(in_requests({"a": "1", "b": "2"}))
    assert [] == list(in_requests({}))


def test_large_metadata_is_split_into_several_requests() -> None:
    """Each request is far below gRPC's limit for a message; together they contain all entries."""
    metadata = {f"{number:0128}": 256 * "v" for number in range(9_000)}
    portions = list(in_requests(metadata))
    assert 4 == len(portions)
    assert max(sum(len(key + value) for key, value in portion.items()) for portion in portions) <= REQUEST_BYTES
    assert metadata == {key: value for portion in portions for key, value in portion.items()}


@pytest.mark.parametrize(("most", "expected"), [(0, ""), (1, "a"), (2, "a"), (3, "a"), (4, "a€"), (9, "a€b")])
def test_a_text_is_truncated_on_a_character_boundary(most: int, expected: str) -> None:
    """The result never contains a part of a character."""
    assert expected == cut("a€b", most)
