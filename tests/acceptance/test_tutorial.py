"""Pages of the documentation, followed literally, without any other knowledge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import DOCS, blocks_of
from support.template import generate
from support.walkthrough import Walkthrough

pytestmark = pytest.mark.slow

TUTORIAL = DOCS / "tutorial" / "first-processor.md"
PUBLISHING = DOCS / "how-to" / "publishing.md"


@pytest.fixture
def walkthrough(tmp_path: Path) -> Iterator[Walkthrough]:
    """An empty folder next to a checkout, and an environment in which the adapter is installed."""
    made = Walkthrough(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(600)  # runs the plugin's suite twice, on a busy machine
def test_the_tutorial_leads_to_a_working_processor(walkthrough: Walkthrough) -> None:
    """Every file is written and every command is run, in order. The imaging order with two studies becomes one job.

    Verified to fail when the tutorial does not have the line that cancels the timer.
    """
    steps = [block for block in blocks_of(TUTORIAL) if "tutorial" in block.info.split()]
    assert len(blocks_of(TUTORIAL)) == len(steps), "a block of the tutorial is not followed"
    outputs = [walkthrough.follow(step) for step in steps]
    assert "by-accession" in walkthrough.output
    assert "ORDERS-lung-" in outputs[-1]
    assert "LUNG-lung-" not in outputs[-1]
    assert 12 == outputs[-1].count(".dcm")


@pytest.mark.timeout(600)
def test_a_plugin_can_be_published_as_the_page_describes(walkthrough: Walkthrough) -> None:
    """A generated distribution is built, installed, and listed by the adapter."""
    folder = generate(walkthrough.folder, "observer", "Observed")
    walkthrough.type(f"cd {folder}")
    steps = [block for block in blocks_of(PUBLISHING) if block.info == "sh publish"]
    outputs = [walkthrough.follow(step) for step in steps]
    assert ["dicom_adapter_observed-0.1.0-py3-none-any.whl", "dicom_adapter_observed-0.1.0.tar.gz"] == sorted(
        path.name for path in (folder / "dist").iterdir()
    )
    assert "dicom-adapter-observed" in outputs[-1]
