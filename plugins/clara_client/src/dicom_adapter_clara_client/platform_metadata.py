"""Fit a job's metadata into the platform's limits. Pure functions.

The platform compares keys without case. It refuses a whole request if one of its keys is repeated or already present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dicom_adapter import Job, Permanent

KEY_BYTES = 128  # in UTF-8, like all sizes here
VALUE_BYTES = 256
TOTAL_BYTES = 4_000_000  # documented as "4 MB"; the smaller of the two possible meanings
RESERVED_BYTES = 1_000  # part of the total, reserved for `metadata_of_creation`
REQUEST_BYTES = 1 << 20  # keys and values in one request: a quarter of gRPC's largest message

# The value of this key is `Job.run_id`: the adapter's job id, and the number of a further run. It is sent with the
# creation, so that the job can be found if the response was lost. Processors cannot use this key: its value is dropped.
IDEMPOTENCY_KEY = "dicom-adapter-job"
SOURCE_KEY = "Source"  # the sender; NVIDIA's own adapter sends it with the creation of a job


def fitting_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata within the platform's limits; longer texts are truncated on a character boundary.

    Keys that are equal after the truncation, without case, get a number: `key`, `key-2`, `key-3`. The result does not
    depend on the order of the metadata. Raises Permanent if the total is too large.
    """
    fitting: dict[str, str] = {}
    used = {IDEMPOTENCY_KEY}
    for key, value in sorted(metadata.items()):
        if key.lower() == IDEMPOTENCY_KEY:
            continue
        name = _unique_key(key, used)
        used.add(name.lower())
        fitting[name] = cut(value, VALUE_BYTES)
    size = sum(map(_size, fitting.items()))
    if size > TOTAL_BYTES - RESERVED_BYTES:
        most = TOTAL_BYTES - RESERVED_BYTES
        raise Permanent(f"the job's metadata has {size} bytes, must be at most {most}: list fewer DICOM attributes")
    return fitting


def metadata_of_creation(job: Job) -> dict[str, str]:
    """Return the metadata of the creation: the idempotency key and the source."""
    fitting = fitting_metadata(job.metadata)
    source = {key: value for key, value in fitting.items() if key.lower() == SOURCE_KEY.lower()}
    return {**source, IDEMPOTENCY_KEY: job.run_id}


def is_of_job(metadata: Mapping[str, str], job: Job) -> bool:
    """Return whether a platform job with this metadata was created for this run of `job`."""
    return any(key.lower() == IDEMPOTENCY_KEY and value == job.run_id for key, value in metadata.items())


def missing_metadata(wanted: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of `wanted` that the platform lacks. Present values cannot be changed."""
    known = {key.lower() for key in present}
    return {key: value for key, value in wanted.items() if key.lower() not in known}


def in_requests(metadata: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Split metadata into portions that fit into one request each."""
    portion: dict[str, str] = {}
    size = 0
    for item in metadata.items():
        if portion and size + _size(item) > REQUEST_BYTES:
            yield portion
            portion, size = {}, 0
        portion[item[0]] = item[1]
        size += _size(item)
    if portion:
        yield portion


def cut(text: str, most_bytes: int) -> str:
    """Truncate text to a number of UTF-8 bytes on a character boundary."""
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


def _unique_key(key: str, used: set[str]) -> str:
    name = cut(key, KEY_BYTES)
    number = 2
    while name.lower() in used:
        ending = f"-{number}"
        name = cut(key, KEY_BYTES - len(ending)) + ending
        number += 1
    return name


def _size(item: tuple[str, str]) -> int:
    return sum(len(text.encode("utf-8")) for text in item)
