"""The limit of file descriptors. The tests change it in a child process, not in the test process."""

from __future__ import annotations

import resource
import subprocess
import sys

from dicom_adapter.runtime.descriptors import MAX_DESCRIPTORS

PROGRAM = """
import resource, subprocess, sys
from dicom_adapter.runtime.descriptors import max_descriptors, raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(raise_descriptor_limit(), max_descriptors(), flush=True)
child = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def limits_after_raising(soft: int, hard: int) -> list[int]:
    """Return the results of `raise_descriptor_limit` and `max_descriptors`, then a child's soft and hard limit."""
    program = PROGRAM.format(soft=soft, hard=hard)
    output = subprocess.check_output([sys.executable, "-c", program], text=True)
    return [int(word) for word in output.split()]


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one() -> None:
    """Child processes inherit it.

    Verified to fail when the limit is not set.
    """
    assert [300, 300, 300, 300] == limits_after_raising(soft=100, hard=300)


def test_a_limit_that_is_high_enough_is_kept() -> None:
    assert [300, 300, 300, 300] == limits_after_raising(soft=300, hard=300)


def test_a_very_high_hard_limit_is_not_used_completely() -> None:
    """Some libraries allocate memory for each possible descriptor."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    assert [expected, expected, expected, hard] == limits_after_raising(soft=100, hard=hard)
