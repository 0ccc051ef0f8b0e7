"""A job's metadata within the platform's limits. Pure functions.

The platform compares keys ignoring case, and refuses a whole request that has a key twice or one that is there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dicom_adapter import Job, Permanent

KEY_BYTES = 128  # in UTF-8, like all sizes here
VALUE_BYTES = 256
TOTAL_BYTES = 4_000_000  # documented as "4 MB": the smaller of its two meanings
RESERVED_BYTES = 1_000  # of these for what `metadata_of_creation` has
REQUEST_BYTES = 1 << 20  # of keys and values in one request: a quarter of the longest message that gRPC takes

# Carries the adapter's id of a job from the moment it is created, so that a creation whose answer was lost is found
# again. A processor cannot use this key: what it gives for it is left out.
IDEMPOTENCY_KEY = "dicom-adapter-job"
SOURCE_KEY = "Source"  # what NVIDIA's own adapter sends when it creates a job: who it is from


def fitting_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata within the platform's limits: texts that are too long are cut, on the boundary of a character.

    Keys that are the same to the platform afterwards are told apart: `key`, `key-2`, `key-3`. The same metadata gives
    the same result, in whatever order it is. Raises Permanent when it is too much altogether.
    """
    fitting: dict[str, str] = {}
    taken = {IDEMPOTENCY_KEY}
    for key, value in sorted(metadata.items()):
        if key.lower() == IDEMPOTENCY_KEY:
            continue
        name = _untaken(key, taken)
        taken.add(name.lower())
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
    return {**source, IDEMPOTENCY_KEY: job.job_id}


def is_of_job(metadata: Mapping[str, str], job: Job) -> bool:
    """Return whether a platform job with this metadata was created for `job`."""
    return any(key.lower() == IDEMPOTENCY_KEY and value == job.job_id for key, value in metadata.items())


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


def _untaken(key: str, taken: set[str]) -> str:
    name = cut(key, KEY_BYTES)
    number = 2
    while name.lower() in taken:
        ending = f"-{number}"
        name = cut(key, KEY_BYTES - len(ending)) + ending
        number += 1
    return name


def _size(item: tuple[str, str]) -> int:
    return sum(len(text.encode("utf-8")) for text in item)
